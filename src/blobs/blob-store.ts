/**
 * blobs/: where bytes are stored, by digest. May import oci/ and lib/.
 *
 * The main idea: what is being written is an ingest of the Spool, which is local and invisible. Once verified, it is `put`
 * into the BlobStore, where it stays. Both contracts are asynchronous, small and without paths, so that both a folder and
 * an object store can implement them; `spool.suite.ts` and `blob-store.suite.ts` are what every implementation passes.
 *
 * A Lease in the index decides who may write a key, and a row in the index which blobs are stored: a blob without a row is
 * never served.
 */
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Extent } from '../lib/extents.ts';
import type { Lease } from '../lib/lease.ts';
import type { Digest } from '../oci/digest.ts';
import type { Ingest } from './spool.ts';

/** The size of a stored blob. */
export interface BlobStat {
  /** Bytes. */
  readonly size: number;
}

/** A stored blob, as a list returns it. */
export interface FoundBlob extends BlobStat {
  readonly digest: Digest;
  /** The key of its object; absent if it is a file. */
  readonly key?: string;
  readonly modifiedAtMs: number;
}

/** A blob that was put, for the transaction of the index that writes its row. */
export interface StoredBlob {
  /** The Lease under which its bytes were written: the row must not be written if it is lost. */
  readonly lease: Lease;
  /**
   * Whether the bytes are still stored: as long as they have no row, another process may remove them. Synchronous. Always
   * true of an object, which the index knows about.
   */
  readonly isThere: () => boolean;
  /** The key of its object, which the row names; absent if it is a file. */
  readonly key?: string;
}

/** An object that the index has given up. */
export interface UnneededObject {
  readonly key: string;
  /** The multipart upload of which it was to be made. */
  readonly uploadId: string | undefined;
}

/**
 * What was in a blob's place at some moment, for use within a transaction of the index. An object is not taken away here:
 * the index gives it up with the row that names it, and whoever reads it may finish.
 */
export interface BlobRemoval {
  /** The key of the object; absent if it is a file. */
  readonly key?: string | undefined;
  /** Whether it is still there, and was not replaced; after `takeAway`, whether nothing is there. Synchronous. */
  isSame(): boolean;
  /**
   * Removes the blob from its place, within the transaction in which the index says that nothing needs it: synchronous;
   * `undefined` if there is nothing. Call the returned function after the transaction to free the bytes; once it resolves,
   * a power failure does not bring them back.
   */
  takeAway(): (() => Promise<void>) | undefined;
}

/** Why a bucket cannot be used at the moment. */
export interface BucketTrouble {
  /**
   * `noCredentials`: there is nothing to sign requests with. `unreachable`: no connection or answer. `busy`: it answers that
   * it cannot do it now. `refused`: credentials or permissions. `missing`: the bucket is gone, or is no longer this store's.
   */
  readonly kind: 'noCredentials' | 'unreachable' | 'busy' | 'refused' | 'missing';
  /** Epoch ms. */
  readonly sinceMs: number;
}

/** The bucket of a store, for people. */
export interface BucketState {
  readonly name: string;
  /** `undefined` if it can be used, as far as is known. */
  readonly trouble: BucketTrouble | undefined;
  /** The same, as a line of text. */
  readonly problem: string | undefined;
}

/** What a store keeps on the spool's disk for speed alone. */
export interface LocalUsage {
  readonly copies: number;
  readonly bytes: number;
  readonly maxBytes: number;
}

export interface RehashOptions {
  /** The maximum rate; 0 means no limit. */
  readonly bytesPerSecond: number;
  /** The key of the object to read. Default: what the row says. */
  readonly key?: string | undefined;
  readonly signal?: AbortSignal;
  /** Called now and then with the number of bytes read. */
  readonly onProgress?: (bytes: number) => void;
}

/**
 * Where verified blobs are stored. Asynchronous, and without paths. A file is found by the digest alone; of an object, the
 * blob's row names the key, and without a row it is not found.
 */
export interface BlobStore {
  /** Whether removing blobs makes room on the spool's disk. */
  readonly isOnSpoolDisk: boolean;
  /** `undefined` if the blob is not stored. Throws if the store is broken: that is never a miss. */
  stat(digest: Digest): Promise<BlobStat | undefined>;
  /**
   * `undefined` if the blob is not stored, or something else is in its place. The caller closes the reader, which remains
   * usable after the blob is removed. `wanted`: what will be read; without it, everything. It changes nothing but how the
   * bytes are fetched.
   */
  open(digest: Digest, wanted?: readonly Extent[]): Promise<BlobReader | undefined>;
  /**
   * Makes `spooled` the blob `digest`, which is durable when it resolves. The caller has verified size and `hash`. An
   * existing blob of that digest is replaced. This ends the ingest, which can still be read until it is closed. If it
   * rejects, the blob is not durable and no row may claim that it is stored; `suspend` or `abort` then end the ingest. After
   * UNAVAILABLE the ingest remains, and may be put again.
   */
  put(digest: Digest, spooled: Ingest): Promise<StoredBlob>;
  /**
   * Removes objects, and what is left of their uploads; an object that is already gone is not an error. Returns those that
   * the store refuses to remove; rejects if it cannot be reached. Absent for files.
   */
  removeObjects?(objects: readonly UnneededObject[]): Promise<readonly UnneededObject[]>;
  /** Prepares the removal of whatever is in the blob's place now. */
  removal(digest: Digest): Promise<BlobRemoval>;
  /**
   * All stored blobs, with or without a row in the index, for upkeep. Blobs that are put or removed meanwhile may be missing
   * or listed; the list of an object store may lag behind.
   */
  list(): AsyncIterable<FoundBlob>;
  /**
   * Reads the blob again from where it is stored and returns the digest of its bytes, for scrubbing. `undefined` if nothing
   * is in its place. Rejects when `signal` aborts, or if the bytes cannot be read; `unreadableReason` then says whether this
   * blob is damaged.
   */
  rehash(digest: Digest, options: RehashOptions): Promise<Digest | undefined>;
  /**
   * Removes what the store keeps on the spool's disk for speed alone, until so many bytes are free; returns how many were.
   * Absent if it keeps nothing there.
   */
  freeLocal?(bytes: number): Promise<number>;
  /**
   * Ends the ingest of a blob that is stored, and whose digest was verified: it is kept on the spool's disk if possible.
   * Absent like `freeLocal`.
   */
  keepLocally?(digest: Digest, spooled: Ingest): Promise<void>;
  /** How much is kept there. Absent like `freeLocal`. */
  localUsage?(): Promise<LocalUsage>;
  /** The bucket, if blobs are in one. */
  readonly bucket?: BucketState;
  /** Whether a reader of this process has the blob open, in which case removing it does not free its space yet. */
  hasReaders(digest: Digest): boolean;
}
