/**
 * blobs/: where bytes are stored, by digest. May import oci/ and lib/.
 *
 * The main idea: a write is an Ingest, which is invisible until `commit`. The contract is asynchronous, small and
 * without paths, so that both a folder and an object store can implement it; `blob-store.suite.ts` is what every
 * implementation passes.
 *
 * A Lease in the index decides who may write a key. An ingest belongs to one acquisition of the Lease, by its epoch.
 * The next holder continues from a copy, unless the previous one is known not to write any more. So a process that was
 * suspended and considered dead writes to a file that nobody reads.
 */
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Lease } from '../lib/lease.ts';
import type { Digest } from '../oci/digest.ts';

export interface BlobStat {
  /** Bytes. */
  readonly size: number;
}

export interface BlobPeek {
  /** Bytes; `undefined` if something other than a blob is in its place. */
  readonly size: number | undefined;
  /** Differs for whatever replaces it. */
  readonly identity: string;
}

export interface IngestOptions {
  readonly digest?: Digest;
  readonly anew?: boolean;
}

export interface FoundIngest {
  readonly name: string;
  readonly key: string;
  /** The epoch of its Lease; `undefined` if its name has none. */
  readonly epoch: number | undefined;
  readonly size: number;
  readonly modifiedAtMs: number;
}

export interface BlobStore {
  /** `undefined` if the blob is not stored. Throws if the store is broken: that is never a miss. */
  stat(digest: Digest): Promise<BlobStat | undefined>;
  /**
   * `undefined` if the blob is not stored, or something other than a file is in its place. The caller closes the
   * reader, which remains usable after `takeAway`.
   */
  open(digest: Digest): Promise<BlobReader | undefined>;
  /**
   * What is in the blob's place now, for use within a transaction of the index: synchronous, and only looks at the
   * name.
   */
  peek(digest: Digest): BlobPeek | undefined;
  /**
   * Removes the blob from its place, within the transaction in which the index says that nothing needs it; `undefined`
   * if there is nothing. Call the returned function after the transaction to free the bytes; once it resolves, a power
   * failure does not bring them back.
   */
  takeAway(digest: Digest): (() => Promise<void>) | undefined;
  /**
   * Opens the ingest of `lease`, whose key matches `[a-z0-9-]{1,200}`, for writing at its end: a new one, or what the
   * previous holder left. `anew`: always a new one. Hashing begins at once, with the algorithm of `digest`, or sha256.
   */
  ingest(lease: Lease, options?: IngestOptions): Promise<Ingest>;
  /**
   * Follows the ingest of the Lease with this epoch, which another process writes; `undefined` if it does not exist
   * (yet): its holder may still be copying what the previous holder had.
   */
  follow(key: string, epoch: number): Promise<IngestFollower | undefined>;
  /** The length of the ingest of `key`, or of what its holder is taking over. 0 if there is none. */
  ingestLength(key: string, epoch: number): Promise<number>;
  /**
   * Removes an ingest returned by `ingests`, which nobody writes; no error if it is gone. The caller holds the Lease of
   * its key.
   */
  abandon(ingest: Pick<FoundIngest, 'name'>): Promise<void>;
  /**
   * Resolves when this many more bytes may be written, after making room if necessary; rejects with StorageFull if not.
   * Nothing is reserved: every write asks again.
   */
  admit(bytes: number): Promise<void>;
  /** All ingests, for upkeep. */
  ingests(): AsyncIterable<FoundIngest>;
  /** All stored blobs, with or without a row in the index, for upkeep. */
  blobs(): AsyncIterable<{ readonly digest: Digest; readonly size: number; readonly modifiedAtMs: number }>;
  close(): Promise<void>;
}

/**
 * One write in progress. The first of `commit`, `suspend` and `abort` that succeeds ends it; after that, `suspend` and
 * `abort` do nothing. A crash is like `suspend`. Every write rejects with LeaseLost if the Lease belongs to another
 * process by now, and what it wrote then does not count.
 */
export interface Ingest {
  /** Bytes written and readable. */
  readonly offset: number;
  /**
   * Appends; resolves when the bytes can be read (not yet synced). One call at a time. Rejects on a full disk (see
   * `isStorageFull`); `offset` then says how much was written, and writing may be tried again.
   */
  write(chunks: readonly Uint8Array[]): Promise<void>;
  /** Reads written bytes at a position, at most up to `offset`. Possible after `commit`, until `close`. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** Discards everything from `size` on. */
  truncate(size: number): Promise<void>;
  /**
   * The digest of everything written. Hashing runs behind the writer, so after the last byte this takes a moment.
   * `like` gives the algorithm; if it is not the one in use, all bytes are hashed again.
   */
  hash(like: Digest): Promise<Digest>;
  /**
   * Makes it the blob `digest`: syncs the file, moves it, syncs the folder. The caller has verified size and `hash`. An
   * existing blob of that digest is replaced. If it rejects, the blob is not durable and no row may claim that it is
   * stored; `suspend` or `abort` then end the ingest.
   */
  commit(digest: Digest): Promise<void>;
  /** Stops writing and keeps the bytes for the next holder of the Lease. */
  suspend(): Promise<void>;
  /** Stops writing and removes the bytes. */
  abort(): Promise<void>;
  /** Ends reading. Call it after commit, suspend or abort, when there are no more readers; may be called twice. */
  close(): Promise<void>;
}

/** Reads an ingest that another process writes. */
export interface IngestFollower {
  /** Its current length. */
  length(): Promise<number>;
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}
