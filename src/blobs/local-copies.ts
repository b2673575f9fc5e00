import { lstat, rm, statfs, utimes } from 'node:fs/promises';
import type { BlobReader } from '../lib/blob-reader.ts';
import { absentAsUndefined } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import { makeFolder } from '../lib/make-folder.ts';
import type { Digest } from '../oci/digest.ts';
import type { LocalUsage, RehashOptions } from './blob-store.ts';
import { FileBlobStore } from './file-blob-store.ts';
import { FileIngest } from './file-ingest.ts';
import { FilePaths } from './file-paths.ts';
import { folderEntries } from './folder-entries.ts';
import { Hasher } from './hasher.ts';
import type { Ingest } from './spool.ts';

/** Above the limit, copies are removed down to this share of it, so that not each new one has to look for room. */
const LOW_WATER_MARK = 0.9;
/** Other processes keep copies, too: after having kept this share of the limit, all are counted again. */
const RECOUNT_SHARE = 1 / 16;
/** How long a use stands for further ones, each of which would write to the disk. */
const USE_STEP = { maxEntries: 10_000, maxAgeMs: 60_000 };
/** For people and metrics, who ask again soon. */
const COUNT_VALID_MS = 60_000;
/** As for `blobs/`: contents may be private. */
const DOOR_MODE = 0o700;

export interface LocalCopiesOptions {
  /** The folder of the spool. */
  readonly path: string;
  /** How many bytes they may have in total on a disk of this size; asked each time. */
  readonly maxBytes: (diskBytes: number) => number;
  readonly log: Log;
}

interface Copy {
  readonly path: string;
  readonly size: number;
  readonly usedAtMs: number;
}

/**
 * Copies on the spool's disk of blobs that are stored elsewhere: what was spooled stays as a file, and is read like a blob
 * of a folder. They are a cache that any number of processes share: the least recently used go when they are too many, or
 * when the disk is needed for something else. They say nothing about whether the blob is stored.
 */
export class LocalCopies {
  readonly #options: LocalCopiesOptions;
  readonly #paths: FilePaths;
  readonly #hasher: Hasher;
  readonly #files: FileBlobStore;
  readonly #used = new Lru<object>(USE_STEP);
  #counted: { readonly copies: number; readonly bytes: number; readonly atMs: number } | undefined;
  /** What this process has kept since that count. */
  #kept = { copies: 0, bytes: 0 };
  #listing: Promise<readonly Copy[]> | undefined;
  #trimming: Promise<void> | undefined;
  #isTrimDue = false;
  #removing: Promise<number> = Promise.resolve(0);

  private constructor(options: LocalCopiesOptions) {
    this.#options = options;
    this.#paths = new FilePaths(options.path, 'copies');
    this.#hasher = new Hasher(options.log);
    this.#files = new FileBlobStore(this.#paths, this.#hasher);
  }

  /** Creates the folder if necessary. Scans nothing. */
  static async open(options: LocalCopiesOptions): Promise<LocalCopies> {
    const copies = new LocalCopies(options);
    await makeFolder(copies.#paths.blobs, DOOR_MODE);
    return copies;
  }

  /** `undefined` if there is no copy of this size. The caller closes the reader. */
  async read(digest: Digest, size: number): Promise<BlobReader | undefined> {
    const reader = await this.#files.open(digest);
    if (reader === undefined) return undefined;
    if (reader.size === size) {
      this.#noteUse(digest);
      return reader;
    }
    await reader.close();
    return undefined;
  }

  /** Whether a copy of this size may be kept. */
  async mayKeep(size: number): Promise<boolean> {
    return size <= (await this.#maxBytes());
  }

  /**
   * Makes a copy of a spooled blob, whose digest is verified, which ends the ingest. False, without doing anything, if it
   * may not be kept; if it rejects, the ingest has not ended.
   */
  async keep(digest: Digest, spooled: Ingest): Promise<boolean> {
    const size = spooled.offset;
    const maxBytes = await this.#maxBytes();
    if (!(spooled instanceof FileIngest) || size > maxBytes) return false;
    await this.#files.put(digest, spooled);
    this.#kept = { copies: this.#kept.copies + 1, bytes: this.#kept.bytes + size };
    this.#trimIfFull(maxBytes);
    return true;
  }

  /** Removes the least recently used until so many bytes are free; returns how many were. */
  free(bytes: number): Promise<number> {
    // One after the other, or two would take the same ones for theirs.
    this.#removing = this.#removing.catch(() => 0).then(() => this.#removeOldest(() => bytes));
    return this.#removing;
  }

  async remove(digest: Digest): Promise<void> {
    await rm(this.#paths.blob(digest), { force: true });
  }

  /** As `BlobStore.rehash`. */
  rehash(digest: Digest, options: RehashOptions): Promise<Digest | undefined> {
    return this.#files.rehash(digest, options);
  }

  hasReaders(digest: Digest): boolean {
    return this.#files.hasReaders(digest);
  }

  /** As last counted by this process, if that was not long ago. */
  async usage(): Promise<LocalUsage> {
    if (performance.now() - (this.#counted?.atMs ?? Number.NEGATIVE_INFINITY) > COUNT_VALID_MS)
      await this.#list();
    return { ...this.#known, maxBytes: await this.#maxBytes() };
  }

  async close(): Promise<void> {
    await Promise.allSettled([this.#trimming, this.#removing]);
    await this.#hasher.close();
  }

  get #known(): { readonly copies: number; readonly bytes: number } {
    const { copies = 0, bytes = 0 } = this.#counted ?? {};
    return { copies: copies + this.#kept.copies, bytes: bytes + this.#kept.bytes };
  }

  async #maxBytes(): Promise<number> {
    const { blocks, bsize } = await statfs(this.#paths.root);
    return this.#options.maxBytes(blocks * bsize);
  }

  /** In the background: nobody waits for room that is only about to be exceeded by a single blob. */
  #trimIfFull(maxBytes: number): void {
    const isFull = this.#known.bytes > maxBytes || this.#kept.bytes > maxBytes * RECOUNT_SHARE;
    if (!isFull && this.#counted !== undefined) return;
    this.#isTrimDue = true;
    this.#trimming ??= this.#trim(maxBytes)
      .catch((error: unknown) => {
        this.#options.log.warn({ err: error }, 'local copies of blobs could not be removed');
      })
      .finally(() => {
        this.#trimming = undefined;
      });
  }

  /** Again if more were kept meanwhile. */
  async #trim(maxBytes: number): Promise<void> {
    const excess = (bytes: number) => (bytes > maxBytes ? bytes - maxBytes * LOW_WATER_MARK : 0);
    while (this.#isTrimDue) {
      this.#isTrimDue = false;
      this.#removing = this.#removing.catch(() => 0).then(() => this.#removeOldest(excess));
      await this.#removing;
    }
  }

  /** `wanted`: how many bytes to remove of so many. */
  async #removeOldest(wanted: (bytes: number) => number): Promise<number> {
    const copies = await this.#list();
    const wantedBytes = wanted(copies.reduce((sum, { size }) => sum + size, 0));
    const gone = { copies: 0, bytes: 0 };
    for (const { path, size } of copies.toSorted((one, other) => one.usedAtMs - other.usedAtMs)) {
      if (gone.bytes >= wantedBytes) break;
      await rm(path, { force: true });
      gone.copies += 1;
      gone.bytes += size;
      this.#kept = { copies: this.#kept.copies - 1, bytes: this.#kept.bytes - size };
    }
    return gone.bytes;
  }

  #list(): Promise<readonly Copy[]> {
    this.#listing ??= this.#listNow().finally(() => {
      this.#listing = undefined;
    });
    return this.#listing;
  }

  async #listNow(): Promise<readonly Copy[]> {
    const found: Copy[] = [];
    const before = this.#kept;
    for await (const algorithm of folderEntries(this.#paths.blobs)) {
      for await (const folder of folderEntries(algorithm.path)) {
        for await (const { path } of folderEntries(folder.path)) {
          const entry = await absentAsUndefined(lstat(path));
          if (entry?.isFile()) found.push({ path, size: entry.size, usedAtMs: entry.mtimeMs });
        }
      }
    }
    const bytes = found.reduce((sum, { size }) => sum + size, 0);
    this.#counted = { copies: found.length, bytes, atMs: performance.now() };
    // What was kept meanwhile may count twice, until the next count.
    this.#kept = { copies: this.#kept.copies - before.copies, bytes: this.#kept.bytes - before.bytes };
    return found;
  }

  #noteUse(digest: Digest): void {
    if (this.#used.get(digest) !== undefined) return;
    this.#used.set(digest, {});
    const now = new Date();
    // Whoever misses this use removes the copy a little too early.
    utimes(this.#paths.blob(digest), now, now).catch(() => {});
  }
}
