import { Lru } from '../lib/lru.ts';
import type { News } from '../lib/news.ts';
import type { Credential } from '../oci/credential.ts';
import { OciError } from '../oci/errors.ts';
import { networkOf } from '../oci/requester.ts';
import { isIssuedPassword } from '../tenants/issuer.ts';
import type { Tenants } from '../tenants/tenant.ts';
import { type Authorization, parseAuthorization } from './authorization.ts';
import type { Identification } from './identification.ts';
import type { Identity } from './identity.ts';
import { type Proved, RecentProofs } from './recent-proofs.ts';
import type { TokenClaims, Tokens } from './tokens.ts';
import type { Sender } from './subject.ts';
import { claimedAccount } from './tokens.ts';
import { type Attempt, FailedLogins, type LoginNews } from './failed-logins.ts';

/**
 * A Kubernetes ServiceAccount whose token was verified: its signature, issuer and audience, and that the account
 * exists.
 */
export interface ServiceAccount {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

/** The ServiceAccounts of a cluster. */
export interface ServiceAccounts {
  /** The account that a token belongs to; `undefined` if the token is not valid here. */
  verify(token: string): Promise<ServiceAccount | undefined>;
  /** Whether the namespace currently has an account with this UID. */
  has(namespace: string, uid: string): boolean;
  /**
   * Calls `listener` when accounts, or the keys of their tokens, have changed: a token that was refused may now be
   * valid.
   */
  onChange(listener: () => void): void;
}

export interface AuthenticatorOptions {
  readonly tenants: Tenants;
  readonly identification: Identification;
  readonly tokens: Tokens;
  /** The credential of a user name and password, with its id in this store. */
  readonly nameCredential: (username: string, password: string) => Credential;
  /** As in `AccessOptions`. */
  readonly serviceAccounts: ServiceAccounts | undefined;
  /** As in `AccessOptions`. */
  readonly unknownCredentials: 'refuse' | 'verify';
  /** As in `AccessOptions`. */
  readonly loginNews?: News<LoginNews> | undefined;
}

/**
 * Passwords are kept as long as a token lives (5 min), so that upstream can be asked with them when a token is used.
 */
const MAX_PRESENTED = 20_000;
const PRESENTED_MS = 300_000;

/**
 * How long a verified ServiceAccount token is accepted without another check, even if it expires meanwhile. A token of
 * a deleted account is not.
 */
const ACCOUNT_MS = 10_000;

/** How long a refused token is not checked again, unless accounts change: each check costs a signature verification. */
const REFUSED_TOKEN_MS = 1_000;

/** Prefix of the UID in an account's id. */
const ACCOUNT = 'account:';

/** Suffix of a source under which its tokens are counted, apart from its passwords. */
const TOKENS = 'tokens';

interface Presented {
  readonly source: string;
  readonly credential: Credential;
  /** Whether the credential was accepted from this source before. */
  readonly wasRight: boolean;
  readonly isLogin: boolean;
}

type AccountIdentity = Extract<Identity, { readonly kind: 'account' }>;

const NOTHING: Identity = { kind: 'anonymous' };

/** A JWT, as Kubernetes issues them. Never sent to an upstream. */
const JWT = /^eyJ[\w-]+\.[\w-]+\.[\w-]*$/;

/**
 * Finds out what a request proves about its sender. What that is worth is decided for each repository, by
 * Identification.
 */
export class Authenticator {
  readonly #options: AuthenticatorOptions;
  readonly #failedLogins: FailedLogins;
  readonly #recent = new RecentProofs();
  readonly #presented = new Lru<Credential>({ maxEntries: MAX_PRESENTED, maxAgeMs: PRESENTED_MS });
  /** Credentials by what was sent, since computing an id costs a third of all that is decided about a request. */
  readonly #named = new Lru<Credential>({ maxEntries: MAX_PRESENTED, maxAgeMs: PRESENTED_MS });
  readonly #accounts = new Lru<AccountIdentity>({ maxEntries: MAX_PRESENTED, maxAgeMs: ACCOUNT_MS });
  /** Refused tokens. Not by source, since nobody can guess a signature. */
  readonly #refusedTokens = new Lru<object>({ maxEntries: MAX_PRESENTED, maxAgeMs: REFUSED_TOKEN_MS });
  /** Counts changes of accounts, so that a check that began before a change is not remembered. */
  #accountChanges = 0;

  constructor(options: AuthenticatorOptions) {
    this.#options = options;
    this.#failedLogins = new FailedLogins(Date.now, options.loginNews);
    const accountsChanged = () => {
      this.#accountChanges += 1;
      this.#refusedTokens.clear();
      this.#recent.clear();
    };
    options.serviceAccounts?.onChange(accountsChanged);
    options.tenants.onChange(() => {
      this.#failedLogins.clear();
      this.#accounts.clear();
      accountsChanged();
    });
  }

  /** Whether somebody can log in. */
  get isOpen(): boolean {
    return !this.#options.tenants.isEmpty || this.#options.unknownCredentials === 'verify';
  }

  /**
   * As `isOpen`, for a request with `sent`, which may be the first login of all, issued a moment ago by another
   * process.
   */
  async opensTo(sent: Authorization | undefined): Promise<boolean> {
    if (!this.isOpen && sent?.scheme === 'basic' && isIssuedPassword(sent.password)) {
      await this.#options.tenants.catchUp();
    }
    return this.isOpen;
  }

  /** What the Authorization header of a request proves. */
  prove(sender: Sender): Identity | Promise<Identity> {
    if (sender.authorization === undefined) return NOTHING;
    const proved = this.#recent.find(sender);
    return proved !== undefined && this.#isStillTrue(proved) ? proved.identity : this.#prove(sender);
  }

  #isStillTrue({ identity, token }: Proved): boolean {
    if (token !== undefined && !this.#options.tokens.isValid(token)) return false;
    return identity.kind !== 'account' || this.#isAccount(identity);
  }

  async #prove(sender: Sender): Promise<Identity> {
    const keep = this.#recent.keeper(sender);
    const authorization = parseAuthorization(sender.authorization);
    if (authorization === undefined) return NOTHING;
    if (!this.isOpen && !(await this.opensTo(authorization))) return NOTHING;
    const { identity, token } =
      authorization.scheme === 'basic'
        ? { identity: await this.identify(sender, authorization), token: undefined }
        : await this.#bearer(sender, authorization.token);
    if (isLasting({ identity, token })) keep({ identity, token });
    return identity;
  }

  /** What a user name and password prove. If either is empty, nothing: skopeo sends a bare colon by itself. */
  async identify(
    sender: Sender,
    { username, password }: Extract<Authorization, { readonly scheme: 'basic' }>,
    isLogin = false,
  ): Promise<Identity> {
    if (username === '' || password === '') return { kind: 'anonymous' };
    // As in nameCredential: the length keeps 'a' + 'bc' and 'ab' + 'c' apart.
    const sent = `${username.length}:${username}${password}`;
    const named = this.#named.get(sent);
    const credential = named ?? this.#options.nameCredential(username, password);
    const source = networkOf(sender.remote);
    const wasRight = this.#failedLogins.wasRight(source, credential.id);
    if (!(await this.#isKnown(credential))) {
      return this.#notHeld(sender, { source, credential, wasRight, isLogin });
    }
    if (!wasRight) {
      const attempt = { source, username, credentialId: credential.id };
      if (!this.#failedLogins.mayTry(attempt)) return limited(sender, this.#failedLogins.retryAfterS(source));
      this.#failedLogins.noteRight(source, credential.id);
    }
    // Only credentials that are known here: clients can invent any number of others.
    if (named === undefined) this.#named.set(sent, credential);
    this.#presented.set(credential.id, credential);
    return { kind: 'credential', id: credential.id };
  }

  /**
   * Whether some tenant, the node or the configuration has the credential. If it was issued here a moment ago by
   * another process, it is found by asking the store.
   */
  async #isKnown({ id, password }: Credential): Promise<boolean> {
    const { identification, tenants } = this.#options;
    if (identification.isKnown(id)) return true;
    if (!isIssuedPassword(password)) return false;
    await tenants.catchUp();
    return identification.isKnown(id);
  }

  /** For a credential in no tenant's Secrets: it may be tried upstream, be a ServiceAccount token, or be wrong. */
  async #notHeld(sender: Sender, { source, credential, wasRight, isLogin }: Presented): Promise<Identity> {
    const { username, password, id: credentialId } = credential;
    if (JWT.test(password)) return this.#token(sender, source, credential);
    const attempt = { source, username, credentialId };
    const isOurs = this.#options.tenants.find(username) !== undefined;
    const goesUpstream = !isOurs && this.#mayTryUpstream(sender, isLogin);
    if (!goesUpstream && this.#failedLogins.has(attempt)) return wrongHere(sender);
    const mayTry = (goesUpstream && wasRight) || this.#failedLogins.mayTry(attempt);
    if (!mayTry) return limited(sender, this.#failedLogins.retryAfterS(source));
    if (goesUpstream) return this.#unknown(attempt, credential);
    this.#failedLogins.add(attempt);
    return wrongHere(sender);
  }

  /**
   * Tokens are counted apart from passwords: nobody can guess a signature, so invalid ones only cost time. Those of an
   * account that logged in from this source before are always checked, since it gets a new token every hour.
   */
  async #token(sender: Sender, source: string, credential: Credential): Promise<Identity> {
    const attempt = { source: `${source} ${TOKENS}`, username: undefined, credentialId: credential.id };
    const wasRight = () =>
      this.#failedLogins.wasRight(source, `${ACCOUNT}${claimedAccount(credential.password) ?? ''}`);
    if (!this.#failedLogins.mayTry(attempt) && !wasRight()) {
      return limited(sender, this.#failedLogins.retryAfterS(attempt.source));
    }
    const account = await this.#account(credential);
    if (account === undefined) {
      this.#failedLogins.count(attempt);
      return wrongHere(sender);
    }
    if (!this.#failedLogins.wasRight(source, account.id)) this.#failedLogins.noteRight(source, account.id);
    return account;
  }

  /**
   * Reports that upstream has accepted the credential: from the source that sent it last, it no longer counts as a
   * guess.
   */
  noteGranted(credentialId: string): void {
    this.#failedLogins.noteGranted(credentialId);
  }

  /** The credential with its password, if it was presented within the life of a token. */
  recall(credentialId: string): Credential | undefined {
    return this.#presented.get(credentialId);
  }

  /**
   * Whether an unknown credential may be tried upstream. At a login it is not known yet for what; the token is accepted
   * only for requests that may.
   */
  #mayTryUpstream({ byNamespace, byHostAlias, upstreamListener }: Sender, isLogin: boolean): boolean {
    if (this.#options.unknownCredentials === 'refuse') return false;
    return byNamespace || byHostAlias || (isLogin && upstreamListener === undefined);
  }

  #unknown(attempt: Attempt, credential: Credential): Identity {
    this.#failedLogins.addTried(attempt);
    return { kind: 'unknown', credential };
  }

  async #account(credential: Credential): Promise<AccountIdentity | undefined> {
    const known = this.#accounts.get(credential.id);
    if (known !== undefined && this.#isAccount(known)) return known;
    if (this.#refusedTokens.get(credential.id) !== undefined) return undefined;
    const changes = this.#accountChanges;
    const account = await this.#options.serviceAccounts?.verify(credential.password);
    if (account === undefined || !this.#isTenant(account.namespace)) {
      if (changes === this.#accountChanges) this.#refusedTokens.set(credential.id, {});
      return undefined;
    }
    const identity: AccountIdentity = {
      kind: 'account',
      id: ACCOUNT + account.uid,
      tenant: account.namespace,
    };
    this.#accounts.set(credential.id, identity);
    return identity;
  }

  #isAccount({ id, tenant }: { readonly id: string; readonly tenant: string }): boolean {
    const isThere = this.#options.serviceAccounts?.has(tenant, id.slice(ACCOUNT.length)) === true;
    return isThere && this.#isTenant(tenant);
  }

  #isTenant(name: string): boolean {
    const tenant = this.#options.tenants.find(name);
    return tenant !== undefined && tenant.suspended === undefined;
  }

  async #bearer(sender: Sender, text: string): Promise<Proved> {
    const token = await this.#options.tokens.verify(text);
    if (token === undefined) return { identity: { kind: 'void' }, token };
    const { claims } = token;
    return { identity: { ...this.#claimed(sender, claims), scopes: claims.access }, token };
  }

  /** The identity in one of our tokens, if it still exists: when a Secret is removed, its tokens end. */
  #claimed(sender: Sender, { kind, credentialId, tenant, login }: TokenClaims): Identity {
    switch (kind) {
      case 'anonymous':
        return { kind: 'anonymous' };
      case 'account':
        return tenant !== undefined && this.#isAccount({ id: credentialId, tenant })
          ? { kind: 'account', id: credentialId, tenant }
          : { kind: 'void' };
      case 'credential':
        return this.#options.identification.isKnown(credentialId)
          ? { kind: 'credential', id: credentialId, tenant }
          : { kind: 'void' };
      case 'unknown':
        break;
    }
    return login !== undefined && this.#mayTryUpstream(sender, false)
      ? { kind: 'unknown', credential: { ...login, id: credentialId } }
      : { kind: 'void' };
  }
}

/**
 * Whether a proof is good for the next requests of its connection, until tenants or accounts change or its token expires. All
 * else is to be checked, or counted, each time.
 */
function isLasting({ identity: { kind }, token }: Proved): boolean {
  return kind === 'credential' || (token !== undefined && (kind === 'account' || kind === 'anonymous'));
}

/**
 * On a port that belongs to one upstream, Docker sends its login for Docker Hub unasked, so an unknown one counts as
 * anonymous.
 */
function wrongHere({ upstreamListener }: Sender): Identity {
  return upstreamListener === undefined ? { kind: 'wrong' } : { kind: 'anonymous' };
}

/** Neither accepts nor refuses the credential: anonymous if the client was not asked to log in, otherwise 429. */
function limited({ upstreamListener }: Sender, retryAfterS: number): Identity {
  if (upstreamListener !== undefined) return { kind: 'anonymous' };
  throw new OciError('TOOMANYREQUESTS', {
    message: 'too many failed logins from this address',
    headers: { 'Retry-After': String(retryAfterS) },
  });
}
