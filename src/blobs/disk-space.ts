import { statfs } from 'node:fs/promises';
import { sizeText } from '../lib/units.ts';
import { StorageFull } from './storage-full.ts';

/** How long a look at the disk counts: others write to it too. */
const LOOK_MS = 1_000;
/** After no room could be made, so long none is tried to be made: it takes a survey of the whole store. */
const STUCK_MS = 5_000;

/** How much must stay free of a disk of so many bytes. */
export type MinFree = (diskBytes: number) => number;

export interface DiskLook {
  /** For this user. */
  readonly freeBytes: number;
  /** What is to stay free of it. */
  readonly minFreeBytes: number;
}

/**
 * Room on the disk of a store: what is brought or pushed leaves `minFree` of it, so that the index can always be written
 * and content be removed. What may go is removed before anything is refused.
 */
export class DiskSpace {
  readonly #folder: string;
  readonly #minFree: MinFree;
  /** Of the last look, less what was admitted since. */
  #roomBytes = 0;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #stuckAtMs = Number.NEGATIVE_INFINITY;
  #making: Promise<void> | undefined;
  /** Removes what may go, so that so many bytes more can be written if possible. Passed in by `compose/`. */
  makeRoom = async (_bytes: number): Promise<void> => {};

  constructor(folder: string, minFree: MinFree) {
    this.#folder = folder;
    this.#minFree = minFree;
  }

  async look(): Promise<DiskLook> {
    const { bavail, blocks, bsize } = await statfs(this.#folder);
    const freeBytes = bavail * bsize;
    const minFreeBytes = this.#minFree(blocks * bsize);
    this.#roomBytes = freeBytes - minFreeBytes;
    this.#lookedAtMs = performance.now();
    return { freeBytes, minFreeBytes };
  }

  /** Returns when so many bytes may be written; rejects with StorageFull when they may not, whatever is removed. */
  async admit(bytes: number): Promise<void> {
    if (bytes === 0 || this.#take(bytes, LOOK_MS)) return;
    await this.look();
    if (this.#take(bytes)) return;
    while (performance.now() - this.#stuckAtMs > STUCK_MS) {
      const isOwn = await this.#make(bytes);
      await this.look();
      if (this.#take(bytes)) return;
      if (isOwn) this.#stuckAtMs = performance.now();
    }
    const { freeBytes, minFreeBytes } = await this.look();
    throw new StorageFull(
      `the disk has ${sizeText(freeBytes)} free, less than storage.minFree (${sizeText(minFreeBytes)})`,
    );
  }

  /** False when it was made for somebody else, who needed less. */
  async #make(bytes: number): Promise<boolean> {
    const isOwn = this.#making === undefined;
    this.#making ??= this.makeRoom(bytes).finally(() => {
      this.#making = undefined;
    });
    await this.#making;
    return isOwn;
  }

  #take(bytes: number, maxAgeMs = Number.POSITIVE_INFINITY): boolean {
    if (performance.now() - this.#lookedAtMs > maxAgeMs || this.#roomBytes < bytes) return false;
    this.#roomBytes -= bytes;
    return true;
  }
}
