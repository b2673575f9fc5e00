import { lstatSync, renameSync, type Stats } from 'node:fs';
import { type FileHandle, lstat, mkdir, opendir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder } from '../lib/atomic-file.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import { followFile } from '../lib/follow-file.ts';
import type { Lease } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { openRegularFile } from '../lib/regular-file.ts';
import { type Digest, digestAlgorithm, isDigest } from '../oci/digest.ts';
import { BlobFolders } from './blob-folders.ts';
import type {
  BlobPeek,
  BlobStat,
  BlobStore,
  FoundIngest,
  Ingest,
  IngestFollower,
  IngestOptions,
} from './blob-store.ts';
import { DiskSpace, type MinFree } from './disk-space.ts';
import { FileIngest } from './file-ingest.ts';
import { FilePaths, parseIngestName } from './file-paths.ts';
import { Hasher } from './hasher.ts';
import { freeOwn } from './in-the-way.ts';
import { earlierIngests } from './left-ingest.ts';
import { isNoFile } from './unreadable.ts';

/** What nearly every client uses: hashing begins with it if the digest is not known yet. */
const USUAL_ALGORITHM = 'sha256';

/**
 * Stored content may be private, so `blobs/` and `ingest/` are accessible to their owner only. What is inside has the
 * usual modes.
 */
const DOOR_MODE = 0o700;

/** What a store in a file system adds to the contract. */
export interface FileBlobStore extends BlobStore {
  /**
   * Reads the blob again from disk and returns the digest of its bytes, reading at most `bytesPerSecond`, for
   * scrubbing. `undefined` if nothing is in its place. Rejects when `signal` aborts, or if the bytes cannot be read;
   * `unreadableReason` then says whether this blob is damaged.
   */
  hashFile(
    digest: Digest,
    options: {
      readonly bytesPerSecond: number;
      readonly signal?: AbortSignal;
      /** Called now and then with the number of bytes read. */
      readonly onProgress?: (bytes: number) => void;
    },
  ): Promise<Digest | undefined>;
  /** Whether a reader of this process has the blob open, in which case removing it does not free its space yet. */
  hasReaders(digest: Digest): boolean;
  /**
   * The size of all ingests on disk: as last counted, plus what this process has written and minus what it has ended
   * since. Ingests of earlier and other processes are included from the first count on.
   */
  readonly unfinishedBytes: number;
  /** Sets the result of a count of all ingests. Counting is left to the caller, since nothing waits for it. */
  countUnfinished(bytes: number): void;
  /** Whether there is any blob, with or without a row. Looks no further than the first. */
  hasBlobs(): Promise<boolean>;
  readonly space: DiskSpace;
}

export interface FileBlobStoreOptions {
  readonly log: Log;
  /** Default: nothing. */
  readonly minFree?: MinFree | undefined;
}

/**
 * Opens the store in the folder `path` (see `FilePaths` for the layout), and creates what is missing. Scans nothing.
 */
export async function openFileBlobStore(
  path: string,
  { log, minFree = () => 0 }: FileBlobStoreOptions,
): Promise<FileBlobStore> {
  const paths = new FilePaths(path);
  await mkdir(path, { recursive: true, mode: DOOR_MODE });
  await mkdir(paths.blobs, { recursive: true, mode: DOOR_MODE });
  await mkdir(paths.ingests, { recursive: true, mode: DOOR_MODE });
  await syncFolder(path);
  return new FolderStore(paths, new DiskSpace(path, minFree), log);
}

class FolderStore implements FileBlobStore {
  readonly space: DiskSpace;
  readonly #paths: FilePaths;
  readonly #folders: BlobFolders;
  readonly #hasher: Hasher;
  /** Blobs that are open for reading. */
  readonly #reading = new Map<Digest, Reading>();
  #unfinishedBytes = 0;

  constructor(paths: FilePaths, space: DiskSpace, log: Log) {
    this.#paths = paths;
    this.space = space;
    this.#folders = new BlobFolders(paths);
    this.#hasher = new Hasher(log);
  }

  async stat(digest: Digest): Promise<BlobStat | undefined> {
    const found = await this.#entry(digest);
    return found?.isFile() ? { size: found.size } : undefined;
  }

  async open(digest: Digest): Promise<BlobReader | undefined> {
    const file = await noFileAsUndefined(openRegularFile(this.#paths.blob(digest)));
    if (file === undefined) {
      return undefined;
    }
    try {
      const { size, ino } = await file.stat();
      const reading = this.#reading.get(digest) ?? { readers: 0, inode: ino, bytes: {} };
      this.#reading.set(digest, reading);
      reading.readers += 1;
      // A damaged file may have been replaced while somebody still reads it.
      const shares = reading.inode === ino ? reading.bytes : undefined;
      return new FileReader({ file, size, shares, left: () => this.#leave(digest, reading) });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  peek(digest: Digest): BlobPeek | undefined {
    const found = lstatSync(this.#paths.blob(digest), { throwIfNoEntry: false });
    if (found === undefined) {
      return undefined;
    }
    const identity = `${found.dev} ${found.ino} ${found.mtimeMs}`;
    return { size: found.isFile() ? found.size : undefined, identity };
  }

  takeAway(digest: Digest): (() => Promise<void>) | undefined {
    const gone = this.#paths.gone();
    try {
      renameSync(this.#paths.blob(digest), gone);
    } catch (error) {
      const code = errorCode(error);
      if (code === 'ENOENT' || code === 'ENOTDIR') {
        return undefined;
      }
      throw error;
    }
    return async () => {
      await freeOwn(gone);
      // Without this, a power failure could bring back the file without its row, and many such files look like a lost
      // index.
      await absentAsUndefined(syncFolder(this.#paths.blobFolder(digest)));
    };
  }

  async ingest(lease: Lease, { digest, anew = false }: IngestOptions = {}): Promise<Ingest> {
    const algorithm = digest === undefined ? USUAL_ALGORITHM : digestAlgorithm(digest);
    const grown = (bytes: number): void => this.countUnfinished(this.#unfinishedBytes + bytes);
    const store = {
      paths: this.#paths,
      folders: this.#folders,
      hasher: this.#hasher,
      space: this.space,
      grown,
    };
    return FileIngest.open(store, lease, { algorithm, anew });
  }

  async follow(key: string, epoch: number): Promise<IngestFollower | undefined> {
    return followFile(this.#paths.ingest(key, epoch));
  }

  async ingestLength(key: string, epoch: number): Promise<number> {
    const found = await absentAsUndefined(lstat(this.#paths.ingest(key, epoch)));
    if (found !== undefined) {
      return found.size;
    }
    const [name] = await earlierIngests(this.#paths, key, epoch);
    const earlier = name && (await absentAsUndefined(lstat(this.#paths.foundIngest(name))));
    return earlier ? earlier.size : 0;
  }

  async abandon({ name }: Pick<FoundIngest, 'name'>): Promise<void> {
    await rm(this.#paths.foundIngest(name), { force: true });
  }

  async *ingests(): ReturnType<BlobStore['ingests']> {
    for await (const { name, path } of entries(this.#paths.ingests)) {
      const parsed = parseIngestName(name);
      const found = await absentAsUndefined(lstat(path));
      if (parsed !== undefined && found?.isFile()) {
        const { key, epoch } = parsed;
        yield { name, key, epoch, size: found.size, modifiedAtMs: found.mtimeMs };
      }
    }
  }

  async *blobs(): ReturnType<BlobStore['blobs']> {
    for await (const algorithm of entries(this.#paths.blobs)) {
      for await (const folder of entries(algorithm.path)) {
        for await (const { name, path } of entries(folder.path)) {
          const digest = `${algorithm.name}:${name}`;
          if (!isDigest(digest)) {
            continue;
          }
          const found = await absentAsUndefined(lstat(path));
          if (found?.isFile()) {
            // ctime, too: an upload that was idle for a day is as new as its commit.
            const modifiedAtMs = Math.max(found.mtimeMs, found.ctimeMs);
            yield { digest, size: found.size, modifiedAtMs };
          }
        }
      }
    }
  }

  async hasBlobs(): Promise<boolean> {
    for await (const { digest } of this.blobs()) return isDigest(digest);
    return false;
  }

  async hashFile(
    digest: Digest,
    {
      bytesPerSecond,
      signal,
      onProgress,
    }: { bytesPerSecond: number; signal?: AbortSignal; onProgress?: (bytes: number) => void },
  ): Promise<Digest | undefined> {
    const found = await this.#entry(digest);
    signal?.throwIfAborted();
    if (found === undefined) {
      return undefined;
    }
    const job = this.#hasher.begin(this.#paths.blob(digest), digestAlgorithm(digest), found.size, {
      bytesPerSecond,
      onProgress,
    });
    const stop = () => void this.#hasher.stop(job);
    signal?.addEventListener('abort', stop, { once: true });
    try {
      return await absentAsUndefined(this.#hasher.finish(job, found.size));
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', stop);
      await this.#hasher.stop(job);
    }
  }

  hasReaders(digest: Digest): boolean {
    return this.#reading.has(digest);
  }

  get unfinishedBytes(): number {
    return this.#unfinishedBytes;
  }

  countUnfinished(bytes: number): void {
    this.#unfinishedBytes = Math.max(0, bytes);
  }

  admit(bytes: number): Promise<void> {
    return this.space.admit(bytes);
  }

  async close(): Promise<void> {
    await this.#hasher.close();
  }

  /** Whatever is in the blob's place. */
  #entry(digest: Digest): Promise<Stats | undefined> {
    return noFileAsUndefined(lstat(this.#paths.blob(digest)));
  }

  #leave(digest: Digest, reading: Reading): void {
    reading.readers -= 1;
    if (reading.readers === 0) {
      this.#reading.delete(digest);
    }
  }
}

/** A blob that is open for reading. */
interface Reading {
  readers: number;
  /** The inode of the file that the first reader opened. */
  readonly inode: number;
  /** Identifies the bytes of that file. */
  readonly bytes: object;
}

interface FileReaderParts {
  readonly file: FileHandle;
  readonly size: number;
  readonly shares: object | undefined;
  /** Called when the reader is closed. */
  readonly left: () => void;
}

/** An open blob, with one file descriptor. */
class FileReader implements BlobReader {
  readonly size: number;
  readonly shares: object | undefined;
  readonly #file: FileHandle;
  readonly #left: () => void;
  #closing: Promise<void> | undefined;

  constructor({ file, size, shares, left }: FileReaderParts) {
    this.#file = file;
    this.size = size;
    this.shares = shares;
    this.#left = left;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#closing !== undefined) {
      throw new Error('the reader is closed');
    }
    const length = Math.min(buffer.byteLength, this.size - position);
    if (length <= 0) {
      return 0;
    }
    const { bytesRead } = await this.#file.read(buffer, 0, length, position);
    if (bytesRead === 0) {
      throw new Error(`the blob's file ends at ${position} of ${this.size} bytes`);
    }
    return bytesRead;
  }

  close(): Promise<void> {
    this.#closing ??= this.#file.close().finally(this.#left);
    return this.#closing;
  }
}

/** The result of `operation`; `undefined` if there is no file. */
async function noFileAsUndefined<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await absentAsUndefined(operation);
  } catch (error) {
    if (isNoFile(error)) return undefined;
    throw error;
  }
}

/** The entries of a folder; none if it does not exist or is a file. */
async function* entries(folder: string): AsyncIterable<{ readonly name: string; readonly path: string }> {
  const found = await absentAsUndefined(stat(folder));
  if (found?.isDirectory()) {
    for await (const { name } of await opendir(folder)) {
      yield { name, path: join(folder, name) };
    }
  }
}
