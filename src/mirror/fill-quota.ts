import { StorageFull } from '../blobs/storage-full.ts';

/** All blobs whose size nobody names get together so much of the store, or of what the disk may still take. */
const UNNAMED_SHARE = 0.25;

/** What is looked at of the store. */
export interface FillQuotaStore {
  /** Of ingests, whoever writes or left them. */
  readonly unfinishedBytes: number;
  readonly space: { look(): Promise<{ readonly freeBytes: number; readonly minFreeBytes: number }> };
}

export interface FillQuotaLimits {
  /** `storage.maxBytes`, read each time; `undefined` is no limit but the disk's. */
  readonly maxBytes?: number | undefined;
}

/**
 * How much the Fills of a store may have on disk before they are kept. Where there is no room the answer is that of a
 * full disk, with which readers go on straight from upstream: what is downloaded may displace what is held, up to
 * `maxBytes` in all. What of the disk stays free, the store itself sees to.
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

  /** For one Fill; `leave` it at the end. */
  async enter(): Promise<Place> {
    const { freeBytes, minFreeBytes } = await this.#store.space.look();
    const unnamedLimit = Math.min(this.#maxBytes, Math.max(0, freeBytes - minFreeBytes)) * UNNAMED_SHARE;
    let taken = 0;
    return {
      take: (bytes, size) => {
        this.#requireFits(bytes, size ?? 0);
        if (size !== undefined) return;
        if (this.#unnamedBytes + bytes > unnamedLimit) {
          throw new StorageFull(`blobs of unknown size may take ${unnamedLimit} bytes in total`);
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

  #requireFits(bytes: number, size: number): void {
    if (size > this.#maxBytes || this.#store.unfinishedBytes + bytes > this.#maxBytes) {
      throw new StorageFull(`the store may take ${this.#maxBytes} bytes in total`);
    }
  }
}

export interface Place {
  /** Room for the next `bytes` of a blob of `size`, `undefined` while nobody names it. Throws StorageFull. */
  take(bytes: number, size: number | undefined): void;
  leave(): void;
}
