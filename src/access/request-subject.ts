import { OciError, type OciErrorCode } from '../oci/errors.ts';
import type { PullTarget } from '../oci/pull-read.ts';
import { readOnlyMirrorOf } from '../oci/reasons.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';
import type { Tenants } from '../tenants/tenant.ts';
import { type Challenges, type Demand, WRONG_PASSWORD } from './challenge.ts';
import type { Authenticator } from './authenticator.ts';
import type { HostedRights } from './hosted-rights.ts';
import type { Identification } from './identification.ts';
import { type Identity, requesterOfIdentity } from './identity.ts';
import type { AskedRight, MirroredRights } from './mirrored-rights.ts';
import type { Principal, UpstreamPrincipal } from './principal.ts';
import { CATALOG_SCOPE, covers, type Scope, scopeText } from './scope.ts';
import type { Action, Sender, Subject } from './subject.ts';

export interface RequestSubjectParts {
  readonly tenants: Tenants;
  readonly authenticator: Authenticator;
  readonly identification: Identification;
  readonly challenges: Challenges;
  readonly mirrored: MirroredRights;
  readonly hosted: HostedRights;
}

/** The codes that upstream's 401, 403 and 404 have been turned into. */
const UNKNOWN: ReadonlySet<OciErrorCode> = new Set([
  'NAME_UNKNOWN',
  'MANIFEST_UNKNOWN',
  'BLOB_UNKNOWN',
  'UPSTREAM_REFUSED',
]);

/** From this status on, a client retries or gives up, instead of pushing what it did not find. */
const FIRST_FAILURE = 429;

const INVALID_TOKEN = 'the token is invalid or has expired';

/** The sender of one request, with what it proved. */
export class RequestSubject implements Subject {
  readonly requester: Requester;
  readonly #parts: RequestSubjectParts;
  readonly #sender: Sender;
  readonly #identity: Identity;

  constructor(parts: RequestSubjectParts, sender: Sender, identity: Identity) {
    this.#parts = parts;
    this.#sender = sender;
    this.#identity = identity;
    this.requester = requesterOfIdentity(identity);
  }

  async admit(): Promise<void> {
    this.#requireValid();
    const { kind, scopes } = this.#identity;
    if (kind !== 'anonymous' || scopes !== undefined || !this.#parts.authenticator.isOpen) return;
    // If credentials may not be asked for here, everything is as if nobody could log in.
    const demand = this.#parts.challenges.demand(this.#sender);
    if (demand !== undefined) throw demand;
  }

  async authorize(repository: Repository, action: Action, target?: PullTarget): Promise<Right> {
    const scope = scopeOf(repository, action);
    this.#requireValid(scope);
    const { scopes } = this.#identity;
    if (scopes !== undefined && !covers(scopes, scope)) {
      throw this.#refuse(this.#uncovered(repository, action));
    }
    return this.#settle(repository, action, target);
  }

  async maySee(repository: Repository): Promise<boolean> {
    this.#requireValid(CATALOG_SCOPE);
    const { scopes } = this.#identity;
    if (scopes !== undefined && !covers(scopes, CATALOG_SCOPE)) {
      throw this.#refuse(this.#beyond(CATALOG_SCOPE));
    }
    try {
      await this.#settle(repository, 'pull');
      return true;
    } catch (error) {
      if (error instanceof OciError) return false;
      throw error;
    }
  }

  async refusal(
    error: OciError,
    repository: Repository,
    action: Action,
    isExistenceCheck: boolean,
  ): Promise<OciError> {
    const { authenticator, mirrored, challenges } = this.#parts;
    if (isExistenceCheck && error.status >= FIRST_FAILURE && this.#isToPush(repository))
      return readOnlyMirror(repository, error);
    const mayHide = repository.upstream !== '' && action === 'pull' && UNKNOWN.has(error.code);
    if (!mayHide || this.#identity.kind !== 'anonymous' || !authenticator.isOpen) return error;
    if (await mirrored.isPublic(repository)) return error;
    const demand = this.#demand(scopeOf(repository, action));
    if (error.code !== 'UPSTREAM_REFUSED') return challenges.demand(this.#sender, demand) ?? error;
    // The client has answered our challenge without a login, so it has none: tell it what is wrong.
    if (this.#hasToken) return error;
    // The client's own login may work where Entrepot's does not.
    const message = `${error.message}; log in with a credential that may read it`;
    return challenges.demand(this.#sender, { ...demand, message }) ?? error;
  }

  #settle(repository: Repository, action: Action, target?: PullTarget): Promise<Right> | Right {
    const { hosted } = this.#parts;
    if (repository.upstream !== '' && action !== 'pull') throw readOnlyMirror(repository);
    const principal = this.principal(repository);
    if (repository.upstream !== '') return this.#pull(principal, repository, target);
    const refusal = hosted.refusal(principal, repository, action);
    if (refusal === undefined) {
      if (action !== 'pull' && principal.as === 'tenant') this.#requireEncryption();
      return hosted.authorize(principal, repository, action);
    }
    throw principal.as === 'anonymous' ? this.#askToLogIn(refusal, scopeOf(repository, action)) : refusal;
  }

  #pull(principal: Principal, repository: Repository, target?: PullTarget): Promise<Right> {
    const asked = { repository, target, remote: this.#sender.remote };
    return principal.as === 'upstream'
      ? this.#pullWithOwn(principal, asked)
      : this.#parts.mirrored.pull(principal, asked);
  }

  async #pullWithOwn(principal: UpstreamPrincipal, asked: AskedRight): Promise<Right> {
    const { authenticator, mirrored } = this.#parts;
    const { tenants, credentialId } = principal;
    const credential =
      authenticator.recall(credentialId) ?? (await mirrored.recall(tenants, credentialId, asked.repository));
    if (credential === undefined) throw this.#unidentified(asked.repository);
    return mirrored.pullWith(credential, principal, asked);
  }

  /**
   * Who the sender is for `repository`, whose credential counts as used. Throws UNAUTHORIZED if it no longer identifies
   * anybody.
   */
  principal(repository: Repository): Principal {
    const principal = this.#identified(repository);
    if (principal.as === 'tenant' && this.#identity.kind === 'credential') {
      this.#parts.tenants.noteOutcome(principal.credentialId, 'used');
    }
    return principal;
  }

  #identified(repository: Repository): Principal {
    const principal = this.#parts.identification.principal(this.#identity, repository);
    if (principal === undefined) throw this.#unidentified(repository);
    return principal;
  }

  #unidentified(repository: Repository): OciError {
    const error = this.#hasToken ? ({ error: 'invalid_token' } as const) : {};
    const cause = new Error(`this login identifies no tenant, or several, for ${repositoryText(repository)}`);
    return this.#refuse({ scope: scopeOf(repository, 'pull'), ...error, cause });
  }

  /** Whether the client has a token for pushing to a mirror, which is always refused. */
  #isToPush(repository: Repository): boolean {
    const { scopes } = this.#identity;
    return repository.upstream !== '' && scopes !== undefined && covers(scopes, scopeOf(repository, 'push'));
  }

  get #hasToken(): boolean {
    return this.#identity.scopes !== undefined;
  }

  #requireValid(scope?: Scope): void {
    const { kind } = this.#identity;
    const demand = scope === undefined ? {} : { scope };
    if (kind === 'void') throw this.#refuse({ ...demand, error: 'invalid_token', message: INVALID_TOKEN });
    if (kind === 'wrong') throw this.#refuse({ ...demand, message: WRONG_PASSWORD });
  }

  /**
   * Refuses a password that was sent over plain HTTP without being asked for, so that clients do not get used to it.
   */
  #requireEncryption(): void {
    if (this.#parts.challenges.mayCarryPasswords(this.#sender)) return;
    throw new OciError('DENIED', { message: 'pushing with a password over plain HTTP is not allowed' });
  }

  /** UNAUTHORIZED; or, if credentials may not be asked for, the answer for something that does not exist. */
  #refuse(demand: Demand): OciError {
    const { cause } = demand;
    return this.#parts.challenges.demand(this.#sender, demand) ?? new OciError('NAME_UNKNOWN', { cause });
  }

  #askToLogIn(refusal: OciError, scope: Scope): OciError {
    // A login does not help with what nobody may do (UNSUPPORTED).
    if (!this.#parts.authenticator.isOpen || refusal.code === 'UNSUPPORTED') return refusal;
    // Otherwise the message of every challenge, so that it does not reveal whether something exists.
    const message = refusal.code === 'DENIED' ? { message: refusal.message } : {};
    const demand = { ...this.#demand(scope), ...message, cause: refusal.cause };
    return this.#parts.challenges.demand(this.#sender, demand) ?? refusal;
  }

  /** The challenge for a token that does not cover `scope`. An anonymous token lacks a login, not a scope. */
  #beyond(scope: Scope): Demand {
    const demand = { scope, error: 'insufficient_scope' } as const;
    if (this.#identity.kind === 'anonymous') return demand;
    return { ...demand, message: `the token does not cover ${scopeText(scope)}` };
  }

  /**
   * The challenge for a token without the scope of an action, with the reason for which it has none. The client is told
   * no more of that than if the token had the scope.
   */
  #uncovered(repository: Repository, action: Action): Demand {
    const demand = this.#beyond(scopeOf(repository, action));
    const refusal = this.#whyNot(repository, action);
    if (refusal === undefined) return { ...demand, cause: new Error('the token was requested without it') };
    const { code, message, cause } = refusal;
    // Somebody without a login is only told to log in, unless that does not help.
    const isHidden = code !== 'DENIED' && code !== 'UNSUPPORTED';
    if (isHidden && this.#identity.kind === 'anonymous') return { ...demand, cause };
    return { ...demand, message: [demand.message, message].filter(Boolean).join(': '), cause };
  }

  /** Why a token does not get the scope of an action; `undefined` if it would. */
  #whyNot(repository: Repository, action: Action): OciError | undefined {
    if (repository.upstream !== '') return action === 'pull' ? undefined : readOnlyMirror(repository);
    try {
      return this.#parts.hosted.refusal(this.#identified(repository), repository, action);
    } catch (error) {
      if (error instanceof OciError) return error;
      throw error;
    }
  }

  #demand(scope: Scope): Demand {
    return this.#hasToken ? { scope, error: 'insufficient_scope' } : { scope };
  }
}

/** The scope for an action. To push, a client first has to look at what is there. */
function scopeOf(repository: Repository, action: Action): Scope {
  const actions = action === 'push' ? ['pull', 'push'] : [action];
  return { type: 'repository', name: repositoryText(repository), actions };
}

function readOnlyMirror(repository: Repository, cause?: OciError): OciError {
  return new OciError('UNSUPPORTED', {
    cause,
    message: readOnlyMirrorOf(repository),
  });
}
