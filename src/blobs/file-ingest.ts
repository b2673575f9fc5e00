import { type FileHandle, open, rm } from 'node:fs/promises';
import { constants } from 'node:fs';
import { syncFolder } from '../lib/atomic-file.ts';
import type { Lease } from '../lib/lease.ts';
import { type Digest, type DigestAlgorithm, digestAlgorithm, digestOf } from '../oci/digest.ts';
import type { DiskSpace } from './disk-space.ts';
import type { FilePaths } from './file-paths.ts';
import type { HashJob, Hasher } from './hasher.ts';
import type { Ingest, IngestObserver } from './spool.ts';

/** At most this much is unsynced when `moveAway` is called, which shortens its own sync from about 100 ms to 15. */
const SYNC_STEP_BYTES = 32 * 1024 * 1024;

/**
 * No more than this is hashed by this thread, in 50 µs. Most configs and many layers are so small, and hashing them elsewhere
 * takes longer, above all if the thread for it has to be started first.
 */
const HASHED_HERE_BYTES = 64 * 1024;

/** Only the store's own process writes an ingest; blobs are never written. */
const INGEST_MODE = 0o644;
const BLOB_MODE = 0o444;

/** What an ingest needs of its spool. */
export interface IngestSpool {
  readonly paths: FilePaths;
  readonly hasher: Hasher;
  readonly space: DiskSpace;
  /** Called with the change of the ingest's size on disk. */
  readonly grown: (bytes: number) => void;
  readonly observer: IngestObserver | undefined;
}

/**
 * A file below `ingest/`, which no other process opens for writing. Its Lease is confirmed before and after each step:
 * what was written while the process was suspended does not count, since the next holder's copy may lack it.
 */
export class FileIngest implements Ingest {
  readonly #spool: IngestSpool;
  readonly lease: Lease;
  readonly #path: string;
  readonly #file: FileHandle;
  /** By which it is hashed behind the writer: that of its digest, if that is known. */
  readonly #algorithm: DigestAlgorithm;
  readonly #jobs = new Map<DigestAlgorithm, HashJob>();
  #offset: number;
  #isEnded = false;
  /** Set when the file has become a blob or was removed. */
  #isGone = false;
  #isWriting = false;
  #closing: Promise<void> | undefined;
  #syncedOffset: number;
  #syncing: Promise<void> | undefined;
  /** The first failed sync is final: a later one may succeed although pages were lost. */
  #syncFailure: unknown;

  private constructor(
    spool: IngestSpool,
    lease: Lease,
    { file, size, algorithm }: { file: FileHandle; size: number; algorithm: DigestAlgorithm },
  ) {
    this.#spool = spool;
    this.lease = lease;
    this.#algorithm = algorithm;
    this.#path = spool.paths.ingest(lease.key, lease.epoch);
    this.#file = file;
    this.#offset = size;
    this.#syncedOffset = 0;
  }

  /**
   * Opens or creates the file of `lease`. What is there is a part of the ingest, unless it is begun `anew`: even in a store
   * whose index was lost, and with it the epochs that were used.
   */
  static async open(
    spool: IngestSpool,
    lease: Lease,
    { algorithm, anew }: { readonly algorithm: DigestAlgorithm; readonly anew: boolean },
  ): Promise<FileIngest> {
    const path = spool.paths.ingest(lease.key, lease.epoch);
    const flags = constants.O_RDWR | constants.O_CREAT | (anew ? constants.O_TRUNC : 0);
    const file = await open(path, flags, INGEST_MODE);
    try {
      const { size } = await file.stat();
      const ingest = new FileIngest(spool, lease, { file, size, algorithm });
      ingest.#hashBehind();
      return ingest;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get offset(): number {
    return this.#offset;
  }

  async write(chunks: readonly Uint8Array[]): Promise<void> {
    this.#assertOpen();
    if (this.#isWriting) {
      throw new Error('an ingest takes one write at a time');
    }
    this.#isWriting = true;
    try {
      let rest = chunks.filter(chunk => chunk.byteLength > 0);
      await this.#spool.space.admit(rest.reduce((sum, chunk) => sum + chunk.byteLength, 0));
      while (rest.length > 0) {
        await this.lease.confirm();
        const { bytesWritten } = await this.#file.writev(rest, this.#offset);
        await this.lease.confirm();
        this.#offset += bytesWritten;
        this.#spool.grown(bytesWritten);
        rest = dropBytes(rest, bytesWritten);
      }
    } finally {
      this.#isWriting = false;
    }
    this.#hashBehind();
    this.#syncBehind();
    this.#spool.observer?.grew(this);
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const length = Math.min(buffer.byteLength, this.#offset - position);
    if (length <= 0) {
      return 0;
    }
    const { bytesRead } = await this.#file.read(buffer, 0, length, position);
    return bytesRead;
  }

  async truncate(size: number): Promise<void> {
    this.#assertOpen();
    if (size > this.#offset) {
      throw new RangeError(`cannot truncate ${this.#offset} bytes to ${size}`);
    }
    await this.lease.confirm();
    await this.#spool.observer?.dropped(this);
    await this.#file.truncate(size);
    this.#spool.grown(size - this.#offset);
    this.#offset = size;
    this.#syncedOffset = Math.min(this.#syncedOffset, size);
    await this.#stopHashing();
    this.#hashBehind();
  }

  async hash(like: Digest): Promise<Digest> {
    this.#assertOpen();
    const algorithm = digestAlgorithm(like);
    if (this.#offset <= HASHED_HERE_BYTES) return this.#orLost(this.#hashHere(algorithm));
    const job = this.#jobs.get(algorithm) ?? this.#beginHashing(algorithm);
    return this.#orLost(this.#spool.hasher.finish(job, this.#offset));
  }

  /**
   * Ends the ingest as a blob: syncs the file, has `move` rename it, and syncs the folder that `move` returns. If it
   * rejects, the file is where it was, or its new name is not durable.
   */
  async moveAway(move: (path: string) => Promise<string>): Promise<void> {
    this.#assertOpen();
    await this.#syncing;
    if (this.#syncFailure !== undefined) {
      throw new Error('the bytes could not be synced', { cause: this.#syncFailure });
    }
    try {
      await this.#file.sync();
    } catch (error) {
      this.#syncFailure = error;
      throw error;
    }
    await this.lease.confirm();
    const folder = await this.#orLost(move(this.#path));
    this.#spool.grown(-this.#offset);
    this.#isEnded = true;
    this.#isGone = true;
    // Not before the move: a crash in between would leave an ingest that cannot be resumed.
    await this.#file.chmod(BLOB_MODE);
    await syncFolder(folder);
    await this.#stopHashing();
  }

  async suspend(): Promise<void> {
    this.#isEnded = true;
    await this.#spool.observer?.dropped(this);
    await this.#stopHashing();
    await this.#dropUnsynced();
  }

  async abort(): Promise<void> {
    if (!this.#isEnded) {
      await this.#spool.observer?.dropped(this);
      await this.#remove();
      this.#isEnded = true;
    }
    await this.#stopHashing();
  }

  close(): Promise<void> {
    this.#isEnded = true;
    this.#closing ??= this.#release();
    return this.#closing;
  }

  async #release(): Promise<void> {
    try {
      await this.#spool.observer?.dropped(this);
      await this.#stopHashing();
      await this.#dropUnsynced();
    } finally {
      await this.#file.close();
    }
  }

  /**
   * Removes a file whose sync failed. Another descriptor would not learn of the failure, and somebody could continue
   * from lost bytes.
   */
  async #dropUnsynced(): Promise<void> {
    await this.#syncing;
    if (this.#syncFailure !== undefined && !this.#isGone) await this.#remove();
  }

  async #remove(): Promise<void> {
    await rm(this.#path, { force: true });
    this.#isGone = true;
    this.#spool.grown(-this.#offset);
  }

  /**
   * If `step` fails, checks the Lease: when it is lost, the next holder has removed the file, and that is the reason.
   */
  async #orLost<T>(step: Promise<T>): Promise<T> {
    try {
      return await step;
    } catch (error) {
      await this.lease.confirm();
      throw error;
    }
  }

  #assertOpen(): void {
    if (this.#isEnded) {
      throw new Error('the ingest has ended');
    }
  }

  async #hashHere(algorithm: DigestAlgorithm): Promise<Digest> {
    const bytes = Buffer.allocUnsafe(this.#offset);
    let length = 0;
    while (length < bytes.byteLength) {
      const count = await this.read(bytes.subarray(length), length);
      if (count === 0) throw new Error(`the file ends at ${length} of ${bytes.byteLength} bytes`);
      length += count;
    }
    return digestOf(bytes, algorithm);
  }

  /** Has the thread hash what is written. */
  #hashBehind(): void {
    if (this.#isEnded || this.#offset <= HASHED_HERE_BYTES) return;
    if (this.#jobs.size === 0) this.#beginHashing(this.#algorithm);
    for (const job of this.#jobs.values()) this.#spool.hasher.advance(job, this.#offset);
  }

  #beginHashing(algorithm: DigestAlgorithm): HashJob {
    const job = this.#spool.hasher.begin(this.#path, algorithm, this.#offset);
    this.#jobs.set(algorithm, job);
    return job;
  }

  async #stopHashing(): Promise<void> {
    const jobs = [...this.#jobs.values()];
    this.#jobs.clear();
    await Promise.all(jobs.map(job => this.#spool.hasher.stop(job)));
  }

  /** Syncs in the background. Writers do not wait for it; `moveAway` does. */
  #syncBehind(): void {
    if (this.#syncing !== undefined || this.#offset - this.#syncedOffset < SYNC_STEP_BYTES) {
      return;
    }
    this.#syncedOffset = this.#offset;
    this.#syncing = this.#file
      .datasync()
      .catch((error: unknown) => {
        this.#syncFailure ??= error;
      })
      .finally(() => {
        this.#syncing = undefined;
      });
  }
}

/** `chunks` without their first `count` bytes. */
function dropBytes(chunks: readonly Uint8Array[], count: number): Uint8Array[] {
  let toDrop = count;
  const rest: Uint8Array[] = [];
  for (const chunk of chunks) {
    const dropped = Math.min(toDrop, chunk.byteLength);
    toDrop -= dropped;
    if (dropped < chunk.byteLength) {
      rest.push(chunk.subarray(dropped));
    }
  }
  return rest;
}
