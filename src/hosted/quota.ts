import { formatSize } from '../lib/units.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import { uploadOf } from './sessions.ts';

/** Bounds what the repositories of one owner may hold together. */
export interface Quota {
  /**
   * Lets `key`, the ingest of an upload or whatever else is being written, come to `bytes` in all; DENIED when that is
   * more than is left. Counted until `release`, so that many at once don't pass where one would not.
   */
  reserve(key: string, repository: Repository, bytes: number): Promise<void>;
  /** What `key` holds is in the index now, or was given up. */
  release(key: string): void;
}

/** No bound. */
export const noQuota: Quota = { reserve: async () => {}, release: () => {} };

interface Reservation {
  readonly owner: string;
  readonly bytes: number;
}

/**
 * Quotas by the first component of repositories' names. What is linked in two repositories counts in both. Reservations
 * are this process's own; between processes a quota may be passed by what each has under way, but none holds room for an
 * upload that another one has ended.
 */
export class PrefixQuota implements Quota {
  readonly #metadata: Pick<MetadataStore, 'usedBytes' | 'readUpload'>;
  readonly #limitOf: (owner: string) => number | undefined;
  readonly #reservations = new Map<string, Reservation>();
  readonly #reserved = new Map<string, number>();

  /** `limitOf` says how many bytes the owner of a first component may hold; `undefined` is no bound. */
  constructor(
    metadata: Pick<MetadataStore, 'usedBytes' | 'readUpload'>,
    limitOf: (owner: string) => number | undefined,
  ) {
    this.#metadata = metadata;
    this.#limitOf = limitOf;
  }

  async reserve(key: string, repository: Repository, bytes: number): Promise<void> {
    const owner = firstComponent(repository.name);
    const limit = this.#limitOf(owner);
    if (limit === undefined) return;
    const used = await this.#metadata.usedBytes(owner);
    // Looked at and taken in one turn: nobody comes in between.
    const others = (this.#reserved.get(owner) ?? 0) - (this.#reservations.get(key)?.bytes ?? 0);
    if (used + others + bytes > limit) {
      if (await this.#releaseEnded(owner)) return this.reserve(key, repository, bytes);
      throw overQuota(owner, limit);
    }
    this.release(key);
    this.#reservations.set(key, { owner, bytes });
    this.#reserved.set(owner, others + bytes);
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

function overQuota(owner: string, limitBytes: number): OciError {
  return new OciError('DENIED', {
    message: `the quota of ${owner} is used up: its repositories may hold ${formatSize(limitBytes)}, with what is being pushed. Delete something first`,
    detail: { owner, limitBytes },
  });
}
