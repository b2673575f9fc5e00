import { formatSize } from '../lib/units.ts';
import type { ComingManifest, MetadataStore, Usage } from '../metadata/metadata-store.ts';
import { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import { uploadOf } from './sessions.ts';

/** Bounds what the repositories of one owner may hold together. */
export interface Quota {
  /**
   * Lets `key`, the ingest of an upload or whatever else is being written, come to `bytes` in all; DENIED when that is
   * more than is left. Of a manifest, tags that the repository does not have count too, and bytes that it has do not.
   * Counted until `release`, so that many at once don't pass where one would not.
   */
  reserve(key: string, repository: Repository, bytes: number, manifest?: ComingManifest): Promise<void>;
  /** Counts what `key` has on disk already, from before this process, whatever is left. */
  hold(key: string, repository: Repository, bytes: number): Promise<void>;
  /** What `key` holds is in the index now, or was given up. */
  release(key: string): void;
}

/** No bound. */
export const noQuota: Quota = { reserve: async () => {}, hold: async () => {}, release: () => {} };

/** How many of each there may be; they cost rows, not bytes. */
export interface CountLimits {
  /** Of one owner. */
  readonly maxRepositories: number;
  /** Of one repository. */
  readonly maxTags: number;
}

const NO_COUNT_LIMITS: CountLimits = {
  maxRepositories: Number.POSITIVE_INFINITY,
  maxTags: Number.POSITIVE_INFINITY,
};

interface Reservation {
  readonly owner: string;
  readonly bytes: number;
  readonly repository: string;
  /** The index has no such repository yet. */
  readonly isNew: boolean;
  readonly newTags: number;
}

type QuotaMetadata = Pick<MetadataStore, 'readUsage' | 'readUpload'>;

/**
 * Quotas by the first component of repositories' names. What is linked in two repositories counts in both, and what was
 * deleted counts until it is collected, as it is on disk until then. Reservations are known to this process only, but for
 * uploads that it found at its start: several processes together may pass a quota by what each has begun since. What was
 * reserved for an upload that another process ended is given back.
 */
export class PrefixQuota implements Quota {
  readonly #metadata: QuotaMetadata;
  readonly #limitOf: (owner: string) => number | undefined;
  readonly #limits: CountLimits;
  readonly #reservations = new Map<string, Reservation>();
  readonly #reserved = new Map<string, number>();

  /** `limitOf` says how many bytes the owner of a first component may hold; `undefined` is no bound. */
  constructor(
    metadata: QuotaMetadata,
    limitOf: (owner: string) => number | undefined,
    limits: CountLimits = NO_COUNT_LIMITS,
  ) {
    this.#metadata = metadata;
    this.#limitOf = limitOf;
    this.#limits = limits;
  }

  async reserve(
    key: string,
    repository: Repository,
    sizeBytes: number,
    manifest?: ComingManifest,
  ): Promise<void> {
    const { name } = repository;
    const owner = firstComponent(name);
    const limit = this.#limitOf(owner);
    // An upload asks with each write: that its repository may be was settled when it began.
    if (limit === undefined && manifest === undefined && this.#reservations.has(key)) return;
    const usage = await this.#metadata.readUsage(owner, repository, manifest);
    const bytes = usage.hasManifest ? 0 : sizeBytes;
    const { newTags } = usage;
    // Looked at and taken in one turn: nobody comes in between.
    const others = (this.#reserved.get(owner) ?? 0) - (this.#reservations.get(key)?.bytes ?? 0);
    const isOver = limit !== undefined && usage.bytes + usage.uncollectedBytes + others + bytes > limit;
    const denial = isOver
      ? overQuota(owner, limit, usage.uncollectedBytes)
      : this.#overCounts(key, { owner, name }, usage);
    if (denial !== undefined) {
      if (await this.#releaseEnded(owner)) return this.reserve(key, repository, sizeBytes, manifest);
      throw denial;
    }
    this.release(key);
    this.#set(key, { owner, bytes, repository: name, isNew: !usage.isKnown, newTags });
  }

  async hold(key: string, repository: Repository, bytes: number): Promise<void> {
    const { name } = repository;
    const owner = firstComponent(name);
    const { isKnown } = await this.#metadata.readUsage(owner, repository);
    if (this.#reservations.has(key)) return;
    this.#set(key, { owner, bytes, repository: name, isNew: !isKnown, newTags: 0 });
  }

  /** What counts of the owner: what its repositories hold, what was deleted and is not collected yet, and what is coming. */
  async usedBytes(owner: string): Promise<number> {
    const { bytes, uncollectedBytes } = await this.#metadata.readUsage(owner, { upstream: '', name: owner });
    return bytes + uncollectedBytes + (this.#reserved.get(owner) ?? 0);
  }

  #set(key: string, reservation: Reservation): void {
    const { owner, bytes } = reservation;
    this.#reservations.set(key, reservation);
    this.#reserved.set(owner, (this.#reserved.get(owner) ?? 0) + bytes);
  }

  /** With what others have under way; `undefined` when there is room. */
  #overCounts(
    key: string,
    { owner, name }: { readonly owner: string; readonly name: string },
    usage: Usage,
  ): OciError | undefined {
    const { maxRepositories, maxTags } = this.#limits;
    const { newTags } = usage;
    if (usage.isKnown && newTags === 0) return undefined;
    const coming = new Set<string>();
    let comingTags = 0;
    for (const [otherKey, other] of this.#reservations) {
      if (otherKey === key || other.owner !== owner) continue;
      if (other.isNew && other.repository !== name) coming.add(other.repository);
      if (other.repository === name) comingTags += other.newTags;
    }
    if (!usage.isKnown && usage.repositories + coming.size + 1 > maxRepositories) {
      return new OciError('DENIED', {
        message: `${owner} may have at most ${maxRepositories} repositories: delete one completely first`,
        detail: { owner, maxRepositories },
      });
    }
    if (newTags > 0 && usage.tags + comingTags + newTags > maxTags) {
      return new OciError('DENIED', {
        message: `a repository may have at most ${maxTags} tags: delete some of ${name} first`,
        detail: { repository: name, maxTags },
      });
    }
    return undefined;
  }

  release(key: string): void {
    const reservation = this.#reservations.get(key);
    if (reservation === undefined) return;
    const { owner, bytes } = reservation;
    this.#reservations.delete(key);
    const left = (this.#reserved.get(owner) ?? 0) - bytes;
    if (left > 0) this.#reserved.set(owner, left);
    else this.#reserved.delete(owner);
  }

  /** Releases what the owner's uploads held that are there no more; false when there was nothing of the kind. */
  async #releaseEnded(owner: string): Promise<boolean> {
    let released = false;
    for (const [key, reservation] of this.#reservations) {
      const id = reservation.owner === owner ? uploadOf(key) : undefined;
      if (id === undefined || (await this.#metadata.readUpload(id)) !== undefined) continue;
      this.release(key);
      released = true;
    }
    return released;
  }
}

function firstComponent(name: string): string {
  const slash = name.indexOf('/');
  return slash === -1 ? name : name.slice(0, slash);
}

function overQuota(owner: string, limitBytes: number, uncollectedBytes: number): OciError {
  const limit = formatSize(limitBytes);
  const uncollected =
    uncollectedBytes === 0
      ? 'Delete something first'
      : `${formatSize(uncollectedBytes)} were deleted but count until garbage collection (upkeep.gcInterval) removes them, once unused for upkeep.gcGracePeriod`;
  return new OciError('DENIED', {
    message: `the quota of ${owner} is used up: its repositories may store ${limit}, including unfinished pushes. ${uncollected}`,
    detail: { owner, limitBytes, uncollectedBytes },
  });
}
