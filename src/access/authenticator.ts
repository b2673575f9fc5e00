import { Lru } from '../lib/lru.ts';
import type { Credential } from '../oci/credential.ts';
import { OciError } from '../oci/errors.ts';
import { isIssuedPassword } from '../tenants/issuer.ts';
import type { Tenants } from '../tenants/tenant.ts';
import { type Authorization, parseAuthorization } from './authorization.ts';
import type { Identification } from './identification.ts';
import type { Identity, Proven } from './identity.ts';
import type { TokenClaims, Tokens } from './tokens.ts';
import type { Sender } from './subject.ts';
import { claimedAccount } from './tokens.ts';
import { type Attempt, sourceOf, FailedLogins } from './failed-logins.ts';

/** A Kubernetes service account whose token was verified: signature, issuer, audience, and that it still is. */
export interface ServiceAccount {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

/** The accounts of a cluster. */
export interface ServiceAccounts {
  /** Whose token it is; `undefined` for one that is not good here. */
  verify(token: string): Promise<ServiceAccount | undefined>;
  /** Whether the namespace has an account of that UID now. */
  has(namespace: string, uid: string): boolean;
  /** Accounts, or the keys of their tokens, are others than before: what was not good may be now. */
  onChange(listener: () => void): void;
}

export interface AuthenticatorOptions {
  readonly tenants: Tenants;
  readonly identification: Identification;
  readonly tokens: Tokens;
  /** Names a credential under the store's own key. */
  readonly nameCredential: (username: string, password: string) => Credential;
  readonly serviceAccounts: ServiceAccounts | undefined;
  readonly unknownCredentials: 'refuse' | 'verify';
}

/** Passwords behind the tokens that are out, so that upstream can be asked with them; 5 min is a token's life. */
const MAX_PRESENTED = 20_000;
const PRESENTED_MS = 300_000;

/** A verified service-account token is believed for so long past its end. That of a deleted account is not. */
const ACCOUNT_MS = 10_000;

/** A token that is good for nobody is not looked at again for so long, unless something changes: a look costs a signature. */
const REFUSED_TOKEN_MS = 1_000;

/** Before the UID in an account's id. */
const ACCOUNT = 'account:';

/** Behind a source whose tokens are counted, and not its passwords. */
const TOKENS = 'tokens';

interface Presented {
  readonly source: string;
  readonly credential: Credential;
  /** From that source, before. */
  readonly wasRight: boolean;
  readonly isLogin: boolean;
}

type AccountIdentity = Extract<Identity, { readonly kind: 'account' }>;

const NOTHING: Proven = { identity: { kind: 'anonymous' }, scopes: undefined };

/** Kubernetes' tokens are JWTs: never to be shown to an upstream. */
const JWT = /^eyJ[\w-]+\.[\w-]+\.[\w-]*$/;

/** Finds out what a client proved by what it sent; what that is worth is settled where a repository is named. */
export class Authenticator {
  readonly #options: AuthenticatorOptions;
  readonly #failedLogins = new FailedLogins();
  readonly #presented = new Lru<Credential>({ maxEntries: MAX_PRESENTED, maxAgeMs: PRESENTED_MS });
  /** Where credentials came from that only upstream can judge. */
  readonly #triedFrom = new Lru<Attempt>({ maxEntries: MAX_PRESENTED, maxAgeMs: PRESENTED_MS });
  /** By what was sent: naming a credential costs a third of all that is decided about a request. */
  readonly #named = new Lru<Credential>({ maxEntries: MAX_PRESENTED, maxAgeMs: PRESENTED_MS });
  readonly #accounts = new Lru<AccountIdentity>({ maxEntries: MAX_PRESENTED, maxAgeMs: ACCOUNT_MS });
  /** Nobody guesses a signature, so that sources are not told apart. */
  readonly #refusedTokens = new Lru<object>({ maxEntries: MAX_PRESENTED, maxAgeMs: REFUSED_TOKEN_MS });
  /** How often accounts have changed: a look from before a change says nothing of now. */
  #accountChanges = 0;

  constructor(options: AuthenticatorOptions) {
    this.#options = options;
    const forgetRefusedTokens = () => {
      this.#accountChanges += 1;
      this.#refusedTokens.clear();
    };
    options.serviceAccounts?.onChange(forgetRefusedTokens);
    options.tenants.onChange(() => {
      this.#failedLogins.clear();
      this.#accounts.clear();
      forgetRefusedTokens();
    });
  }

  /** Somebody can log in. */
  get isOpen(): boolean {
    return !this.#options.tenants.isEmpty || this.#options.unknownCredentials === 'verify';
  }

  /** The same for who comes with `sent`: perhaps the first login of all, which was issued a moment ago. */
  async opensTo(sent: Authorization | undefined): Promise<boolean> {
    if (!this.isOpen && sent?.scheme === 'basic' && isIssuedPassword(sent.password)) {
      await this.#options.tenants.catchUp();
    }
    return this.isOpen;
  }

  /** By the request's own header. */
  async prove(sender: Sender): Promise<Proven> {
    const authorization = parseAuthorization(sender.authorization);
    if (authorization === undefined || !(await this.opensTo(authorization))) return NOTHING;
    if (authorization.scheme === 'basic') {
      return { identity: await this.identify(sender, authorization), scopes: undefined };
    }
    const claims = await this.#options.tokens.verify(authorization.token);
    return claims === undefined
      ? { identity: { kind: 'void' }, scopes: undefined }
      : { identity: this.#bearer(sender, claims), scopes: claims.access };
  }

  /** By a user name and password. An empty one is nobody: skopeo sends a bare colon by itself. */
  async identify(
    sender: Sender,
    { username, password }: Extract<Authorization, { readonly scheme: 'basic' }>,
    isLogin = false,
  ): Promise<Identity> {
    if (username === '' || password === '') return { kind: 'anonymous' };
    // As where it is named, the length keeps 'a' + 'bc' and 'ab' + 'c' apart.
    const sent = `${username.length}:${username}${password}`;
    const named = this.#named.get(sent);
    const credential = named ?? this.#options.nameCredential(username, password);
    const source = sourceOf(sender.remote);
    const wasRight = this.#failedLogins.wasRight(source, credential.id);
    if (!(await this.#isKnown(credential))) {
      return this.#notHeld(sender, { source, credential, wasRight, isLogin });
    }
    if (!wasRight) {
      const attempt = { source, username, credentialId: credential.id };
      if (!this.#failedLogins.mayTry(attempt)) return limited(sender, this.#failedLogins.retryAfterS(source));
      this.#failedLogins.noteRight(source, credential.id);
    }
    // Nobody can invent known ones without end.
    if (named === undefined) this.#named.set(sent, credential);
    this.#presented.set(credential.id, credential);
    return { kind: 'credential', id: credential.id };
  }

  /** Whether it stands anywhere. One of ours may have been issued a moment ago, by another process. */
  async #isKnown({ id, password }: Credential): Promise<boolean> {
    const { identification, tenants } = this.#options;
    if (identification.isKnown(id)) return true;
    if (!isIssuedPassword(password)) return false;
    await tenants.catchUp();
    return identification.isKnown(id);
  }

  /** One that no tenant's Secrets hold: upstream's business, a service account's token, or a guess. */
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
   * Nobody guesses a signature: tokens that are not good only cost time, and are counted apart from passwords. Those of
   * an account that was right from there before are looked at in any case: it gets a new one each hour.
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

  /** Upstream has taken the credential: it is no guess any more where it came from last. */
  noteGranted(credentialId: string): void {
    const from = this.#triedFrom.get(credentialId);
    if (from !== undefined) this.#failedLogins.noteRight(from.source, credentialId);
  }

  /** The password behind a credential that was presented lately. */
  recall(credentialId: string): Credential | undefined {
    return this.#presented.get(credentialId);
  }

  /** A log-in does not say yet what it is for; its token is good only for requests that do. */
  #mayTryUpstream({ byNamespace, byHostAlias, upstreamListener }: Sender, isLogin: boolean): boolean {
    if (this.#options.unknownCredentials === 'refuse') return false;
    return byNamespace || byHostAlias || (isLogin && upstreamListener === undefined);
  }

  #unknown(attempt: Attempt, credential: Credential): Identity {
    this.#failedLogins.count(attempt);
    this.#triedFrom.set(credential.id, attempt);
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

  /** What a token of ours says is checked against what is so now: a Secret that is gone takes its tokens with it. */
  #bearer(sender: Sender, { kind, credentialId, tenant, login }: TokenClaims): Identity {
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

/** Where Docker sends its Hub login unasked, an unknown one is as none. */
function wrongHere({ upstreamListener }: Sender): Identity {
  return upstreamListener === undefined ? { kind: 'wrong' } : { kind: 'anonymous' };
}

/** Right or wrong is not looked at: where nobody was asked for a login it counts for nothing, elsewhere it has to wait. */
function limited({ upstreamListener }: Sender, retryAfterS: number): Identity {
  if (upstreamListener !== undefined) return { kind: 'anonymous' };
  throw new OciError('TOOMANYREQUESTS', {
    message: 'too many failed logins from this address',
    headers: { 'Retry-After': String(retryAfterS) },
  });
}
