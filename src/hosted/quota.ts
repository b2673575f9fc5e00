import { formatDuration, formatSize, sizeText } from '../lib/units.ts';
import { countedBytes, MIN_COUNTED_BYTES } from '../oci/counted-bytes.ts';
import type { ComingManifest, MetadataStore, OwnerBytes, Usage } from '../metadata/metadata-store.ts';
import { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import { uploadOf } from './sessions.ts';

/** Limits how much the repositories of one owner may store in total. */
export interface Quota {
  /**
   * Reserves space so that `key`, the ingest of an upload or whatever else is being written, has `bytes` in all; DENIED
   * if that exceeds the limit. It counts as at least a block (`countedBytes`), like what it becomes. For a manifest,
   * tags that the repository does not have count, too, and bytes that it already has do not, not even if the limit was
   * exceeded before. Reserved until `release`, so that concurrent writes cannot exceed the limit together.
   */
  reserve(key: string, repository: Repository, bytes: number, manifest?: ComingManifest): Promise<void>;
  /** Throws what `reserve` would, and reserves nothing. */
  check(key: string, repository: Repository, bytes: number): Promise<void>;
  /** Counts what `key` already has on disk, even if it exceeds the limit. */
  hold(key: string, repository: Repository, bytes: number): Promise<void>;
  /** Ends the reservation of `key`: what it wrote is in the index, or was discarded. */
  release(key: string): void;
}

/** No limit. */
export const noQuota: Quota = {
  reserve: async () => {},
  check: async () => {},
  hold: async () => {},
  release: () => {},
};

/** Limits on the number of repositories and tags, each of which is a row. */
export interface CountLimits {
  /** For each owner. */
  readonly maxRepositories: number;
  /** For each repository. */
  readonly maxTags: number;
}

const NO_COUNT_LIMITS: CountLimits = {
  maxRepositories: Number.POSITIVE_INFINITY,
  maxTags: Number.POSITIVE_INFINITY,
};

/** When deleted content is collected, for messages: `upkeep` in the configuration. */
export interface CollectionSchedule {
  readonly gcIntervalMs: number | false;
  readonly gcGracePeriodMs: number;
}

const BY_HAND: CollectionSchedule = { gcIntervalMs: false, gcGracePeriodMs: 0 };

interface Reservation {
  readonly owner: string;
  readonly bytes: number;
  readonly repository: string;
  /** Whether the index has no such repository yet. */
  readonly isNew: boolean;
  readonly newTags: number;
}

/** What is about to be written, as in `Quota.reserve`. */
interface Coming {
  readonly key: string;
  readonly repository: Repository;
  readonly sizeBytes: number;
  readonly manifest?: ComingManifest | undefined;
}

const NOTHING: OwnerBytes = { bytes: 0, uncollectedBytes: 0 };

type QuotaMetadata = Pick<MetadataStore, 'readUsage' | 'readOwnerBytes' | 'readUpload'>;

/**
 * Quotas by the first component of repository names. Content that is linked in two repositories counts in both; deleted
 * content counts until it is collected, since it is on disk until then. Everything counts at least as what it takes on
 * disk (MIN_COUNTED_BYTES).
 *
 * Reservations are known to this process only, except those of uploads that it found when it started: several processes
 * together may exceed a quota by what each has begun since. The reservation of an upload that another process has ended
 * is released.
 */
export class PrefixQuota implements Quota {
  readonly #metadata: QuotaMetadata;
  readonly #limitOf: (owner: string) => number | undefined;
  readonly #limits: CountLimits;
  readonly #schedule: CollectionSchedule;
  readonly #onDenied: (repository: Repository, denial: OciError) => void;
  readonly #reservations = new Map<string, Reservation>();
  readonly #reserved = new Map<string, number>();

  /**
   * `limitOf` returns how many bytes the owner of a first component may store; `undefined` for no limit. `onDenied` is called
   * with each refusal.
   */
  constructor(
    metadata: QuotaMetadata,
    limitOf: (owner: string) => number | undefined,
    limits: CountLimits = NO_COUNT_LIMITS,
    schedule: CollectionSchedule = BY_HAND,
    onDenied: (repository: Repository, denial: OciError) => void = () => {},
  ) {
    this.#onDenied = onDenied;
    this.#metadata = metadata;
    this.#limitOf = limitOf;
    this.#limits = limits;
    this.#schedule = schedule;
  }

  reserve(key: string, repository: Repository, sizeBytes: number, manifest?: ComingManifest): Promise<void> {
    return this.#admit({ key, repository, sizeBytes, manifest }, reservation => {
      this.release(key);
      this.#set(key, reservation);
    });
  }

  check(key: string, repository: Repository, sizeBytes: number): Promise<void> {
    return this.#admit({ key, repository, sizeBytes }, () => {});
  }

  async hold(key: string, repository: Repository, sizeBytes: number): Promise<void> {
    const { name } = repository;
    const owner = firstComponent(name);
    const { isKnown } = await this.#metadata.readUsage(owner, repository);
    if (this.#reservations.has(key)) return;
    const bytes = countedBytes(sizeBytes);
    this.#set(key, { owner, bytes, repository: name, isNew: !isKnown, newTags: 0 });
  }

  /**
   * How much counts for each of these owners: the content of its repositories, deleted content that is not collected
   * yet, and reservations.
   */
  async usedBytes(owners: readonly string[]): Promise<ReadonlyMap<string, number>> {
    const stored = await this.#metadata.readOwnerBytes(owners);
    return new Map(
      owners.map(owner => {
        const { bytes, uncollectedBytes } = stored.get(owner) ?? NOTHING;
        return [owner, bytes + uncollectedBytes + (this.#reserved.get(owner) ?? 0)];
      }),
    );
  }

  /** Calls `onAdmitted` without waiting after it has decided, so that there is no race; DENIED otherwise. */
  async #admit(coming: Coming, onAdmitted: (reservation: Reservation) => void): Promise<void> {
    const { key, repository, sizeBytes, manifest } = coming;
    const { name } = repository;
    const owner = firstComponent(name);
    const limit = this.#limitOf(owner);
    // An upload asks with each write; the number of repositories was checked when it began.
    if (limit === undefined && manifest === undefined && this.#reservations.has(key)) return;
    const usage = await this.#metadata.readUsage(owner, repository, manifest);
    const bytes = usage.hasManifest ? 0 : countedBytes(sizeBytes);
    const others = (this.#reserved.get(owner) ?? 0) - (this.#reservations.get(key)?.bytes ?? 0);
    const isOver =
      limit !== undefined && bytes > 0 && usage.bytes + usage.uncollectedBytes + others + bytes > limit;
    const denial = isOver
      ? overQuota({ owner, limit, bytes, usage, unfinishedBytes: others }, this.#schedule)
      : this.#overCounts(key, { owner, name }, usage);
    if (denial === undefined) {
      onAdmitted({ owner, bytes, repository: name, isNew: !usage.isKnown, newTags: usage.newTags });
      return;
    }
    if (!(await this.#releaseEnded(owner))) {
      this.#onDenied(repository, denial);
      throw denial;
    }
    await this.#admit(coming, onAdmitted);
  }

  #set(key: string, reservation: Reservation): void {
    const { owner, bytes } = reservation;
    this.#reservations.set(key, reservation);
    this.#reserved.set(owner, (this.#reserved.get(owner) ?? 0) + bytes);
  }

  /** Which count limit would be exceeded, with reservations of others; `undefined` if none. */
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

  /** Releases the reservations of the owner's uploads that no longer exist; false if there were none. */
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

/** The owner of a repository with this name. */
export function firstComponent(name: string): string {
  const slash = name.indexOf('/');
  return slash === -1 ? name : name.slice(0, slash);
}

interface Excess {
  readonly owner: string;
  readonly limit: number;
  readonly bytes: number;
  readonly usage: OwnerBytes;
  /** What other writes have reserved. */
  readonly unfinishedBytes: number;
}

function overQuota(excess: Excess, schedule: CollectionSchedule): OciError {
  const { owner, limit, bytes, usage, unfinishedBytes } = excess;
  const { uncollectedBytes } = usage;
  const usedBytes = usage.bytes + uncollectedBytes + unfinishedBytes;
  const rule = `its repositories may store ${formatSize(limit)}, including unfinished pushes, and each blob or manifest counts as at least ${formatSize(MIN_COUNTED_BYTES)}`;
  const unfinished = unfinishedBytes === 0 ? '' : `, ${sizeText(unfinishedBytes)} of it by unfinished pushes`;
  const sum =
    `${sizeText(usedBytes)} is used${unfinished}; this needs ${sizeText(bytes)}, which is ` +
    `${sizeText(usedBytes + bytes - limit)} too much`;
  return new OciError('DENIED', {
    message: `the quota of ${owner} is used up: ${rule}. ${sum}. ${wayOut(excess, schedule)}`,
    detail: { owner, limitBytes: limit, usedBytes, neededBytes: bytes, uncollectedBytes },
  });
}

function wayOut({ limit, bytes, usage }: Excess, schedule: CollectionSchedule): string {
  if (bytes > limit) return 'The quota (quotaBytes) is too small for this';
  if (usage.uncollectedBytes > 0) {
    return `${sizeText(usage.uncollectedBytes)} was deleted but counts until ${collected(schedule)}`;
  }
  const deletion = usage.bytes > 0 ? `Delete something first; it counts until ${collected(schedule)}. ` : '';
  return `${deletion}If what is used belongs to the same image, the quota (quotaBytes) is too small for it`;
}

/** Not a promise: collection may be stopped, or delayed by a run that takes long. */
function collected({ gcIntervalMs, gcGracePeriodMs }: CollectionSchedule): string {
  return gcIntervalMs === false
    ? '`entrepot gc` removes it'
    : `garbage collection removes it, normally within ${formatDuration(gcIntervalMs + gcGracePeriodMs)}`;
}
