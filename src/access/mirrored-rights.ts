import { type Grants, tenantGrantee } from '../grants/grants.ts';
import type { VerificationPolicy } from '../grants/verification.ts';
import { Lru } from '../lib/lru.ts';
import { type Credential, credentialId } from '../oci/credential.ts';
import { OciError } from '../oci/errors.ts';
import type { PullTarget } from '../oci/pull-read.ts';
import { HIDDEN, notAllowed } from '../oci/reasons.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { MAX_ATTEMPTS, type Right } from '../oci/requester.ts';
import { type HeldCredential, TenantBroken, type Tenant, type Tenants } from '../tenants/tenant.ts';
import type { Explanation } from './explanation.ts';
import { type Principal, principalFor, requesterOf, type UpstreamPrincipal } from './principal.ts';
import { mayPullFrom, tagRules } from './tenant-rules.ts';

/** The configuration of a mirrored repository, as far as rights depend on it. */
export interface UpstreamRule {
  /** The upstream's own credential, if configured. */
  readonly credential: Credential | undefined;
  /** Whether anonymous clients may read what this credential, or the node's, can read. */
  readonly openToAll: boolean;
  /** Whether to retry anonymously if every credential fails. */
  readonly anonymousFallback: boolean;
  /**
   * The names that Secrets may use for a repository of the upstream: within the registry that it is a part of, and under its
   * upstream's name and aliases.
   */
  readonly imagesOf: (repository: Repository) => readonly string[];
  readonly verification: VerificationPolicy;
}

type Attempt = Credential | undefined;

/** The credentials to ask upstream with, and for whom. */
interface Attempts {
  readonly attempts: readonly Attempt[];
  readonly tenants: readonly Tenant[];
  /** The upstream's own credential, if it is among `attempts` only because it is lent to an anonymous requester. */
  readonly own?: Credential | undefined;
}

/**
 * A pull is many requests, which share what the keyring says for this long, since reading it costs as much as looking
 * up a manifest. A change of Secrets ends it at once; a plugin whose answers may not be cached is asked once a second.
 */
const KEYRING_MS = 1_000;
const MAX_KEYRINGS = 10_000;

/** A right to pull that is asked for. */
export interface AskedRight {
  readonly repository: Repository;
  /** What is pulled; `undefined` if that is not known. */
  readonly target?: PullTarget | undefined;
  /** As in `Requester`. */
  readonly remote?: string | undefined;
}

/** The same, with what the configuration says of it. */
interface RuledRight extends AskedRight {
  readonly rule: UpstreamRule;
}

const OWN_WITHHELD =
  'the configured credentials are not used for clients without a login: set openToAll for this upstream, or configure ' +
  'tenants (entrepot pull uses them)';

const UNREAD = 'the pull secrets with this login cannot be read';

/** Rights to mirrored repositories, and the credentials with which upstream is asked for them. */
export class MirroredRights {
  readonly #tenants: Tenants;
  readonly #grants: Grants;
  readonly #ruleOf: (repository: Repository) => UpstreamRule;
  /** Replaced at each change of Secrets: what is being read then is kept in the one that nobody asks any more. */
  #keyrings = noKeyrings();

  constructor(tenants: Tenants, grants: Grants, ruleOf: (repository: Repository) => UpstreamRule) {
    this.#tenants = tenants;
    this.#grants = grants;
    this.#ruleOf = ruleOf;
    tenants.onChange(() => {
      this.#keyrings = noKeyrings();
    });
  }

  /**
   * The right of a principal that brings a credential for the upstream, which is tried and no other; NAME_UNKNOWN if its
   * tenants' rules exclude the repository.
   */
  async pullWith(credential: Credential, principal: UpstreamPrincipal, asked: AskedRight): Promise<Right> {
    const ruled = this.#ruled(asked);
    const { rule } = ruled;
    const attempts = rule.anonymousFallback ? [credential, undefined] : [credential];
    const asking = { attempts, tenants: principal.tenants };
    return (await this.#right(principal, ruled, asking)).right;
  }

  /**
   * The right of any other `principal`, whom upstream may still refuse; NAME_UNKNOWN if its tenant's rules exclude the
   * repository.
   */
  pull(principal: Exclude<Principal, UpstreamPrincipal>, asked: AskedRight): Promise<Right> {
    const ruled = this.#ruled(asked);
    switch (principal.as) {
      case 'anonymous':
      case 'stranger':
        return this.#anonymous(principal, ruled);
      case 'unknown':
        return this.#unknown(principal, ruled);
      case 'tenant':
        break;
    }
    return this.#ofTenant(principal, ruled);
  }

  #ruled({ repository, target, remote }: AskedRight): RuledRight {
    return { repository, target, remote, rule: this.#ruleOf(repository) };
  }

  async #unknown(
    principal: Extract<Principal, { readonly as: 'unknown' }>,
    ruled: RuledRight,
  ): Promise<Right> {
    return (await this.#right(principal, ruled, { attempts: [principal.credential], tenants: [] })).right;
  }

  async #ofTenant(
    principal: Extract<Principal, { readonly as: 'tenant' }>,
    ruled: RuledRight,
  ): Promise<Right> {
    const { tenant } = principal;
    const { repository, rule } = ruled;
    const attempts = await this.#keyring(tenant, repository, rule);
    const asking = { attempts, tenants: [tenant], own: rule.credential };
    return (await this.#right(principal, ruled, asking)).right;
  }

  /** Whether upstream recently served the repository anonymously. */
  async isPublic(repository: Repository): Promise<boolean> {
    return (await this.#grants.stateOf(repository, { credentialIds: [] })).isPublic();
  }

  /**
   * For `explain`: with which credentials a pull asks upstream, what is proved, and what the tenant's rules say; for
   * `tenant` with a login of this registry, or for an anonymous client. `Mirror.explain` says what this means for one
   * image.
   */
  async explain(tenant: Tenant | undefined, repository: Repository): Promise<Explanation> {
    const rule = this.#ruleOf(repository);
    const found = await (tenant === undefined
      ? this.#lookUpShared(rule.imagesOf(repository))
      : lookup(tenant, rule.imagesOf(repository)));
    const attempts =
      tenant === undefined
        ? (await this.pull({ as: 'anonymous' }, { repository })).credentials
        : await this.#keyring(tenant, repository, rule);
    const grants = await this.#grants.explain(repository, attempts.map(credentialId));
    const preloads = await this.#grants.explainPreloads(repository, tenant?.name);
    return {
      repository: repositoryText(repository),
      tenant: tenant?.name ?? null,
      attempts: attempts.map(attempt => {
        const id = credentialId(attempt);
        const held = found.find(({ credential }) => credentialId(credential) === id);
        return {
          credentialId: attempt?.id,
          username: attempt?.username,
          secret: held?.secret ?? (attempt === undefined ? 'none' : "the upstream's own"),
          source: held?.source ?? 'configuration',
          matchedKey: held?.matchedKey,
          grant: attempt === undefined ? undefined : grants.get(id),
        };
      }),
      grants: [...[...grants.values()].filter(({ of }) => of !== 'credential'), ...preloads],
      conclusions: await this.#conclusions(tenant, repository, attempts),
    };
  }

  async #conclusions(
    tenant: Tenant | undefined,
    repository: Repository,
    attempts: readonly Attempt[],
  ): Promise<readonly string[]> {
    if (tenant !== undefined && !mayPullFrom([tenant], repository)) {
      return [notAllowed(tenant.name)];
    }
    const { pullPolicy, forceAlways } = await this.pull(principalFor(tenant), { repository });
    return [
      ...(attempts.length > MAX_ATTEMPTS
        ? [`each request tries at most ${MAX_ATTEMPTS} of the ${attempts.length} listed`]
        : []),
      ...(forceAlways === true
        ? ['each pull of a tag needs a new proof from upstream, whatever was proved before (forceAlways)']
        : []),
      ...(pullPolicy === undefined ? [] : [`the tenant's pull policy is ${pullPolicy}`]),
      ...(tenant === undefined && (await this.#withholdsOwn(repository, attempts)) ? [OWN_WITHHELD] : []),
    ];
  }

  /** Whether there are credentials other than a tenant's, which an anonymous client does not get. */
  async #withholdsOwn(repository: Repository, attempts: readonly Attempt[]): Promise<boolean> {
    const { credential, imagesOf, openToAll } = this.#ruleOf(repository);
    if (openToAll || attempts.some(isCredential)) return false;
    return credential !== undefined || (await this.#shared(imagesOf(repository))).some(isCredential);
  }

  /**
   * The credential with the given id, from the Secrets of the tenants that have it. A tenant whose Secrets cannot be
   * read is skipped if another has it; otherwise UNAVAILABLE.
   */
  async recall(
    tenants: readonly Tenant[],
    id: string,
    repository: Repository,
  ): Promise<Credential | undefined> {
    const images = this.#ruleOf(repository).imagesOf(repository);
    let unread: unknown;
    for (const tenant of tenants) {
      const found = await lookup(tenant, images).catch((error: unknown) => {
        if (!(error instanceof OciError)) throw error;
        unread ??= error;
        return [];
      });
      const held = found.find(({ credential }) => credential?.id === id);
      if (held?.credential !== undefined) return held.credential;
    }
    if (unread === undefined) return undefined;
    // Of several tenants with the credential, none is to learn of the others' Secrets.
    throw tenants.length === 1 ? unread : new OciError('UNAVAILABLE', { message: UNREAD, cause: unread });
  }

  /** The right of the operator, on the command line: with every credential that is not a tenant's. */
  async operator(repository: Repository): Promise<Right> {
    const { credential, imagesOf } = this.#ruleOf(repository);
    const own = [credential, ...(await this.#shared(imagesOf(repository)))].filter(isCredential);
    return {
      requester: { tenant: undefined, id: 'operator' },
      credentials: distinct([...own, undefined]),
      proved: true,
      provedIfUnreachable: false,
      own: credential && { covers: async () => true },
    };
  }

  async #anonymous(principal: Principal, ruled: RuledRight): Promise<Right> {
    const { repository, rule } = ruled;
    if (rule.openToAll) {
      const own = [rule.credential, ...(await this.#shared(rule.imagesOf(repository)))].filter(isCredential);
      if (own.length > 0) {
        const asking = { attempts: own, tenants: [], own: rule.credential };
        return (await this.#right(principal, ruled, asking)).right;
      }
    }
    const { right, isPublic } = await this.#right(principal, ruled, { attempts: [undefined], tenants: [] });
    if (rule.credential === undefined || !isPublic()) return right;
    // A public repository is fetched with the upstream's own credential, whose rate limit is higher.
    return { ...right, credentials: [rule.credential, undefined], isLent: true };
  }

  async #right(
    principal: Principal,
    { repository, rule: { verification }, target, remote }: RuledRight,
    { attempts, tenants, own }: Attempts,
  ): Promise<{ readonly right: Right; readonly isPublic: () => boolean }> {
    const [only, ...others] = tenants;
    if (!mayPullFrom(tenants, repository)) {
      const detail = { name: repositoryText(repository) };
      // Of several tenants with the credential, none is to learn of the others' rules.
      if (only === undefined || others.length > 0)
        throw new OciError('NAME_UNKNOWN', { message: HIDDEN, detail });
      throw new OciError('DENIED', { message: notAllowed(only.name), detail });
    }
    const { isPublic, ...state } = await this.#grants.stateOf(repository, {
      credentialIds: attempts.map(credentialId),
      grantee: only !== undefined && others.length === 0 ? tenantGrantee(only.name) : undefined,
      policy: verification,
      target,
    });
    const right = {
      requester: requesterOf(principal, remote),
      credentials: attempts,
      ...state,
      own: own && { covers: () => this.#covers(own, repository, verification) },
      ...(only === undefined ? {} : tagRules(tenants)),
    };
    return { right, isPublic };
  }

  async #covers({ id }: Credential, repository: Repository, policy: VerificationPolicy): Promise<boolean> {
    const { proved, provedIfUnreachable } = await this.#grants.stateOf(repository, {
      credentialIds: [id],
      policy,
    });
    return proved || provedIfUnreachable;
  }

  /** All credentials that a tenant may use, in the kubelet's order; if there are none, one anonymous attempt. */
  #keyring(
    tenant: Tenant,
    repository: Repository,
    rule: UpstreamRule,
  ): readonly Attempt[] | Promise<readonly Attempt[]> {
    const key = `${tenant.name} ${repositoryText(repository)}`;
    return this.#keyrings.get(key) ?? this.#lookUp(key, tenant, repository, rule);
  }

  async #lookUp(
    key: string,
    tenant: Tenant,
    repository: Repository,
    rule: UpstreamRule,
  ): Promise<readonly Attempt[]> {
    const keyrings = this.#keyrings;
    const found = await lookup(tenant, rule.imagesOf(repository));
    const held = found.map(({ credential }) => credential);
    const all = distinct(rule.credential === undefined ? held : [...held, rule.credential]);
    const attempts = all.length === 0 || rule.anonymousFallback ? distinct([...all, undefined]) : all;
    keyrings.set(key, attempts);
    return attempts;
  }

  async #shared(images: readonly string[]): Promise<readonly Attempt[]> {
    return (await this.#lookUpShared(images)).map(({ credential }) => credential);
  }

  async #lookUpShared(images: readonly string[]): Promise<readonly HeldCredential[]> {
    return (await Promise.all(images.map(image => this.#tenants.lookupShared(image)))).flat();
  }
}

function noKeyrings(): Lru<readonly Attempt[]> {
  return new Lru({ maxEntries: MAX_KEYRINGS, maxAgeMs: KEYRING_MS });
}

async function lookup(tenant: Tenant, images: readonly string[]): Promise<readonly HeldCredential[]> {
  try {
    return (await Promise.all(images.map(image => tenant.lookup(image)))).flat();
  } catch (cause) {
    if (!(cause instanceof TenantBroken)) throw cause;
    throw new OciError('UNAVAILABLE', { message: cause.told, cause });
  }
}

/** Each credential once, at its first position. */
function distinct(attempts: readonly Attempt[]): readonly Attempt[] {
  return [...new Map(attempts.map(attempt => [credentialId(attempt), attempt])).values()];
}

function isCredential(attempt: Attempt): attempt is Credential {
  return attempt !== undefined;
}
