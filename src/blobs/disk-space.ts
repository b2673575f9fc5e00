import { statfs } from 'node:fs/promises';
import { Changes } from '../lib/changes.ts';
import { sizeText } from '../lib/units.ts';
import type { DiskLook, SpoolSpace } from './spool.ts';
import { StorageFull } from './storage-full.ts';

/** How long a measurement of the disk is used: other programs write to it, too. */
const LOOK_MS = 1_000;
/** How long not to try again after making room has failed, since that surveys the whole store. */
const STUCK_MS = 5_000;

/** How many bytes must stay free on a disk of this size. */
export type MinFree = (diskBytes: number) => number;

/**
 * Keeps `minFree` of the store's disk free from downloads and pushes, so that the index can always be written and
 * content removed. Whatever may be evicted is removed before a write is refused.
 */
export class DiskSpace implements SpoolSpace {
  readonly #folder: string;
  readonly #minFree: MinFree;
  /** The room at the last measurement, minus what was admitted since. */
  #roomBytes = 0;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #stuckAtMs = Number.NEGATIVE_INFINITY;
  /** Whether making room helped when it was last tried. */
  #hasMadeRoom = false;
  #making: Promise<void> | undefined;
  readonly #roomMade = new Changes();
  roomMaker?: SpoolSpace['roomMaker'];

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

  async mayAdmit(bytes: number): Promise<boolean> {
    if (performance.now() - this.#lookedAtMs > LOOK_MS) await this.look();
    return bytes <= this.#roomBytes || this.#hasMadeRoom;
  }

  async makeRoom(bytes: number): Promise<void> {
    await this.roomMaker?.(bytes);
    this.#roomMade.tell();
  }

  onRoomMade(listener: () => void): () => void {
    return this.#roomMade.listen(listener);
  }

  /** Rejects with StorageFull if they may not be written, even after eviction. */
  async admit(bytes: number): Promise<void> {
    if (bytes === 0 || this.#take(bytes, LOOK_MS)) return;
    await this.look();
    if (this.#take(bytes)) return;
    while (!this.#isStuck) {
      const isOwn = await this.#make(bytes);
      await this.look();
      this.#hasMadeRoom = this.#take(bytes);
      if (this.#hasMadeRoom) return;
      if (isOwn) this.#stuckAtMs = performance.now();
    }
    const { freeBytes, minFreeBytes } = await this.look();
    const less = `less than storage.minFree (${sizeText(minFreeBytes)})`;
    throw new StorageFull(
      freeBytes < minFreeBytes
        ? `the disk has ${sizeText(freeBytes)} free, ${less}`
        : `the disk has ${sizeText(freeBytes)} free: ${sizeText(bytes)} more would leave ${less}`,
    );
  }

  get #isStuck(): boolean {
    return performance.now() - this.#stuckAtMs <= STUCK_MS;
  }

  /** False if it ran for another caller, who needed less. */
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
