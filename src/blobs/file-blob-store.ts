import { lstatSync, renameSync, type Stats } from 'node:fs';
import { type FileHandle, lstat, rename } from 'node:fs/promises';
import { syncFolder } from '../lib/atomic-file.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import { inodeOf, openRegularFile } from '../lib/regular-file.ts';
import { type Digest, digestAlgorithm, isDigest } from '../oci/digest.ts';
import { BlobFolders } from './blob-folders.ts';
import type { BlobRemoval, BlobStat, BlobStore, RehashOptions, StoredBlob } from './blob-store.ts';
import { FileIngest } from './file-ingest.ts';
import type { FilePaths } from './file-paths.ts';
import { folderEntries } from './folder-entries.ts';
import type { Hasher } from './hasher.ts';
import { freeOwn, moveFolderAside } from './in-the-way.ts';
import type { Ingest } from './spool.ts';
import { isNoFile, shortFile } from './unreadable.ts';

/** Blobs as files. `put` moves the file of an ingest, which must be of the FileSpool in the same folder. */
export class FileBlobStore implements BlobStore {
  readonly isOnSpoolDisk = true;
  readonly #paths: FilePaths;
  readonly #folders: BlobFolders;
  readonly #hasher: Hasher;
  /** Blobs that are open for reading. */
  readonly #reading = new Map<Digest, Reading>();

  constructor(paths: FilePaths, hasher: Hasher) {
    this.#paths = paths;
    this.#folders = new BlobFolders(paths);
    this.#hasher = hasher;
  }

  async stat(digest: Digest): Promise<BlobStat | undefined> {
    const found = await this.#entry(digest);
    return found?.isFile() ? { size: found.size } : undefined;
  }

  async open(digest: Digest): Promise<BlobReader | undefined> {
    const opened = await noFileAsUndefined(openRegularFile(this.#paths.blob(digest)));
    if (opened === undefined) {
      return undefined;
    }
    const { file } = opened;
    const { size } = opened.stats;
    const inode = inodeOf(opened.stats);
    const reading = this.#reading.get(digest) ?? { readers: 0, inode, bytes: {} };
    this.#reading.set(digest, reading);
    reading.readers += 1;
    // A damaged file may have been replaced while somebody still reads it.
    const shares = reading.inode === inode ? reading.bytes : undefined;
    return new FileReader({ file, size, inode, shares, left: () => this.#leave(digest, reading) });
  }

  async put(digest: Digest, spooled: Ingest): Promise<StoredBlob> {
    if (!(spooled instanceof FileIngest)) throw new TypeError('not an ingest of this folder');
    const size = spooled.offset;
    await spooled.moveAway(path => this.#take(path, digest));
    return { lease: spooled.lease, isThere: () => this.#peek(digest)?.size === size };
  }

  async removal(digest: Digest): Promise<BlobRemoval> {
    let expected = this.#peek(digest)?.identity;
    return {
      isSame: () => this.#peek(digest)?.identity === expected,
      takeAway: () => {
        const free = this.#takeAway(digest);
        expected = undefined;
        return free;
      },
    };
  }

  async *list(): ReturnType<BlobStore['list']> {
    for await (const algorithm of folderEntries(this.#paths.blobs)) {
      for await (const folder of folderEntries(algorithm.path)) {
        for await (const { name, path } of folderEntries(folder.path)) {
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

  async rehash(
    digest: Digest,
    { bytesPerSecond, signal, onProgress }: RehashOptions,
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

  /** Whatever is in the blob's place. */
  #entry(digest: Digest): Promise<Stats | undefined> {
    return noFileAsUndefined(lstat(this.#paths.blob(digest)));
  }

  /** Whatever is in the blob's place; synchronous, for use within a transaction of the index. */
  #peek(digest: Digest): Peek | undefined {
    try {
      const found = lstatSync(this.#paths.blob(digest));
      const identity = `${found.dev} ${found.ino} ${found.mtimeMs}`;
      return { size: found.isFile() ? found.size : undefined, identity };
    } catch (error) {
      if (isNothing(error)) return undefined;
      throw error;
    }
  }

  /**
   * Moves the file to its place below `blobs/`, and returns the folder. A folder that was deleted meanwhile is created
   * again, once.
   */
  async #take(path: string, digest: Digest): Promise<string> {
    const place = this.#paths.blob(digest);
    const move = async () => {
      const folder = await this.#folders.make(digest);
      await rename(path, place);
      return folder;
    };
    const moved = await absentAsUndefined(move()).catch(async (error: unknown) => {
      if (errorCode(error) !== 'EISDIR') throw error;
      await moveFolderAside(place);
      return undefined;
    });
    if (moved !== undefined) {
      return moved;
    }
    this.#folders.forget(digest);
    return move();
  }

  #takeAway(digest: Digest): (() => Promise<void>) | undefined {
    const gone = this.#paths.gone();
    try {
      renameSync(this.#paths.blob(digest), gone);
    } catch (error) {
      if (isNothing(error)) return undefined;
      throw error;
    }
    return async () => {
      await freeOwn(gone);
      // Without this, a power failure could bring back the file without its row, and many such files look like a lost
      // index.
      await absentAsUndefined(syncFolder(this.#paths.blobFolder(digest)));
    };
  }

  #leave(digest: Digest, reading: Reading): void {
    reading.readers -= 1;
    if (reading.readers === 0) {
      this.#reading.delete(digest);
    }
  }
}

interface Peek {
  /** Bytes; `undefined` if something other than a blob is in its place. */
  readonly size: number | undefined;
  /** Differs for whatever replaces it. */
  readonly identity: string;
}

/** A blob that is open for reading. */
interface Reading {
  readers: number;
  /** The inode of the file that the first reader opened. */
  readonly inode: string;
  /** Identifies the bytes of that file. */
  readonly bytes: object;
}

interface FileReaderParts {
  readonly file: FileHandle;
  readonly size: number;
  readonly inode: string;
  readonly shares: object | undefined;
  /** Called when the reader is closed. */
  readonly left: () => void;
}

/** An open blob, with one file descriptor. */
class FileReader implements BlobReader {
  readonly size: number;
  readonly origin: string;
  readonly shares: object | undefined;
  readonly #file: FileHandle;
  readonly #left: () => void;
  #closing: Promise<void> | undefined;

  constructor({ file, size, inode, shares, left }: FileReaderParts) {
    this.#file = file;
    this.size = size;
    this.origin = inode;
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
      throw shortFile(`the blob's file ends at ${position} of ${this.size} bytes`);
    }
    return bytesRead;
  }

  close(): Promise<void> {
    this.#closing ??= this.#file.close().finally(this.#left);
    return this.#closing;
  }
}

/** Whether a system call failed because nothing has the name. */
function isNothing(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOENT' || code === 'ENOTDIR';
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
