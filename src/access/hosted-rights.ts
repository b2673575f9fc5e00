import { matchesName } from '../lib/name-pattern.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { Tenant, Tenants } from '../tenants/tenant.ts';
import type { Explanation } from './explanation.ts';
import { type Principal, principalFor, requesterOf } from './principal.ts';
import { ACTIONS, type Action } from './subject.ts';

/** The configuration of hosted repositories. */
export interface HostedRules {
  /**
   * First components of hosted repositories that no tenant owns. Content of any other prefix that is left in the store
   * is not served.
   */
  readonly prefixes: readonly string[];
  /** What anybody may do with repositories below `prefixes`. */
  readonly anonymous: 'none' | 'pull' | 'push';
  /** Repositories of tenants, or patterns, that every tenant may pull. */
  readonly shared: readonly string[];
  /** Whether every push and deletion is refused for now. */
  readonly readOnly: boolean;
  /** Whether content may be deleted. */
  readonly delete: boolean;
}

/** Where somebody may push. */
export interface PushPlace {
  /** The first component of the names of repositories. */
  readonly prefix: string;
  /** Whether only after logging in. */
  readonly needsLogin: boolean;
}

/** Rights to hosted repositories: a tenant owns those below its name. */
export class HostedRights {
  readonly #tenants: Tenants;
  readonly #rules: HostedRules;

  constructor(tenants: Tenants, rules: HostedRules) {
    this.#tenants = tenants;
    this.#rules = rules;
  }

  /**
   * The right to an action; throws the same error for a repository that the principal may not use and for one that does
   * not exist. Only its cause, for the log, tells the difference.
   */
  authorize(principal: Principal, repository: Repository, action: Action): Right {
    const refusal = this.refusal(principal, repository, action);
    if (refusal !== undefined) throw refusal;
    return { requester: requesterOf(principal), credentials: [], proved: true, provedIfUnreachable: false };
  }

  /**
   * For `explain`: what `tenant`, logged in with a credential that may push, or an anonymous client may do with the
   * repository.
   */
  explain(tenant: Tenant | undefined, repository: Repository): Explanation {
    const owner = this.#tenants.find(ownerOf(repository));
    const principal = principalFor(tenant);
    return {
      repository: repositoryText(repository),
      tenant: tenant?.name ?? null,
      attempts: [],
      grants: [],
      conclusions: [
        owner !== undefined
          ? `it is hosted here and belongs to ${owner.name}`
          : this.#isPrefix(ownerOf(repository))
            ? 'it is hosted here and belongs to no tenant'
            : `nothing is hosted here: ${ownerOf(repository)} is neither a tenant nor listed in hosted.prefixes`,
        ...verdicts(action => this.#whyNot(principal, repository, action, owner)),
      ],
    };
  }

  /** The reason for a refusal, for the operator, who may know which tenant owns a repository. */
  #whyNot(
    principal: Principal,
    repository: Repository,
    action: Action,
    owner: Tenant | undefined,
  ): string | undefined {
    const refusal = this.refusal(principal, repository, action);
    if (owner === undefined || refusal?.code !== 'NAME_UNKNOWN') return refusal?.message;
    if (action === 'pull' && this.#isShared(repository)) return FOR_TENANTS;
    return `only ${owner.name} may, with its own login`;
  }

  /** Where somebody may push, if possible without a login; `undefined` if nobody may anywhere. */
  pushPlace(): PushPlace | undefined {
    // Otherwise every one of many tenants would be tried, in vain.
    if (this.#rules.readOnly) return undefined;
    const isOpenTo = (principal: Principal, prefix: string): boolean =>
      this.refusal(principal, { upstream: '', name: `${prefix}/any` }, 'push') === undefined;
    const open = this.#rules.prefixes.find(prefix => isOpenTo(principalFor(undefined), prefix));
    if (open !== undefined) return { prefix: open, needsLogin: false };
    const tenant = this.#tenants
      .list()
      .find(
        one =>
          one.suspended === undefined &&
          one.options.quotaBytes !== 0 &&
          isOpenTo(principalFor(one), one.name),
      );
    return tenant && { prefix: tenant.name, needsLogin: true };
  }

  /** The error if the action is not allowed; `undefined` if it is. */
  refusal(principal: Principal, repository: Repository, action: Action): OciError | undefined {
    const refusal = this.#refusal(principal, repository, action);
    if (refusal !== undefined || action === 'pull') return refusal;
    if (this.#rules.readOnly) return readOnly();
    return action === 'delete' && !this.#rules.delete ? deletionsDisabled() : undefined;
  }

  #refusal(principal: Principal, repository: Repository, action: Action): OciError | undefined {
    const owner = this.#tenants.find(ownerOf(repository));
    if (owner === undefined) return this.#unowned(principal, repository, action);
    if (principal.as === 'tenant' && principal.tenant.name === owner.name) {
      if (action === 'pull') return undefined;
      if (principal.readOnly) return denied(repository, `this credential may not ${action}, only pull`);
      if (owner.options.push === false) return denied(repository, `${owner.name} may not ${action} here`);
      return undefined;
    }
    if (action === 'pull' && this.#mayShare(principal, repository)) return undefined;
    const need =
      principal.as === 'stranger'
        ? 'which this login does not cover'
        : `so a login of ${owner.name} is needed to ${action}`;
    return unknown(repository, `it belongs to ${owner.name}, ${need}`);
  }

  #unowned(principal: Principal, repository: Repository, action: Action): OciError | undefined {
    const { anonymous } = this.#rules;
    const first = ownerOf(repository);
    if (!this.#isPrefix(first)) {
      return unknown(repository, `${first} is neither a tenant nor listed in hosted.prefixes`);
    }
    if (this.#tenants.isDisputed(first)) {
      return unknown(repository, `${first} was a tenant: entrepot tenant remove ${first} frees its prefix`);
    }
    if (anonymous === 'push' || (anonymous === 'pull' && action === 'pull')) return undefined;
    if (action !== 'pull') {
      return denied(repository, `nobody may ${action} here: set hosted.anonymous to push to allow it`);
    }
    if (this.#mayShare(principal, repository)) return undefined;
    // Prefixes are not secret: everything below them gets this answer, whether it exists or not.
    return denied(repository, this.#isShared(repository) ? FOR_TENANTS : FOR_NOBODY);
  }

  #isPrefix(first: string): boolean {
    return this.#rules.prefixes.includes(first);
  }

  #mayShare({ as }: Principal, repository: Repository): boolean {
    return as === 'tenant' && this.#isShared(repository);
  }

  #isShared({ name }: Repository): boolean {
    return this.#rules.shared.some(pattern => matchesName(pattern, name));
  }
}

const FOR_TENANTS = 'only tenants that are logged in may pull this (hosted.shared)';
const FOR_NOBODY =
  'nobody may pull this: hosted.anonymous is none; set it to pull to open it to everybody, or list this in hosted.shared ' +
  'to open it to tenants';

/** What is allowed and what is not: one sentence for all actions with the same answer. */
function verdicts(whyNot: (action: Action) => string | undefined): readonly string[] {
  const actions = new Map<string, Action[]>();
  for (const action of ACTIONS) {
    const reason = whyNot(action);
    const verdict = reason === undefined ? 'yes' : `no (${reason})`;
    actions.set(verdict, [...(actions.get(verdict) ?? []), action]);
  }
  return [...actions].map(([verdict, of]) => `${of.join(', ')}: ${verdict}`);
}

/** The name of the tenant to which a hosted repository belongs, if there is such a tenant. */
export function ownerOf({ name }: Repository): string {
  const slash = name.indexOf('/');
  return slash === -1 ? name : name.slice(0, slash);
}

/** The same answer as of a registry of the distribution project in its read-only mode. */
function readOnly(): OciError {
  return new OciError('UNSUPPORTED', {
    message: 'this registry accepts no pushes and deletions for now (hosted.readOnly)',
  });
}

/** Why nothing hosted is deleted, for clients and operators. */
export const DELETING_DISABLED = 'deleting is disabled (hosted.delete)';

/** As the distribution-spec has it for a registry that disables deletions ("Content Management"). */
function deletionsDisabled(): OciError {
  return new OciError('UNSUPPORTED', { message: DELETING_DISABLED });
}

function denied(repository: Repository, message: string): OciError {
  return new OciError('DENIED', { message, detail: { name: repositoryText(repository) } });
}

/**
 * The same answer for an unknown repository, an unknown tenant, and a repository of another tenant; `reason` is for the
 * log.
 */
function unknown(repository: Repository, reason: string): OciError {
  const name = repositoryText(repository);
  return new OciError('NAME_UNKNOWN', {
    message: `${name} is not known here: hosted repositories begin with a tenant's name or one of hosted.prefixes, and mirrored ones are requested as /v2/<upstream>/<repository>, with ?ns=<upstream>, or at a port or host name of their upstream`,
    detail: { name },
    cause: new Error(reason),
  });
}
