import { Lru } from '../lib/lru.ts';
import type { Log } from '../lib/log.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ImagePattern, parseImageTarget } from '../tenants/image-pattern.ts';
import type { Holder, Tenant, Tenants } from '../tenants/tenant.ts';

/**
 * Whom a credential means when it is used for a given repository. `tenant`: a credential for this registry. `upstream`:
 * the Secrets of these tenants have it for the repository's upstream. `stranger`: it is known, but for nothing that
 * applies here. `ambiguous`: a credential for this registry that several tenants have.
 */
export type Identified =
  | { readonly as: 'tenant'; readonly tenant: Tenant; readonly readOnly: boolean }
  | { readonly as: 'upstream'; readonly tenants: readonly Tenant[] }
  | { readonly as: 'stranger' }
  | { readonly as: 'ambiguous' };

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

const STRANGER: Identified = { as: 'stranger' };
const AMBIGUOUS: Identified = { as: 'ambiguous' };

/** Finds out who a client is, by where its credential is found. It says who a client is, never what it may do. */
export class Identification {
  readonly #options: IdentificationOptions;
  readonly #remembered = new Lru<Identified>({ maxEntries: MAX_REMEMBERED });
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

  /** `undefined` if nobody has the credential. */
  identify(credentialId: string, repository: Repository): Identified | undefined {
    const key = `${credentialId} ${repositoryText(repository)}`;
    const known = this.#remembered.get(key);
    if (known !== undefined) return known;
    const holders = this.#options.tenants.holders(credentialId);
    // Not remembered: clients can invent any number of credentials.
    if (holders.length === 0) return undefined;
    const identified = this.#identify(credentialId, holders, repository);
    this.#remembered.set(key, identified);
    return identified;
  }

  #identify(credentialId: string, holders: readonly Holder[], repository: Repository): Identified {
    const images = this.#namesOf(repository);
    const ours = holders.filter(holder => this.#isOurs(holder));
    const owner = this.#owner(ours, credentialId);
    if (owner === 'several') return AMBIGUOUS;
    if (owner !== undefined) {
      // A copy of an issued credential is worth no more than the original, whatever key it has.
      const places = owner.issued ? [owner] : ours;
      const here = places.filter(({ key }) => images.some(image => isWithin(image, pathOf(key))));
      if (here.length > 0) {
        return { as: 'tenant', tenant: owner.tenant, readOnly: here.every(({ readOnly }) => readOnly) };
      }
    }
    if (repository.upstream === '') return STRANGER;
    const upstream = holders.filter(
      holder => !holder.issued && images.some(image => isFor(holder.key, image)),
    );
    const tenants = [...new Set(upstream.map(({ tenant }) => tenant))];
    return tenants.length === 0 ? STRANGER : { as: 'upstream', tenants };
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
