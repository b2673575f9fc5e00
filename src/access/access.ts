/**
 * access/: authenticates requests, and decides what they may do. May import grants/, tenants/, metadata/, oci/ and lib/.
 *
 * The main idea: a right to mirrored content is proved upstream, per credential and repository, and remembered as a
 * Grant; having content in the store never creates one. Who a client is follows from where its credential is found in
 * tenants' pull secrets; what it may do follows from what those secrets give access to.
 *
 * `authenticator.ts` finds out what a request proved, `identification.ts` which tenant that is for a given repository,
 * `mirrored-rights.ts` and `hosted-rights.ts` what that tenant may do, and `request-subject.ts` combines these for one
 * request.
 */
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { News } from '../lib/news.ts';
import type { Credential } from '../oci/credential.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Requester, Right } from '../oci/requester.ts';
import type { Tenant, Tenants } from '../tenants/tenant.ts';
import { type Authorization, parseAuthorization } from './authorization.ts';
import { RequestSubject, type RequestSubjectParts } from './request-subject.ts';
import { Challenges, WRONG_PASSWORD } from './challenge.ts';
import { Authenticator, type ServiceAccounts } from './authenticator.ts';
import type { Explanation } from './explanation.ts';
import type { LoginNews } from './failed-logins.ts';
import type { Grants } from '../grants/grants.ts';
import { HostedRights, type HostedRules, type PushPlace } from './hosted-rights.ts';
import { Identification } from './identification.ts';
import { type Identity, requesterOfIdentity } from './identity.ts';
import { MirroredRights, type UpstreamRule } from './mirrored-rights.ts';
import { type Principal, principalFor, requesterOf } from './principal.ts';
import { CATALOG_SCOPE, type Scope } from './scope.ts';
import type { IssuedToken, TokenClaims, Tokens } from './tokens.ts';
import { ACTIONS, type Action, type Sender, type Subject } from './subject.ts';

/** What rights depend on: tenants, proofs and the configuration. */
export interface AccessOptions {
  readonly tenants: Tenants;
  readonly grants: Grants;
  readonly tokens: Tokens;
  /** The credential of a user name and password, with its id in this store. */
  readonly nameCredential: (username: string, password: string) => Credential;
  /** Accepts tokens of Kubernetes ServiceAccounts; none are accepted if absent. */
  readonly serviceAccounts?: ServiceAccounts | undefined;
  /** The rules of a mirrored repository; asked each time, since the configuration can be reloaded. */
  readonly upstreamRule: (repository: Repository) => UpstreamRule;
  readonly hosted: HostedRules;
  /** The names by which clients reach this registry. */
  readonly serverNames: readonly string[];
  /** What becomes of a password that no tenant has: `refuse` it, or `verify` it upstream. */
  readonly unknownCredentials: 'refuse' | 'verify';
  /** As in `ChallengeOptions`. */
  readonly externalUrl: string | undefined;
  /** As in `ChallengeOptions`. */
  readonly allowPlainCredentials: boolean;
  /** A repository name as written in the scopes of challenges (see `ChallengeOptions`). */
  readonly nameInScope: (name: string) => string;
  /** How processes of one server tell each other of logins. */
  readonly loginNews?: News<LoginNews> | undefined;
  readonly log: Log;
  readonly meter: Meter;
}

/** A client's request for a token. */
export interface LoginRequest {
  /** From the form of a POST; `undefined` if the Authorization header counts. */
  readonly password: Extract<Authorization, { readonly scheme: 'basic' }> | undefined;
  readonly service: string | undefined;
  readonly scopes: readonly Scope[];
  /** The repository that a name in a scope means; as in a path. */
  readonly resolve: (name: string) => Repository | undefined;
}

/** A token, as `/token` returns it. */
export interface LoginAnswer extends IssuedToken {
  readonly requester: Requester;
  /** The granted scopes, perhaps fewer than requested. */
  readonly access: readonly Scope[];
}

/** Authenticates and authorizes each request before `mirror` or `hosted` sees it. */
export class Access {
  readonly #options: AccessOptions;
  readonly #parts: RequestSubjectParts;

  constructor(options: AccessOptions) {
    const { tenants, grants, upstreamRule, tokens } = options;
    this.#options = options;
    const imagesOf = (repository: Repository) => upstreamRule(repository).imagesOf(repository);
    const identification = new Identification({ ...options, imagesOf });
    this.#parts = {
      tenants,
      identification,
      authenticator: new Authenticator({
        tenants,
        identification,
        tokens,
        nameCredential: options.nameCredential,
        serviceAccounts: options.serviceAccounts,
        unknownCredentials: options.unknownCredentials,
        loginNews: options.loginNews,
      }),
      challenges: new Challenges({ ...options, service: tokens.service }),
      mirrored: new MirroredRights(tenants, grants, upstreamRule),
      hosted: new HostedRights(tenants, options.hosted),
    };
    grants.onProof(({ credentialId, outcome }) => {
      if (outcome === 'granted') this.#parts.authenticator.noteGranted(credentialId);
      tenants.noteOutcome(credentialId, outcome === 'granted' ? 'used' : 'refused');
    });
  }

  /** Whether somebody can log in. If not, no client is challenged, and credentials are ignored. */
  get isOpen(): boolean {
    return this.#parts.authenticator.isOpen;
  }

  /** Where somebody may push; `undefined` if nobody may anywhere. */
  get pushPlace(): PushPlace | undefined {
    return this.#parts.hosted.pushPlace();
  }

  async authenticate(sender: Sender): Promise<Subject> {
    return new RequestSubject(this.#parts, sender, await this.#parts.authenticator.prove(sender));
  }

  /** Issues a token (distribution, "Token Authentication"). UNAUTHORIZED for a wrong password. */
  async login(sender: Sender, { password, service, scopes, resolve }: LoginRequest): Promise<LoginAnswer> {
    const { authenticator } = this.#parts;
    const { tokens, meter } = this.#options;
    // Only a password gets a token. If a token could get another, it would be valid forever.
    const presented = password ?? parseAuthorization(sender.authorization);
    if (!(await authenticator.opensTo(presented))) {
      throw new OciError('NAME_UNKNOWN', { message: 'logging in is not configured on this registry' });
    }
    if (service !== undefined && service !== tokens.service) {
      throw new OciError('QUERY_INVALID', {
        message: `this registry issues tokens only for ${tokens.service}`,
      });
    }
    const identity: Identity =
      presented?.scheme === 'basic'
        ? await authenticator.identify(sender, presented, true)
        : { kind: 'anonymous' };
    if (identity.kind === 'wrong' || identity.kind === 'void') {
      meter.count('logins_total', { outcome: 'refused' });
      throw new OciError('UNAUTHORIZED', { message: WRONG_PASSWORD });
    }
    const principal = this.#principal(identity);
    // A credential for an upstream is noted as used when upstream accepts it.
    if (principal !== undefined) this.#parts.tenants.noteOutcome(principal.credentialId, 'used');
    const access = await this.#permitted(sender, identity, scopes, resolve);
    const issued = await tokens.issue({ ...claimsOf(identity, principal), access });
    meter.count('logins_total', { outcome: identity.kind === 'anonymous' ? 'anonymous' : 'accepted' });
    const requester = principal === undefined ? requesterOfIdentity(identity) : requesterOf(principal);
    return { ...issued, access, requester };
  }

  /** The right of the operator, on the command line. */
  operatorRight(repository: Repository): Promise<Right> {
    return this.#parts.mirrored.operator(repository);
  }

  /**
   * The right of `tenant` when the operator pulls on its behalf, with its credentials only; without a tenant, the right
   * of an anonymous client.
   */
  async rightOf(tenant: Tenant | undefined, repository: Repository): Promise<Right> {
    const { mirrored, hosted } = this.#parts;
    const principal = principalFor(tenant);
    if (repository.upstream === '') return hosted.authorize(principal, repository, 'pull');
    return mirrored.pull(principal, { repository });
  }

  /** Whether anonymous clients may pull a hosted repository. */
  isHostedForAll(repository: Repository): boolean {
    return this.#parts.hosted.refusal(principalFor(undefined), repository, 'pull') === undefined;
  }

  /** For `entrepot explain`: what the tenant, or an anonymous client, may do with the repository, and why. */
  async explain(tenant: Tenant | undefined, repository: Repository): Promise<Explanation> {
    const { mirrored, hosted } = this.#parts;
    if (repository.upstream === '') return hosted.explain(tenant, repository);
    const explanation = await mirrored.explain(tenant, repository);
    if (tenant !== undefined || !this.isOpen) return explanation;
    const conclusions = [
      ...explanation.conclusions,
      'if upstream refuses an anonymous client, the client is asked to log in',
    ];
    return { ...explanation, conclusions };
  }

  /**
   * The part of `scopes` that may be granted. For a mirrored repository, everything is granted here: what upstream says
   * of a pull is not known before it is asked.
   */
  async #permitted(
    sender: Sender,
    identity: Identity,
    scopes: readonly Scope[],
    resolve: LoginRequest['resolve'],
  ): Promise<readonly Scope[]> {
    const subject = new RequestSubject(this.#parts, sender, identity);
    const permitted: Scope[] = [];
    for (const scope of scopes) {
      if (scope.type === CATALOG_SCOPE.type && scope.name === CATALOG_SCOPE.name)
        permitted.push(CATALOG_SCOPE);
      const repository = scope.type === 'repository' ? resolve(scope.name) : undefined;
      if (repository === undefined) continue;
      // Some clients write `*` for all actions.
      const wanted = ACTIONS.filter(action => scope.actions.includes(action) || scope.actions.includes('*'));
      const actions = await this.#actions(subject, repository, wanted);
      if (actions.length > 0) {
        permitted.push({ type: 'repository', name: repositoryText(repository), actions });
      }
    }
    return permitted;
  }

  async #actions(
    subject: RequestSubject,
    repository: Repository,
    wanted: readonly Action[],
  ): Promise<readonly Action[]> {
    // What nobody may do here, such as push to a mirror, is granted, too: the request is then refused with that reason. A
    // token without the scope would make the client log in.
    if (repository.upstream !== '') return wanted;
    const principal = subject.principal(repository);
    const { hosted } = this.#parts;
    return wanted.filter(action => {
      const refusal = hosted.refusal(principal, repository, action);
      return refusal === undefined || refusal.code === 'UNSUPPORTED';
    });
  }

  /**
   * The principal of a credential for this registry, which means the same tenant for every repository; `undefined` for
   * any other.
   */
  #principal(identity: Identity): OwnPrincipal | undefined {
    if (identity.kind !== 'credential') return undefined;
    const tenant = this.#parts.identification.tenantOf(identity.id);
    return tenant && { as: 'tenant', tenant, readOnly: false, credentialId: identity.id };
  }
}

type OwnPrincipal = Extract<Principal, { readonly as: 'tenant' }>;

function claimsOf(
  identity: Exclude<Identity, { readonly kind: 'wrong' | 'void' }>,
  principal: OwnPrincipal | undefined,
): Omit<TokenClaims, 'access'> {
  switch (identity.kind) {
    case 'anonymous':
      return { kind: 'anonymous', credentialId: '' };
    case 'account':
      return { kind: 'account', credentialId: identity.id, tenant: identity.tenant };
    case 'unknown':
      return { kind: 'unknown', credentialId: identity.credential.id, login: identity.credential };
    case 'credential':
      break;
  }
  return { kind: 'credential', credentialId: identity.id, tenant: principal?.tenant.name };
}
