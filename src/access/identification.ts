import { Lru } from '../lib/lru.ts';
import type { Log } from '../lib/log.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ImagePattern, parseImageTarget } from '../tenants/image-pattern.ts';
import type { Holder, Tenant, Tenants } from '../tenants/tenant.ts';

/**
 * Who a credential means where a certain repository is asked for.
 * `tenant`: it was made for this registry. `upstream`: these tenants' Secrets hold it for the upstream. `stranger`: it
 * is known, and says nothing here. `ambiguous`: several tenants hold what should mean one.
 */
export type Identified =
  | { readonly as: 'tenant'; readonly tenant: Tenant; readonly readOnly: boolean }
  | { readonly as: 'upstream'; readonly tenants: readonly Tenant[] }
  | { readonly as: 'stranger' }
  | { readonly as: 'ambiguous' };

export interface IdentificationOptions {
  readonly tenants: Tenants;
  /** The hosts under which clients know this registry. */
  readonly serverNames: readonly string[];
  /** A mirrored repository as Secrets may name it. */
  readonly imagesOf: (repository: Repository) => readonly string[];
  readonly log: Log;
}

/** A (credential, repository) pair is asked for with every blob; a few thousand nodes pull a few images at a time. */
const MAX_REMEMBERED = 20_000;

/** Where Docker's own files keep what is for Docker Hub, and the kubelet looks when no other key matches. */
const HUB_KEY = 'index.docker.io';
const HUB = 'docker.io/';

const STRANGER: Identified = { as: 'stranger' };
const AMBIGUOUS: Identified = { as: 'ambiguous' };

/** Finds out who a client is by where its credential stands. A match says who, never what they may. */
export class Identification {
  readonly #options: IdentificationOptions;
  readonly #remembered = new Lru<Identified>({ maxEntries: MAX_REMEMBERED });
  /** Credentials that were complained about, so that the log is told once. */
  readonly #reported = new Set<string>();

  constructor(options: IdentificationOptions) {
    this.#options = options;
    options.tenants.onChange(() => {
      this.#remembered.clear();
      this.#reported.clear();
    });
  }

  /** Whether it stands anywhere. */
  isKnown(credentialId: string): boolean {
    return this.#options.tenants.holders(credentialId).length > 0;
  }

  /** The tenant that the credential means whatever is asked for; `undefined` for one that is for an upstream. */
  tenantOf(credentialId: string): Tenant | undefined {
    const ours = this.#options.tenants.holders(credentialId).filter(holder => this.#isOurs(holder));
    const found = this.#owner(ours, credentialId);
    return found === 'several' ? undefined : found?.tenant;
  }

  /** `undefined` for what nobody holds. */
  identify(credentialId: string, repository: Repository): Identified | undefined {
    const key = `${credentialId} ${repositoryText(repository)}`;
    const known = this.#remembered.get(key);
    if (known !== undefined) return known;
    const holders = this.#options.tenants.holders(credentialId);
    // Not remembered: a client can invent credentials without end.
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
      // A copy of what was issued is good for no more than the original, whatever key it stands under.
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

  /** Whose a credential for this registry is: who it was issued to, else the one tenant that has it. */
  #owner(ours: readonly Holder[], credentialId: string): Holder | 'several' | undefined {
    const [first] = ours;
    if (first === undefined || first.issued) return first;
    // Elsewhere in its Secrets too: who can read it there could pass for the other.
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

/** Whether the kubelet would use what stands under `key` for `image`. */
function isFor(key: string, image: string): boolean {
  const target = parseImageTarget(image);
  if (target === undefined) return false;
  if (key === HUB_KEY && image.startsWith(HUB)) return true;
  return ImagePattern.parse(key)?.matches(target) ?? false;
}

/** Whether `image` is `path` or lies below it, by whole components: a text prefix would reach into other tenants. */
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
