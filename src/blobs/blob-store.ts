/**
 * blobs/: where bytes live, by Digest. May import oci/ and lib/.
 *
 * The one idea: a write is an Ingest, invisible until `commit`. The contract is asynchronous, small and without
 * paths, so that a folder and an object store can both keep it; `blob-store.suite.ts` is what every
 * implementation passes. Who may write a key is settled by a Lease in the index. An ingest is one holder's alone, under his
 * Lease's epoch: what a successor goes on from is a copy, unless the holder before certainly writes no more. So whoever
 * wakes after he was taken for dead writes where nobody looks any more.
 */
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Lease } from '../lib/lease.ts';
import type { Digest } from '../oci/digest.ts';

export interface BlobStat {
  /** Bytes. */
  readonly size: number;
}

export interface BlobPeek {
  /** Bytes; `undefined` when it is not a blob that is in its place. */
  readonly size: number | undefined;
  /** Another one for whatever takes its place. */
  readonly identity: string;
}

export interface IngestOptions {
  readonly digest?: Digest;
  readonly anew?: boolean;
}

export interface FoundIngest {
  readonly name: string;
  readonly key: string;
  /** Of its Lease; `undefined` when it has none. */
  readonly epoch: number | undefined;
  readonly size: number;
  readonly modifiedAtMs: number;
}

export interface BlobStore {
  /** `undefined` when the blob is not here. Throws when the store is broken: that is never a miss. */
  stat(digest: Digest): Promise<BlobStat | undefined>;
  /** `undefined` when the blob is not here: something else in its place is not it. The caller closes the reader; it outlives a `takeAway`. */
  open(digest: Digest): Promise<BlobReader | undefined>;
  /** What is in the blob's place now, for a transaction of the index: synchronous, a look at a name. */
  peek(digest: Digest): BlobPeek | undefined;
  /**
   * Takes the blob away from its place, within the transaction in which the index says that nobody needs it; `undefined`
   * when nothing is there. Call what it returns afterwards, to free the bytes: from then on a power loss does not bring them back.
   */
  takeAway(digest: Digest): (() => Promise<void>) | undefined;
  /**
   * Opens the ingest of `lease`, whose key is `[a-z0-9-]{1,200}`, new or with what its holder before has left, for writing
   * at its end. `anew`: without what he left. Hashing begins at once, with the algorithm of `digest`, or sha256.
   */
  ingest(lease: Lease, options?: IngestOptions): Promise<Ingest>;
  /**
   * The ingest of the Lease with this epoch, which another process writes, for reading along; `undefined` when there is
   * none, or none yet: he may still be copying what the holder before had.
   */
  follow(key: string, epoch: number): Promise<IngestFollower | undefined>;
  /** Bytes of the ingest of `key`, or of what its holder is just taking over. 0 when there is none. */
  ingestLength(key: string, epoch: number): Promise<number>;
  /** Removes what `ingests` gave, which nobody writes; absent is fine. The caller holds the Lease of its key. */
  abandon(ingest: Pick<FoundIngest, 'name'>): Promise<void>;
  /**
   * Returns when so many bytes more may be written, for which room is made if need be; rejects as a full disk does when
   * they may not. Nothing is reserved: every write asks again.
   */
  admit(bytes: number): Promise<void>;
  /** All ingests, for upkeep. */
  ingests(): AsyncIterable<FoundIngest>;
  /** All blobs that are here, with or without a row in the index, for upkeep. */
  blobs(): AsyncIterable<{ readonly digest: Digest; readonly size: number; readonly modifiedAtMs: number }>;
  close(): Promise<void>;
}

/**
 * One write in progress. The first of `commit`, `suspend` and `abort` that succeeds ends it, `suspend` and `abort` do
 * nothing afterwards; a crash is like `suspend`. Whatever writes rejects with LeaseLost when the Lease is another's by now,
 * and what it wrote then counts for nothing.
 */
export interface Ingest {
  /** Bytes written and readable. */
  readonly offset: number;
  /**
   * Appends; resolves when the bytes can be read (not yet synced). One call at a time. A full disk is what
   * `isStorageFull` recognises; `offset` then says how much was written, and writing may be tried again.
   */
  write(chunks: readonly Uint8Array[]): Promise<void>;
  /** Positioned read of what is written; at most up to `offset`. Stays possible after `commit` until `close`. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** Forgets everything from `size` on. */
  truncate(size: number): Promise<void>;
  /**
   * The digest of everything written, hashed behind the writer: after the last byte this takes a moment, not a pass.
   * `like` names the algorithm; one that was not begun is hashed from the first byte.
   */
  hash(like: Digest): Promise<Digest>;
  /**
   * Makes it the blob `digest`: syncs the file, moves it, syncs the folder. The caller has verified size and `hash`.
   * Another blob of that digest may be there already; it is replaced. After a rejection it is not durable: no row may
   * say that it is held. `suspend` or `abort` then end the ingest.
   */
  commit(digest: Digest): Promise<void>;
  /** Stops writing, keeps the bytes for the next holder of the Lease. */
  suspend(): Promise<void>;
  /** Stops writing and removes the bytes. */
  abort(): Promise<void>;
  /** Ends reading, after commit, suspend or abort, when no reader is left. May be called twice. */
  close(): Promise<void>;
}

/** Reads along with an ingest of another process. */
export interface IngestFollower {
  /** Bytes there now. */
  length(): Promise<number>;
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}
