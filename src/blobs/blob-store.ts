/**
 * blobs/: where bytes live, by Digest. May import oci/ and lib/.
 *
 * The one idea: a write is an Ingest, invisible until `commit`. The contract is asynchronous, small and without
 * paths, so that a folder and an object store can both keep it; `blob-store.suite.ts` is what every
 * implementation passes. Who may write a key is settled before by a Claim in the index, not here.
 */
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Digest } from '../oci/digest.ts';

export interface BlobStat {
  /** Bytes. */
  readonly size: number;
}

export interface BlobStore {
  /** `undefined` when the blob is not here. Throws when the store is broken: that is never a miss. */
  stat(digest: Digest): Promise<BlobStat | undefined>;
  /** `undefined` when the blob is not here: something else in its place is not it. The caller closes the reader; it outlives a `remove`. */
  open(digest: Digest): Promise<BlobReader | undefined>;
  /** Removes the blob; absent is fine. Remove its row in the index first. */
  remove(digest: Digest): Promise<void>;
  /**
   * Opens the ingest `key` (`[a-z0-9-]{1,200}`), new or left by an earlier process, for writing at its end.
   * The caller holds the Claim of that key. Hashing begins at once, with the algorithm of `digest`, or sha256.
   */
  ingest(key: string, digest?: Digest): Promise<Ingest>;
  /** An ingest that another process writes, for reading along; `undefined` when there is none. */
  follow(key: string): Promise<IngestFollower | undefined>;
  /** Removes an ingest that nobody writes; absent is fine. */
  abandon(key: string): Promise<void>;
  /** All ingests, for upkeep. */
  ingests(): AsyncIterable<{ readonly key: string; readonly size: number; readonly modifiedAtMs: number }>;
  /** All blobs that are here, with or without a row in the index, for upkeep. */
  blobs(): AsyncIterable<{ readonly digest: Digest; readonly size: number; readonly modifiedAtMs: number }>;
  close(): Promise<void>;
}

/**
 * One write in progress. The first of `commit`, `suspend` and `abort` that succeeds ends it, `suspend` and `abort` do
 * nothing afterwards; a crash is like `suspend`.
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
  /** Stops writing, keeps the bytes for a later `ingest(key)`. */
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
