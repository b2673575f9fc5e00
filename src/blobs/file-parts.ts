import { constants } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { absentAsUndefined } from '../lib/error-code.ts';
import { Extents, type KnownExtents } from '../lib/extents.ts';
import type { Lease } from '../lib/lease.ts';
import { openRegularFile } from '../lib/regular-file.ts';
import type { DiskSpace } from './disk-space.ts';
import type { FilePaths } from './file-paths.ts';
import {
  BYTES_START,
  decodePartsMap,
  encodePartsMap,
  MAP_HEAD_BYTES,
  mapPosition,
  MAX_EXTENTS,
  type PartsMap,
  partsMapLength,
} from './parts-map.ts';
import type { BlobParts, SavedParts } from './spool.ts';
import { StorageFull } from './storage-full.ts';

/** Only the store's own process writes parts. */
const PARTS_MODE = 0o644;

/** What parts need of their spool. */
export interface PartsSpool {
  readonly paths: FilePaths;
  readonly space: DiskSpace;
  /** Called with the change of their size on disk. */
  readonly grown: (bytes: number) => void;
}

/**
 * A sparse file below `ingest/`: two places for a map, then the blob, each byte in its place. A map is written only when
 * the bytes that it names are synced, and not over the previous one, so whatever a crash leaves, a whole map tells the
 * truth. As with ingests, the Lease is confirmed before and after each step.
 */
export class FileParts implements BlobParts {
  readonly lease: Lease;
  readonly #spool: PartsSpool;
  readonly #file: FileHandle;
  readonly #path: string;
  readonly #size: number;
  readonly #extents: Extents;
  #generation: number;
  /** Each write in progress may add one extent. */
  #writing = 0;
  /** Whether there are bytes that the map in the file lacks. */
  #isUnsaved = false;
  #saving: Promise<void> | undefined;
  /** The first failed sync is final: a later one may succeed although pages were lost. */
  #syncFailure: unknown;
  #isEnded = false;
  #isGone = false;
  #closing: Promise<void> | undefined;

  private constructor(spool: PartsSpool, lease: Lease, file: FileHandle, map: PartsMap) {
    this.#spool = spool;
    this.lease = lease;
    this.#file = file;
    this.#path = spool.paths.parts(lease.key, lease.epoch);
    this.#size = map.size;
    this.#generation = map.generation;
    this.#extents = new Extents(map.extents);
  }

  /**
   * Opens or creates the file of `lease`, for a blob of `size` bytes. What an earlier holder wrote without saving it, or
   * for another size, is discarded.
   */
  static async open(spool: PartsSpool, lease: Lease, size: number): Promise<FileParts> {
    const path = spool.paths.parts(lease.key, lease.epoch);
    const file = await open(path, constants.O_RDWR | constants.O_CREAT, PARTS_MODE);
    try {
      const found = await readPartsMap(file);
      if (found?.size === size) return new FileParts(spool, lease, file, found);
      await file.truncate(0);
      return new FileParts(spool, lease, file, { size, generation: 0, extents: new Extents() });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get extents(): KnownExtents {
    return this.#extents;
  }

  async write(position: number, chunk: Uint8Array): Promise<void> {
    this.#assertOpen();
    const end = position + chunk.byteLength;
    if (end > this.#size) throw new RangeError(`${end} is behind the end of ${this.#size} bytes`);
    if (this.#extents.count + this.#writing >= MAX_EXTENTS)
      throw new StorageFull(`a blob is kept in ${MAX_EXTENTS} parts at most`);
    this.#writing += 1;
    try {
      await this.#spool.space.admit(chunk.byteLength);
      await this.#writeOut(position, chunk);
    } finally {
      this.#writing -= 1;
    }
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    return readPart(this.#file, this.#extents, buffer, position);
  }

  async save(): Promise<void> {
    this.#assertOpen();
    await this.#save();
  }

  async suspend(): Promise<void> {
    if (this.#isEnded) return;
    this.#isEnded = true;
    try {
      await this.#save();
      // Upkeep goes by the time of the last use, which may only have read.
      await this.#file.utimes(new Date(), new Date());
    } catch (error) {
      await this.#remove();
      throw error;
    }
    if (this.#extents.count === 0) await this.#remove();
  }

  async abort(): Promise<void> {
    this.#isEnded = true;
    await this.#remove();
  }

  close(): Promise<void> {
    this.#isEnded = true;
    this.#closing ??= (this.#saving ?? Promise.resolve()).catch(() => {}).then(() => this.#file.close());
    return this.#closing;
  }

  async #writeOut(position: number, chunk: Uint8Array): Promise<void> {
    for (let written = 0; written < chunk.byteLength; ) {
      await this.lease.confirm();
      const { bytesWritten } = await this.#file.write(
        chunk,
        written,
        chunk.byteLength - written,
        BYTES_START + position + written,
      );
      await this.lease.confirm();
      this.#wrote(position + written, bytesWritten);
      written += bytesWritten;
    }
  }

  #wrote(start: number, count: number): void {
    const before = this.#extents.bytes;
    this.#extents.add({ start, end: start + count });
    this.#isUnsaved = true;
    if (!this.#isGone) this.#spool.grown(this.#extents.bytes - before);
  }

  /** One at a time; who comes meanwhile waits for the next, which has what was written until then. */
  async #save(): Promise<void> {
    await this.#saving;
    if (this.#saving !== undefined) return this.#save();
    if (!this.#isUnsaved || this.#isGone) return;
    this.#saving = this.#saveNow().finally(() => {
      this.#saving = undefined;
    });
    await this.#saving;
  }

  async #saveNow(): Promise<void> {
    if (this.#syncFailure !== undefined) throw this.#syncFailure;
    const generation = this.#generation + 1;
    const map = encodePartsMap({ size: this.#size, generation, extents: this.#extents });
    this.#isUnsaved = false;
    try {
      await this.lease.confirm();
      await this.#file.datasync();
      await this.#file.write(map, 0, map.byteLength, mapPosition(generation));
      await this.#file.datasync();
      await this.lease.confirm();
    } catch (error) {
      this.#isUnsaved = true;
      this.#syncFailure = error;
      throw error;
    }
    this.#generation = generation;
  }

  async #remove(): Promise<void> {
    if (this.#isGone) return;
    this.#isGone = true;
    await rm(this.#path, { force: true });
    this.#spool.grown(-this.#extents.bytes);
  }

  #assertOpen(): void {
    if (this.#isEnded) throw new Error('the parts have ended');
  }
}

/** What another process saves, or has left, in a file of parts. */
export class FileSavedParts implements SavedParts {
  readonly #file: FileHandle;
  #map: PartsMap;

  private constructor(file: FileHandle, map: PartsMap) {
    this.#file = file;
    this.#map = map;
  }

  /** `undefined` if there is no such file, or nothing is saved in it. */
  static async open(path: string): Promise<FileSavedParts | undefined> {
    const opened = await absentAsUndefined(openRegularFile(path));
    if (opened === undefined) return undefined;
    const map = await readPartsMap(opened.file).catch(() => undefined);
    if (map !== undefined) return new FileSavedParts(opened.file, map);
    await opened.file.close();
    return undefined;
  }

  get size(): number {
    return this.#map.size;
  }

  get extents(): KnownExtents {
    return this.#map.extents;
  }

  async refresh(): Promise<boolean> {
    if ((await this.#file.stat()).nlink === 0) return false;
    this.#map = (await readPartsMap(this.#file)) ?? this.#map;
    return true;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    return readPart(this.#file, this.#map.extents, buffer, position);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** The newest whole map in a file of parts; `undefined` if there is none. */
async function readPartsMap(file: FileHandle): Promise<PartsMap | undefined> {
  const maps = [await readMapAt(file, mapPosition(0)), await readMapAt(file, mapPosition(1))];
  const [newest] = maps
    .filter(map => map !== undefined)
    .toSorted((one, other) => other.generation - one.generation);
  const lastByte = [...(newest?.extents ?? [])].at(-1)?.end ?? 0;
  return (await file.stat()).size >= BYTES_START + lastByte || lastByte === 0 ? newest : undefined;
}

async function readMapAt(file: FileHandle, position: number): Promise<PartsMap | undefined> {
  const head = Buffer.alloc(MAP_HEAD_BYTES);
  const { bytesRead } = await file.read(head, 0, head.byteLength, position);
  const length = partsMapLength(head.subarray(0, bytesRead));
  if (length === undefined || length <= bytesRead) return decodePartsMap(head.subarray(0, bytesRead));
  const whole = Buffer.alloc(length);
  const read = await file.read(whole, 0, length, position);
  return decodePartsMap(whole.subarray(0, read.bytesRead));
}

/** Reads from `position` to at most the end of the extent that has it; 0 bytes if there is none. */
async function readPart(
  file: FileHandle,
  extents: KnownExtents,
  buffer: Uint8Array,
  position: number,
): Promise<number> {
  const extent = extents.next(position);
  if (extent === undefined || extent.start > position) return 0;
  const length = Math.min(buffer.byteLength, extent.end - position);
  const { bytesRead } = await file.read(buffer, 0, length, BYTES_START + position);
  return bytesRead;
}

/**
 * Makes what the previous holder of `lease` left the file of `lease`, unless that holder may still write to it. Removes
 * everything else of that key; `names` are those of its files.
 */
export async function takeOverParts(
  paths: FilePaths,
  { key, epoch, left }: Lease,
  names: readonly string[],
): Promise<void> {
  const path = paths.parts(key, epoch);
  const [latest, ...others] =
    left === undefined ? names.map(name => paths.foundIngest(name)) : [paths.parts(key, left.epoch)];
  for (const other of others) await rm(other, { force: true });
  if (latest === undefined) return;
  if (left?.mayWrite === true) await rm(latest, { force: true });
  else await absentAsUndefined(rename(latest, path));
}
