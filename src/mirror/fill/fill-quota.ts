import type { SpoolSpace } from '../../blobs/spool.ts';
import { StorageFull } from '../../blobs/storage-full.ts';
import { formatSize, sizeText } from '../../lib/units.ts';

/** The share of the store, or of the free disk space, that all downloads of unknown size may take together. */
const UNNAMED_SHARE = 0.25;

/** The figures of the store that limit Fills. */
export interface FillQuotaStore {
  /** Bytes of all ingests, in progress or abandoned. */
  readonly unfinishedBytes: number;
  readonly space: Pick<SpoolSpace, 'look' | 'mayAdmit'>;
}

export interface FillQuotaLimits {
  /** `storage.maxBytes`, read each time; `undefined` means that only the disk limits. */
  readonly maxBytes?: number | undefined;
}

/**
 * Limits how much unfinished Fills may take on disk: they may displace stored content, up to `maxBytes` in total.
 * Beyond the limit they fail with StorageFull, as on a full disk, and readers continue straight from upstream. The
 * store itself keeps space on the disk free.
 */
export class FillQuota {
  readonly #store: FillQuotaStore;
  readonly #limits: FillQuotaLimits;
  #unnamedBytes = 0;

  constructor(store: FillQuotaStore, limits: FillQuotaLimits) {
    this.#store = store;
    this.#limits = limits;
  }

  get #maxBytes(): number {
    return this.#limits.maxBytes ?? Number.POSITIVE_INFINITY;
  }

  /** Enters a Fill, which calls `leave` at its end. */
  async enter(): Promise<FillSpace> {
    const { freeBytes, minFreeBytes } = await this.#store.space.look();
    const unnamedLimit = Math.min(this.#maxBytes, Math.max(0, freeBytes - minFreeBytes)) * UNNAMED_SHARE;
    let taken = 0;
    return {
      take: (bytes, size) => {
        this.#requireFits(bytes, size ?? 0);
        if (size !== undefined) return;
        if (this.#unnamedBytes + bytes > unnamedLimit) {
          throw new StorageFull(`blobs of unknown size may take ${sizeText(unnamedLimit)} in total`);
        }
        taken += bytes;
        this.#unnamedBytes += bytes;
      },
      leave: () => {
        this.#unnamedBytes -= taken;
        taken = 0;
      },
    };
  }

  /**
   * Whether this many bytes more of a blob of `size` bytes can be stored, as far as is known. If the disk cannot be
   * asked, true: that is reported when they are written.
   */
  async hasRoomFor(bytes: number, size: number): Promise<boolean> {
    if (size > this.#maxBytes) return false;
    return this.#store.space.mayAdmit(bytes).catch(() => true);
  }

  /** Whether this many bytes take at most `share` of the free space, so that one could do with them or without. */
  async hasSpareRoomFor(bytes: number, share: number): Promise<boolean> {
    const { freeBytes, minFreeBytes } = await this.#store.space.look();
    const roomBytes = Math.min(freeBytes - minFreeBytes, this.#maxBytes - this.#store.unfinishedBytes);
    return bytes <= roomBytes * share;
  }

  #requireFits(bytes: number, size: number): void {
    if (size > this.#maxBytes || this.#store.unfinishedBytes + bytes > this.#maxBytes) {
      throw new StorageFull(`the store may take ${formatSize(this.#maxBytes)} in total (storage.maxBytes)`);
    }
  }
}

/** The space of one Fill. */
export interface FillSpace {
  /** Reserves space for the next `bytes` of a blob of `size` (`undefined` while unknown). Throws StorageFull. */
  take(bytes: number, size: number | undefined): void;
  leave(): void;
}
