import type { Extent, KnownExtents } from '../lib/extents.ts';
import type { Lease } from '../lib/lease.ts';
import type { Digest } from '../oci/digest.ts';

/**
 * Where bytes are while they are written: always local, whatever the BlobStore is. An ingest belongs to one acquisition of
 * its Lease, by the epoch. The next holder continues from a copy, unless the previous one is known not to write any more. So
 * a process that was suspended and considered dead writes to a file that nobody reads.
 */
export interface Spool {
  /**
   * Opens the ingest of `lease`, whose key matches `[a-z0-9-]{1,200}`, for writing at its end: a new one, or what the
   * previous holder left. That is found even if a power failure made the index forget that holder's Lease. `anew`:
   * always a new one. Hashing begins at once, with the algorithm of `digest`, or sha256.
   */
  ingest(lease: Lease, options?: IngestOptions): Promise<Ingest>;
  /**
   * Opens the parts of `lease` for a blob of `size` bytes, whose key is of no ingest: with what the previous holder saved
   * if it is known not to write any more, otherwise without any.
   */
  parts(lease: Lease, size: number): Promise<BlobParts>;
  /**
   * The parts that the holder of the Lease with this epoch has saved or announced, or has left; `undefined` if there are
   * none. The caller closes the result.
   */
  savedParts(key: string, epoch: number): Promise<SavedParts | undefined>;
  /**
   * Follows the ingest of the Lease with this epoch, which another process writes; `undefined` if it does not exist
   * (yet): its holder may still be copying what the previous holder had.
   */
  follow(key: string, epoch: number): Promise<IngestFollower | undefined>;
  /**
   * The length of the ingest of `key`, or of what its holder is taking over. 0 if there is none. `epoch` is that of its
   * Lease; `undefined` if it has none.
   */
  length(key: string, epoch: number | undefined): Promise<number>;
  /**
   * Removes an ingest returned by `list`, which nobody writes; no error if it is gone. The caller holds the Lease of its
   * key.
   */
  abandon(ingest: Pick<FoundIngest, 'name'>): Promise<void>;
  /** All ingests and parts, for upkeep. */
  list(): AsyncIterable<FoundIngest>;
  /**
   * The size of all ingests on disk: as last counted, plus what this process has written and minus what it has ended
   * since. Ingests of earlier and other processes are included from the first count on.
   */
  readonly unfinishedBytes: number;
  /** Sets the result of a count of all ingests. Counting is left to the caller, since nothing waits for it. */
  countUnfinished(bytes: number): void;
  readonly space: SpoolSpace;
  /** Told of ingests as they grow, for a store that sends what is not complete yet. Set by `compose/`. */
  observer?: IngestObserver | undefined;
}

export interface IngestObserver {
  /** An ingest was begun, and is empty. `digest`: of the blob that it is to be, if that is known. */
  began(ingest: Ingest, digest: Digest | undefined): void;
  /** It has more bytes. */
  grew(ingest: Ingest): void;
  /** Its bytes are discarded, or it is not written any more and was not put. Resolves when it is not read any more. */
  dropped(ingest: Ingest): Promise<void>;
}

/** The free space of the spool's disk. */
export interface DiskLook {
  /** Available to this user. */
  readonly freeBytes: number;
  /** How many bytes must stay free. */
  readonly minFreeBytes: number;
}

/** The free disk space for what is written. */
export interface SpoolSpace {
  look(): Promise<DiskLook>;
  /**
   * Whether `admit` would admit this many bytes, as far as is known: there is room, or eviction made some when it was last
   * needed. Measures at most once a second, and makes no room.
   */
  mayAdmit(bytes: number): Promise<boolean>;
  /**
   * Resolves when this many more bytes may be written, after making room if necessary; rejects with StorageFull if not.
   * Nothing is reserved: every write asks again.
   */
  admit(bytes: number): Promise<void>;
  /** Removes evictable content so that this many bytes can be written, if possible. */
  makeRoom(bytes: number): Promise<void>;
  /** Does the work of `makeRoom`. Set by `compose/`; without it, no room is made. */
  roomMaker?: ((bytes: number) => Promise<void>) | undefined;
  /**
   * Calls `listener` after room was made, before the writes that needed it measure again, until the returned function is
   * called.
   */
  onRoomMade(listener: () => void): () => void;
}

export interface IngestOptions {
  /** What is expected, if it is known: its algorithm is used for hashing. Default: sha256. */
  readonly digest?: Digest;
  /** Discards what an earlier holder of the Lease left. Default: continues it. */
  readonly anew?: boolean;
  /** Whether it is of a blob that is stored already: no observer is told. Default: no. */
  readonly isCopy?: boolean;
  /** Whether another replica stores the blob: no observer is told. Default: no. */
  readonly isStoredElsewhere?: boolean;
}

/** An ingest in the spool, as a list returns it. */
export interface FoundIngest {
  readonly name: string;
  readonly key: string;
  /** The epoch of its Lease; `undefined` if its name has none. */
  readonly epoch: number | undefined;
  /** Whether it is `BlobParts`. */
  readonly isParts: boolean;
  /** What it takes on disk. */
  readonly size: number;
  /** When it was last written; for parts, when they were last used. */
  readonly modifiedAtMs: number;
}

/**
 * One write in progress. The first of `BlobStore.put`, `suspend` and `abort` that succeeds ends it; after that, `suspend`
 * and `abort` do nothing. A crash is like `suspend`. Every write rejects with LeaseLost if the Lease belongs to another
 * process by now, and what it wrote then does not count.
 */
export interface Ingest {
  readonly lease: Lease;
  /** Bytes written and readable. */
  readonly offset: number;
  /**
   * Appends; resolves when the bytes can be read (not yet synced). One call at a time. Rejects on a full disk (see
   * `isStorageFull`); `offset` then says how much was written, and writing may be tried again.
   */
  write(chunks: readonly Uint8Array[]): Promise<void>;
  /** Reads written bytes at a position, at most up to `offset`. Possible after it has ended, until `close`. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** Discards everything from `size` on. */
  truncate(size: number): Promise<void>;
  /**
   * The digest of everything written. Hashing runs behind the writer, so after the last byte this takes a moment.
   * `like` gives the algorithm; if it is not the one in use, all bytes are hashed again.
   */
  hash(like: Digest): Promise<Digest>;
  /** Stops writing and keeps the bytes for the next holder of the Lease. */
  suspend(): Promise<void>;
  /** Stops writing and removes the bytes. */
  abort(): Promise<void>;
  /** Ends reading. Call it after `put`, `suspend` or `abort`, when there are no more readers; may be called twice. */
  close(): Promise<void>;
}

/** Reads an ingest that another process writes. */
export interface IngestFollower {
  /** As of a `BlobReader`. */
  readonly origin?: string | undefined;
  /** Its current length. */
  length(): Promise<number>;
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}

/**
 * Some bytes of a blob, written in any order, each in its place. They are never verified as they are, so nothing may take
 * them for the blob. The first of `suspend` and `abort` ends writing. Every write rejects with LeaseLost if the Lease
 * belongs to another process by now.
 */
export interface BlobParts {
  readonly lease: Lease;
  /** The bytes that are there; grows with each write. */
  readonly extents: KnownExtents;
  /**
   * Writes `chunk` at `position`; resolves when it can be read. Several may be in progress. Rejects on a full disk (see
   * `isStorageFull`), and if there are so many parts that they cannot be told apart any more.
   */
  write(position: number, chunk: Uint8Array): Promise<void>;
  /**
   * Reads from `position`, at most to the end of the extent that has it; 0 bytes if none has. Possible until `close`.
   */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** Makes what is there durable, so that the next holder of the Lease finds it after a crash. */
  save(): Promise<void>;
  /**
   * Tells other processes what is coming, instead of what was told before; resolves when they read it. Bytes count as
   * coming until they are saved. What is too much to be told is left out.
   */
  announce(coming: readonly ComingRange[]): Promise<void>;
  /** Stops writing and keeps what is there for the next holder. If it rejects, nothing is kept. */
  suspend(): Promise<void>;
  /** Stops writing and removes everything. */
  abort(): Promise<void>;
  /** Ends reading. Call it after `suspend` or `abort`; may be called twice. */
  close(): Promise<void>;
}

/** Bytes that a process will have among its parts of a blob. */
export interface ComingRange extends Extent {
  /**
   * `claimed`: they are about to be requested, unless another process does so first. `received`: they are there, and will
   * be saved, at once if another process has a Lease for parts of the same.
   */
  readonly state: 'claimed' | 'requested' | 'received';
}

/** What another holder of a Lease has saved of its parts of a blob. */
export interface SavedParts {
  /** The size of the whole blob. */
  readonly size: number;
  /** The bytes that were there at the last `refresh`; another object if these have changed. */
  readonly extents: KnownExtents;
  /** What it had announced then; another array if it has announced something since, even the same. */
  readonly coming: readonly ComingRange[];
  /** Looks again. False if they are removed, which may be because they were wrong: they must not be used any more. */
  refresh(): Promise<boolean>;
  /** As `BlobParts.read`. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}
