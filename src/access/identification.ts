import { Lru } from '../lib/lru.ts';
import type { Log } from '../lib/log.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ImagePattern, parseImageTarget } from '../tenants/image-pattern.ts';
import type { Holder, Tenant, Tenants } from '../tenants/tenant.ts';
import type { Identity } from './identity.ts';
import type { Principal } from './principal.ts';

export interface IdentificationOptions {
  readonly tenants: Tenants;
  /** The names by which clients reach this registry. */
  readonly serverNames: readonly string[];
  /** The names that Secrets may use for a mirrored repository. */
  readonly imagesOf: (repository: Repository) => readonly string[];
  readonly log: Log;
}

/**
 * Entries by credential and repository, since both come with every blob request; some thousand nodes pull a few images
 * at a time.
 */
const MAX_REMEMBERED = 20_000;

/** The key under which Docker stores credentials for Docker Hub, and which the kubelet tries when no other matches. */
const HUB_KEY = 'index.docker.io';
const HUB = 'docker.io/';

/** Finds out who a client is, by where its credential is found. It says who a client is, never what it may do. */
export class Identification {
  readonly #options: IdentificationOptions;
  readonly #remembered = new Lru<{ readonly principal: Principal | undefined }>({
    maxEntries: MAX_REMEMBERED,
  });
  /** Credentials that were reported, so that each is logged once. */
  readonly #reported = new Set<string>();

  constructor(options: IdentificationOptions) {
    this.#options = options;
    options.tenants.onChange(() => {
      this.#remembered.clear();
      this.#reported.clear();
    });
  }

  /** Whether a Secret, the node or the configuration has the credential. */
  isKnown(credentialId: string): boolean {
    return this.#options.tenants.holders(credentialId).length > 0;
  }

  /** The tenant of a credential for this registry; `undefined` for one that is for upstreams. */
  tenantOf(credentialId: string): Tenant | undefined {
    const ours = this.#options.tenants.holders(credentialId).filter(holder => this.#isOurs(holder));
    const found = this.#owner(ours, credentialId);
    return found === 'several' ? undefined : found?.tenant;
  }

  /**
   * Who an identity is for `repository`. `undefined` if its credential no longer identifies anybody, or several tenants
   * have it for this registry.
   */
  principal(identity: Identity, repository: Repository): Principal | undefined {
    switch (identity.kind) {
      case 'account': {
        const tenant = this.#options.tenants.find(identity.tenant);
        if (tenant === undefined) return { as: 'stranger', credentialId: identity.id };
        return { as: 'tenant', tenant, readOnly: !tenant.accountsMayPush, credentialId: identity.id };
      }
      case 'unknown':
        return repository.upstream === ''
          ? { as: 'anonymous' }
          : { as: 'unknown', credential: identity.credential };
      case 'credential': {
        const principal = this.#ofCredential(identity.id, repository);
        if (principal?.as !== 'tenant' || identity.tenant === undefined) return principal;
        // A token is bound to the tenant that it was issued for.
        return identity.tenant === principal.tenant.name ? principal : undefined;
      }
      case 'anonymous':
      case 'wrong':
      case 'void':
        break;
    }
    return { as: 'anonymous' };
  }

  #ofCredential(credentialId: string, repository: Repository): Principal | undefined {
    const key = `${credentialId} ${repositoryText(repository)}`;
    const known = this.#remembered.get(key);
    if (known !== undefined) return known.principal;
    const holders = this.#options.tenants.holders(credentialId);
    // Not remembered: clients can invent any number of credentials.
    if (holders.length === 0) return undefined;
    const principal = this.#find(credentialId, holders, repository);
    this.#remembered.set(key, { principal });
    return principal;
  }

  #find(credentialId: string, holders: readonly Holder[], repository: Repository): Principal | undefined {
    const images = this.#namesOf(repository);
    const ours = holders.filter(holder => this.#isOurs(holder));
    const owner = this.#owner(ours, credentialId);
    if (owner === 'several') return undefined;
    if (owner !== undefined) {
      // A copy of an issued credential is worth no more than the original, whatever key it has.
      const places = owner.issued ? [owner] : ours;
      const here = places.filter(({ key }) => images.some(image => isWithin(image, pathOf(key))));
      if (here.length > 0) {
        const readOnly = here.every(place => place.readOnly);
        return { as: 'tenant', tenant: owner.tenant, readOnly, credentialId };
      }
    }
    if (repository.upstream === '') return { as: 'stranger', credentialId };
    const upstream = holders.filter(
      holder => !holder.issued && images.some(image => isFor(holder.key, image)),
    );
    const tenants = [...new Set(upstream.map(({ tenant }) => tenant))];
    return tenants.length === 0
      ? { as: 'stranger', credentialId }
      : { as: 'upstream', tenants, credentialId };
  }

  /**
   * The owner of a credential for this registry: the tenant that it was issued to, or else the only tenant that has it.
   */
  #owner(ours: readonly Holder[], credentialId: string): Holder | 'several' | undefined {
    const [first] = ours;
    if (first === undefined || first.issued) return first;
    // Also if it is for an upstream elsewhere: somebody who can read it there could act as the other tenant.
    const names = new Set(this.#options.tenants.holders(credentialId).map(({ tenant }) => tenant.name));
    if (names.size === 1) return first;
    this.#report(credentialId, [...names]);
    return 'several';
  }

  #isOurs({ issued, key }: Holder): boolean {
    return issued || this.#options.serverNames.some(name => isFor(hostOf(key), `${name}/`));
  }

  #namesOf(repository: Repository): readonly string[] {
    return repository.upstream === '' ? [repository.name] : this.#options.imagesOf(repository);
  }

  #report(credentialId: string, tenants: readonly string[]): void {
    if (this.#reported.has(credentialId)) return;
    this.#reported.add(credentialId);
    this.#options.log.warn(
      { credentialId, tenants },
      'a credential for this registry is in the Secrets of several tenants and therefore identifies none of them: ' +
        'issue a separate one to each (entrepot tenant secret)',
    );
  }
}

/** Whether the kubelet would use the entry of `key` for `image`. */
function isFor(key: string, image: string): boolean {
  const target = parseImageTarget(image);
  if (target === undefined) return false;
  if (key === HUB_KEY && image.startsWith(HUB)) return true;
  return ImagePattern.parse(key)?.matches(target) ?? false;
}

/** Whether `image` is `path` or below it, by whole components, so that `team-a` does not include `team-ab`. */
function isWithin(image: string, path: string): boolean {
  return path === '' || image === path || image.startsWith(`${path}/`);
}

function hostOf(key: string): string {
  const slash = key.indexOf('/');
  return slash === -1 ? key : key.slice(0, slash);
}

function pathOf(key: string): string {
  const slash = key.indexOf('/');
  return slash === -1 ? '' : key.slice(slash + 1).replace(/\/+$/, '');
}
