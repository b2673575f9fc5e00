import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, rename, rm } from 'node:fs/promises';
import { absentAsUndefined } from '../lib/error-code.ts';
import { Extents, type KnownExtents } from '../lib/extents.ts';
import type { Lease } from '../lib/lease.ts';
import { openRegularFile } from '../lib/regular-file.ts';
import type { DiskSpace } from './disk-space.ts';
import type { FilePaths } from './file-paths.ts';
import {
  BYTES_START,
  decodePartsMap,
  decodePartsNews,
  encodePartsMap,
  encodePartsNews,
  MAP_HEAD_BYTES,
  mapPosition,
  MAX_COMING,
  MAX_EXTENTS,
  NEWS_POSITION,
  type PartsMap,
  partsMapHead,
  type PartsNews,
  partsNewsLength,
} from './parts-map.ts';
import type { BlobParts, ComingRange, SavedParts } from './spool.ts';
import { StorageFull } from './storage-full.ts';

/** Only the store's own process writes parts. */
const PARTS_MODE = 0o644;

/** A disk's block, as `stat` counts them, whatever the file system's own are. */
const BLOCK_BYTES = 512;

/** What a file of parts takes on disk: its holes take nothing. */
export function partsSpace({ size, blocks }: Pick<Stats, 'size' | 'blocks'>): number {
  return Math.min(size, blocks * BLOCK_BYTES);
}

/** What parts need of their spool. */
export interface PartsSpool {
  readonly paths: FilePaths;
  readonly space: DiskSpace;
  /** Called with the change of their size on disk. */
  readonly grown: (bytes: number) => void;
}

/**
 * A sparse file below `ingest/`: two places for a map, one for news, then the blob, each byte in its place. A map is
 * written only when the bytes that it names are synced, and not over the previous one, so whatever a crash leaves, a whole
 * map tells the truth. News are not synced, and mean nothing once their Lease has ended. As with ingests, the Lease is
 * confirmed before and after each step.
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
  /** What was told as its size on disk; until the next save, without what maps and halves of blocks take. */
  #countedBytes: number;
  /** Whether there are bytes that the map in the file lacks. */
  #isUnsaved = false;
  #saving: Promise<void> | undefined;
  #newsGeneration = 0;
  #announcing: Promise<void> = Promise.resolve();
  /** The first failed sync is final: a later one may succeed although pages were lost. */
  #syncFailure: unknown;
  #isEnded = false;
  #isGone = false;
  #closing: Promise<void> | undefined;

  private constructor(spool: PartsSpool, lease: Lease, { file, map, countedBytes }: OpenedParts) {
    this.#spool = spool;
    this.lease = lease;
    this.#file = file;
    this.#path = spool.paths.parts(lease.key, lease.epoch);
    this.#size = map.size;
    this.#generation = map.generation;
    this.#extents = new Extents(map.extents);
    this.#countedBytes = countedBytes;
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
      const countedBytes = partsSpace(await file.stat());
      if (found?.size === size) return new FileParts(spool, lease, { file, map: found, countedBytes });
      await file.truncate(0);
      spool.grown(-countedBytes);
      const map = { size, generation: 0, extents: new Extents() };
      return new FileParts(spool, lease, { file, map, countedBytes: 0 });
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

  async announce(coming: readonly ComingRange[]): Promise<void> {
    this.#assertOpen();
    // One after the other, or an earlier one might be the last to be written.
    const announcing = this.#announcing.then(() => this.#announce(coming.slice(0, MAX_COMING)));
    this.#announcing = announcing.catch(() => {});
    await announcing;
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
    this.#closing ??= Promise.allSettled([this.#saving, this.#announcing]).then(() => this.#file.close());
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

  async #announce(coming: readonly ComingRange[]): Promise<void> {
    const { epoch } = this.lease;
    this.#newsGeneration += 1;
    const news = encodePartsNews({ epoch, size: this.#size, generation: this.#newsGeneration, coming });
    await this.lease.confirm();
    await this.#file.write(news, 0, news.byteLength, NEWS_POSITION);
  }

  #wrote(start: number, count: number): void {
    const before = this.#extents.bytes;
    this.#extents.add({ start, end: start + count });
    this.#isUnsaved = true;
    if (!this.#isGone) this.#count(this.#countedBytes + this.#extents.bytes - before);
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
    const space = partsSpace(await this.#file.stat());
    if (!this.#isGone) this.#count(space);
  }

  #count(bytes: number): void {
    this.#spool.grown(bytes - this.#countedBytes);
    this.#countedBytes = bytes;
  }

  async #remove(): Promise<void> {
    if (this.#isGone) return;
    this.#isGone = true;
    await rm(this.#path, { force: true });
    this.#count(0);
  }

  #assertOpen(): void {
    if (this.#isEnded) throw new Error('the parts have ended');
  }
}

interface OpenedParts {
  readonly file: FileHandle;
  readonly map: PartsMap;
  /** What the file takes on disk. */
  readonly countedBytes: number;
}

/** What another process saves and announces, or has left, in a file of parts. */
export class FileSavedParts implements SavedParts {
  readonly #file: FileHandle;
  readonly #epoch: number;
  readonly size: number;
  #map: PartsMap;
  #news: PartsNews;

  private constructor(file: FileHandle, { epoch, map, news }: FoundMaps) {
    const { size } = map ?? news ?? { size: 0 };
    this.#file = file;
    this.#epoch = epoch;
    this.size = size;
    this.#map = map ?? { size, generation: 0, extents: new Extents() };
    this.#news = news ?? { epoch, size, generation: 0, coming: [] };
  }

  /** `undefined` if there is no such file, or nothing is saved or announced in it. `epoch`: of the Lease in its name. */
  static async open(path: string, epoch: number): Promise<FileSavedParts | undefined> {
    const opened = await absentAsUndefined(openRegularFile(path));
    if (opened === undefined) return undefined;
    const { file } = opened;
    try {
      const [news, map] = [await readPartsNews(file, epoch), await readPartsMap(file)];
      if (map !== undefined || news !== undefined) return new FileSavedParts(file, { epoch, map, news });
    } catch {
      // What cannot be read is not there.
    }
    await file.close();
    return undefined;
  }

  get extents(): KnownExtents {
    return this.#map.extents;
  }

  get coming(): readonly ComingRange[] {
    return this.#news.coming;
  }

  async refresh(): Promise<boolean> {
    if ((await this.#file.stat()).nlink === 0) return false;
    // First the news: what is not coming any more is then in the map.
    const news = await readPartsNews(this.#file, this.#epoch);
    const map = await readPartsMap(this.#file, this.#map.generation);
    if (news?.size === this.size && news.generation !== this.#news.generation) this.#news = news;
    if (map?.size === this.size) this.#map = map;
    return true;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    return readPart(this.#file, this.#map.extents, buffer, position);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

interface FoundMaps {
  readonly epoch: number;
  readonly map: PartsMap | undefined;
  readonly news: PartsNews | undefined;
}

/** The newest whole map in a file of parts, if it is newer than `known`; `undefined` if there is none. */
async function readPartsMap(file: FileHandle, known = -1): Promise<PartsMap | undefined> {
  const maps = [await readMapAt(file, mapPosition(0), known), await readMapAt(file, mapPosition(1), known)];
  const [newest] = maps
    .filter(map => map !== undefined)
    .toSorted((one, other) => other.generation - one.generation);
  const lastByte = [...(newest?.extents ?? [])].at(-1)?.end ?? 0;
  return lastByte === 0 || (await file.stat()).size >= BYTES_START + lastByte ? newest : undefined;
}

async function readMapAt(file: FileHandle, position: number, known: number): Promise<PartsMap | undefined> {
  const found = await readHead(file, position);
  const head = partsMapHead(found);
  if (head === undefined || head.generation <= known) return undefined;
  return decodePartsMap(await readRest(file, position, { found, length: head.length }));
}

/** The news of this holder; `undefined` if there are none, or they are just being written. */
async function readPartsNews(file: FileHandle, epoch: number): Promise<PartsNews | undefined> {
  const found = await readHead(file, NEWS_POSITION);
  const length = partsNewsLength(found);
  if (length === undefined) return undefined;
  const news = decodePartsNews(await readRest(file, NEWS_POSITION, { found, length }));
  return news?.epoch === epoch ? news : undefined;
}

async function readHead(file: FileHandle, position: number): Promise<Uint8Array> {
  const head = Buffer.alloc(MAP_HEAD_BYTES);
  const { bytesRead } = await file.read(head, 0, head.byteLength, position);
  return head.subarray(0, bytesRead);
}

/** `found`, or more if it is shorter than `length`. */
async function readRest(
  file: FileHandle,
  position: number,
  { found, length }: { readonly found: Uint8Array; readonly length: number },
): Promise<Uint8Array> {
  if (length <= found.byteLength) return found;
  const whole = Buffer.alloc(length);
  const { bytesRead } = await file.read(whole, 0, length, position);
  return whole.subarray(0, bytesRead);
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
  { paths, grown }: Pick<PartsSpool, 'paths' | 'grown'>,
  { key, epoch, left }: Lease,
  names: readonly string[],
): Promise<void> {
  const path = paths.parts(key, epoch);
  const [latest, ...others] =
    left === undefined ? names.map(name => paths.foundIngest(name)) : [paths.parts(key, left.epoch)];
  const remove = async (file: string): Promise<void> => {
    const found = await absentAsUndefined(lstat(file));
    await rm(file, { force: true });
    if (found !== undefined) grown(-partsSpace(found));
  };
  for (const other of others) await remove(other);
  if (latest === undefined) return;
  if (left?.mayWrite === true) await remove(latest);
  else await absentAsUndefined(rename(latest, path));
}
