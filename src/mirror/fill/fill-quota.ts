import type { SpoolSpace } from '../../blobs/spool.ts';
import { StorageFull } from '../../blobs/storage-full.ts';
import { formatSize, sizeText } from '../../lib/units.ts';

/** The share of the store, or of the free disk space, that all downloads of unknown size may take together. */
const UNNAMED_SHARE = 0.25;

/** How long not to try again after making room was of no use, since that lists all ingests. */
const STUCK_MS = 5_000;

/** For how long it is known how much is stored for good. */
const KEPT_KNOWN_MS = 5_000;

/** The figures of the store that limit Fills. */
export interface FillQuotaStore {
  /** Bytes of all ingests, in progress or abandoned. */
  readonly unfinishedBytes: number;
  readonly space: Pick<SpoolSpace, 'look' | 'mayAdmit' | 'makeRoom'>;
}

export interface FillQuotaLimits {
  /** `storage.maxBytes`, read each time; `undefined` means that only the disk limits. */
  readonly maxBytes?: number | undefined;
}

/**
 * Limits how much unfinished Fills may take on disk: they may displace stored content and idle ingests, up to `maxBytes` in
 * total. Beyond the limit they fail with StorageFull, as on a full disk, and readers continue straight from upstream. The
 * store itself keeps space on the disk free.
 */
export class FillQuota {
  readonly #store: FillQuotaStore;
  readonly #limits: FillQuotaLimits;
  readonly #askKept: () => Promise<number>;
  /** What is stored and cannot be evicted, as was last asked. */
  #keptBytes = 0;
  #keptAtMs = Number.NEGATIVE_INFINITY;
  #unnamedBytes = 0;
  #makingRoom: Promise<void> | undefined;
  #stuckAtMs = Number.NEGATIVE_INFINITY;

  /** `kept`: how many stored bytes count, since they cannot be evicted. Default: none. */
  constructor(store: FillQuotaStore, limits: FillQuotaLimits, kept: () => Promise<number> = async () => 0) {
    this.#store = store;
    this.#limits = limits;
    this.#askKept = kept;
  }

  get #maxBytes(): number {
    return this.#limits.maxBytes ?? Number.POSITIVE_INFINITY;
  }

  /** Enters a Fill, which calls `leave` at its end. */
  async enter(): Promise<FillSpace> {
    const { freeBytes, minFreeBytes } = await this.#store.space.look();
    await this.#lookAtKept();
    const unnamedLimit = Math.min(this.#maxBytes, Math.max(0, freeBytes - minFreeBytes)) * UNNAMED_SHARE;
    let taken = 0;
    return {
      take: async (bytes, size) => {
        await this.#requireFits(bytes, size ?? 0);
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
    if (size + this.#keptBytes > this.#maxBytes) return false;
    return this.#store.space.mayAdmit(bytes).catch(() => true);
  }

  /**
   * Whether this many bytes more of a blob can be stored, of which `size` bytes are then kept, as far as is known; makes
   * room for them as `take` would.
   */
  async canTake(bytes: number, size: number): Promise<boolean> {
    await this.#lookAtKept();
    const fits = await this.#requireFits(bytes, size).then(
      () => true,
      () => false,
    );
    return fits && this.hasRoomFor(bytes, size);
  }

  /** Whether this many bytes take at most `share` of the free space, so that one could do with them or without. */
  async hasSpareRoomFor(bytes: number, share: number): Promise<boolean> {
    const { freeBytes, minFreeBytes } = await this.#store.space.look();
    const roomBytes = Math.min(freeBytes - minFreeBytes, this.#maxBytes - this.#store.unfinishedBytes);
    return bytes <= roomBytes * share;
  }

  /** Eviction looks only now and then whether idle ingests leave enough room to others. */
  async #requireFits(bytes: number, size: number): Promise<void> {
    const fits = () => this.#keptBytes + this.#store.unfinishedBytes + bytes <= this.#maxBytes;
    if (size <= this.#maxBytes) {
      if (fits()) return;
      if (performance.now() - this.#stuckAtMs >= STUCK_MS) {
        await this.#makeRoom(bytes);
        if (fits()) return;
        this.#stuckAtMs = performance.now();
      }
    }
    throw new StorageFull(`the store may take ${formatSize(this.#maxBytes)} in total (storage.maxBytes)`);
  }

  async #lookAtKept(): Promise<void> {
    const nowMs = performance.now();
    if (this.#limits.maxBytes === undefined || nowMs - this.#keptAtMs < KEPT_KNOWN_MS) return;
    this.#keptAtMs = nowMs;
    // Without the index, nothing can be stored anyway.
    this.#keptBytes = await this.#askKept().catch(() => this.#keptBytes);
  }

  async #makeRoom(bytes: number): Promise<void> {
    this.#makingRoom ??= this.#store.space.makeRoom(bytes).finally(() => {
      this.#makingRoom = undefined;
    });
    await this.#makingRoom;
  }
}

/** The space of one Fill. */
export interface FillSpace {
  /** Reserves space for the next `bytes` of a blob of `size` (`undefined` while unknown). Rejects with StorageFull. */
  take(bytes: number, size: number | undefined): Promise<void>;
  leave(): void;
}
