import { setTimeout as sleep } from 'node:timers/promises';
import { type BlobReader, HOLD_BACK_BYTES, type LentBytes } from '../../lib/blob-reader.ts';
import { Changes } from '../../lib/changes.ts';
import { type Lease, LeaseLost, type Leases } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import { type Digest, digestAlgorithm, digestHex } from '../../oci/digest.ts';
import { OciError } from '../../oci/errors.ts';
import type { LocalCopies } from '../local-copies.ts';
import type { Ingest, IngestFollower, Spool } from '../spool.ts';
import { isStorageClosed } from '../storage-full.ts';
import { FetchedBytes } from './fetched-bytes.ts';
import { type FurtherRequests, ObjectSpans } from './object-spans.ts';
import type { StoredObject } from './object-stream.ts';
import { S3Failure } from './s3-failure.ts';

/** A blob of up to this size is verified before anybody has a byte of it, which takes no noticeable time. */
const VERIFIED_FIRST_BYTES = 1024 * 1024;
/** A read this far ahead waits for the fetch, which is there sooner than a request of its own. */
const NEAR_BYTES = 1024 * 1024;
/** How often the length of a file is looked up that another process writes. */
const FOLLOW_POLL_MS = 20;
/** How often it takes over from other processes that did not get to the end, before readers go on without it. */
const MAX_ATTEMPTS = 3;

export interface FetchOptions extends StoredObject {
  readonly digest: Digest;
  readonly spool: Spool;
  readonly copies: LocalCopies;
  readonly replica: string | undefined;
  readonly leases: Pick<Leases, 'acquireLease' | 'readLease' | 'release'>;
  readonly further: FurtherRequests;
  readonly log: Log;
  /** The error of readers for an S3Failure. */
  readonly failed: (failure: S3Failure) => Error;
  /** The error of readers for bytes of another digest; what is only known to differ has none. */
  readonly wrong: (actual: string | undefined) => Error;
}

/** What a reader that continues directly from the bucket may have had before. */
export type BytesBefore = Pick<BlobReader, 'read'> & { readonly length: number };

/** What readers can rely on: `there`, that the object is. */
type Begun = 'there' | 'missing';

/**
 * One transfer of an object into the spool, which becomes a local copy once its digest is right. Before that, nobody has the
 * end of it. Of all processes on the store one fetches, under a Lease, and the others follow its file. Readers follow at their
 * own pace, come and go, and continue directly from the bucket if there is no room for the bytes here, or the process that
 * fetched them has died.
 */
export class ObjectFetch {
  readonly size: number;
  /** Of the object. */
  readonly key: string;
  /** Identifies its bytes. */
  readonly shares = {};
  /**
   * Resolves when it is known whether there is such an object; rejects with the error for readers if S3 cannot be
   * reached.
   */
  readonly begun: Promise<Begun>;
  /** Resolves when it has ended; never rejects. */
  readonly done: Promise<void>;
  readonly #options: FetchOptions;
  readonly #changes = new Changes();
  readonly #stopping = new AbortController();
  readonly #bytes = new FetchedBytes();
  #begun: Begun | undefined;
  /** `left`: it brings no more, which says nothing about the object. */
  #state: 'fetching' | 'verified' | 'left' | 'failed' = 'fetching';
  #failure: unknown;
  #readers = 0;
  #isOver = false;

  constructor(options: FetchOptions) {
    this.#options = options;
    this.size = options.size;
    this.key = options.key;
    this.begun = this.#until(() => this.#begun ?? (this.#state === 'left' ? 'there' : undefined));
    this.begun.catch(() => {});
    this.done = this.#run();
  }

  /** Whether there is an object, and those who come now are served by this. */
  get isUseful(): boolean {
    return this.#begun !== 'missing' && (this.#state === 'fetching' || this.#state === 'verified');
  }

  /** Opens a reader. `direct` makes the one that continues directly from the bucket; `left` is called when it is closed. */
  open(direct: (before: BytesBefore) => BlobReader, left: () => void): BlobReader {
    this.#readers += 1;
    return new FetchReader(this, direct, () => {
      this.#readers -= 1;
      this.#closeUnread();
      left();
    });
  }

  /**
   * The end of what is there from `position` on, as soon as that is something; `undefined` if it has to be read elsewhere.
   * Rejects with the failure of the fetch.
   */
  async readableFrom(position: number, signal: AbortSignal): Promise<number | undefined> {
    const end = await this.#until(() => {
      if (this.#readable > position) return this.#readable;
      const isFar = position > this.#bytes.length + NEAR_BYTES;
      return this.#state === 'left' || isFar ? 0 : undefined;
    }, signal);
    return end === 0 ? undefined : end;
  }

  /** All that is there, verified or not. */
  get bytes(): BytesBefore {
    return this.#bytes;
  }

  /** Bytes from `position` on that are readable, if they have just come. */
  lend(position: number): LentBytes | undefined {
    return this.#readable > position ? this.#bytes.lend(position, this.#readable) : undefined;
  }

  /** Ends it; what was fetched is discarded. */
  async stop(reason: Error): Promise<void> {
    this.#stopping.abort(reason);
    await this.done;
  }

  get #readable(): number {
    if (this.#state === 'verified') return this.size;
    if (this.size <= VERIFIED_FIRST_BYTES) return 0;
    return Math.min(this.#bytes.length, this.size - HOLD_BACK_BYTES);
  }

  async #run(): Promise<void> {
    const { key, log, failed } = this.#options;
    try {
      for (let attempt = 0; attempt < MAX_ATTEMPTS && this.#state === 'fetching'; attempt++)
        await this.#bring();
    } catch (error) {
      const { signal } = this.#stopping;
      // Whatever that has broken off.
      if (signal.aborted) this.#fail(signal.reason);
      else if (error instanceof S3Failure) this.#fail(failed(error));
      else if (error instanceof OciError) this.#fail(error);
      else if (!isStorageClosed(error) && !(error instanceof LeaseLost)) {
        log.warn(
          { err: error, key },
          'an object could not be copied to the disk; it is read from the bucket',
        );
      }
    } finally {
      if (this.#state === 'fetching') await this.#end('left');
      this.#isOver = true;
      this.#closeUnread();
    }
  }

  async #bring(): Promise<void> {
    const { leases, digest, replica } = this.#options;
    // Each replica has copies of its own.
    const of = replica === undefined ? '' : `${replica}-`;
    const leaseKey = `copy-${of}${digestAlgorithm(digest)}-${digestHex(digest)}`;
    const lease = await leases.acquireLease(leaseKey);
    if (lease === undefined) return this.#follow(leaseKey);
    try {
      // Another process may have just finished.
      if (!(await this.#takeCopy())) await this.#fetch(lease);
    } finally {
      await leases.release(lease);
    }
  }

  async #fetch(lease: Lease): Promise<void> {
    const { digest, spool, further } = this.#options;
    const stream = new ObjectSpans(this.#options, { further, signal: this.#stopping.signal });
    // While S3 looks for the object.
    const opening = spool.ingest(lease, { digest, anew: true, isCopy: true });
    opening.catch(() => {});
    if (!(await beginning(stream, opening))) {
      // Readers that have begun with what another process fetched must get an error.
      if (this.#begun !== undefined) throw new S3Failure('the object was removed while it was read');
      this.#begun = 'missing';
      await this.#end('left');
      return;
    }
    this.#begun = 'there';
    this.#changes.tell();
    let ingest: Ingest | undefined;
    try {
      ingest = await opening;
      this.#bytes.readFrom(ingest, 0);
      await this.#receive(stream, ingest);
      await this.#keep(ingest);
    } catch (error) {
      stream.leave();
      await ingest?.abort().catch(() => {});
      throw error;
    }
  }

  /** Readers have each piece as soon as it is here; writing it is one piece behind. */
  async #receive(stream: ObjectSpans, ingest: Ingest): Promise<void> {
    let writing = Promise.resolve();
    try {
      for (let piece = await stream.next(); piece !== undefined; piece = await stream.next()) {
        this.#stopping.signal.throwIfAborted();
        this.#bytes.add(piece);
        this.#changes.tell();
        await writing;
        writing = ingest.write([piece]);
        writing.catch(() => {});
        for (const bytes of this.#bytes.forget(ingest.offset)) stream.release(bytes);
      }
      await writing;
    } finally {
      await writing.catch(() => {});
      for (const bytes of this.#bytes.forget(ingest.offset, { kept: 0 })) stream.release(bytes);
    }
  }

  async #keep(ingest: Ingest): Promise<void> {
    const { digest, copies, wrong } = this.#options;
    const actual = await ingest.hash(digest);
    if (actual !== digest) throw wrong(actual);
    await this.#end('verified');
    if (!(await copies.keep(digest, ingest))) await ingest.abort();
  }

  /** Reads what the holder of the Lease writes, until it has made a copy of that, or no longer holds it. */
  async #follow(leaseKey: string): Promise<void> {
    const { spool, leases } = this.#options;
    let followed: { readonly file: IngestFollower; readonly epoch: number } | undefined;
    this.#begun ??= 'there';
    this.#changes.tell();
    while (!(await this.#takeCopy())) {
      const held = await leases.readLease(leaseKey);
      if (held?.isHeld !== true) return;
      if (followed?.epoch !== held.epoch) {
        const file = await spool.follow(leaseKey, held.epoch);
        followed = file && { file, epoch: held.epoch };
        if (file !== undefined) this.#bytes.readFrom(file, 0);
      }
      if (followed !== undefined) {
        this.#bytes.grow(await followed.file.length());
        this.#changes.tell();
      }
      await sleep(FOLLOW_POLL_MS, undefined, { signal: this.#stopping.signal });
    }
  }

  async #takeCopy(): Promise<boolean> {
    const { copies, digest, size } = this.#options;
    const copy = await copies.read(digest, size);
    if (copy === undefined) return false;
    this.#begun ??= 'there';
    this.#bytes.readFrom(copy, size);
    await this.#end('verified');
    return true;
  }

  /** A reader that may have had other bytes, from a process that has died, does not continue. */
  async #end(state: 'verified' | 'left'): Promise<void> {
    if (await this.#bytes.isConsistent().catch(() => false)) this.#state = state;
    else this.#fail(this.#options.wrong(undefined));
    this.#changes.tell();
  }

  #fail(failure: unknown): void {
    if (this.#state !== 'fetching') return;
    this.#state = 'failed';
    this.#failure = failure;
    this.#changes.tell();
  }

  #until<T>(look: () => T | undefined, signal?: AbortSignal): Promise<T> {
    return this.#changes.until(() => {
      const found = look();
      if (found === undefined && this.#state === 'failed') throw this.#failure;
      return found;
    }, signal);
  }

  #closeUnread(): void {
    if (this.#readers === 0 && this.#isOver) this.#bytes.close();
  }
}

/** Begins it, or leaves it; then the ingest for it is gone, too. */
async function beginning(stream: ObjectSpans, opening: Promise<Ingest>): Promise<boolean> {
  let isThere = false;
  try {
    isThere = await stream.begin();
  } finally {
    if (!isThere) {
      stream.leave();
      await discard(opening);
    }
  }
  return isThere;
}

/** Removes and closes an ingest that nobody reads. If that fails, upkeep finds what is left. */
async function discard(opening: Promise<Ingest>): Promise<void> {
  const ingest = await opening.catch(() => undefined);
  await ingest?.abort().catch(() => {});
  await ingest?.close().catch(() => {});
}

/** Reads a fetch while it is running. */
class FetchReader implements BlobReader {
  readonly size: number;
  readonly origin: string;
  readonly #fetch: ObjectFetch;
  readonly #makeDirect: (before: BytesBefore) => BlobReader;
  readonly #left: () => void;
  readonly #closing = new AbortController();
  #direct: BlobReader | undefined;

  constructor(fetch: ObjectFetch, direct: (before: BytesBefore) => BlobReader, left: () => void) {
    this.#fetch = fetch;
    this.size = fetch.size;
    this.origin = fetch.key;
    this.#makeDirect = direct;
    this.#left = left;
  }

  /** What comes straight from the bucket is not verified, so readers of the fetch do not share it. */
  get shares(): object | undefined {
    return this.#direct === undefined ? this.#fetch.shares : this.#direct.shares;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    const { signal } = this.#closing;
    if (position >= this.size) {
      signal.throwIfAborted();
      return 0;
    }
    const end = await this.#readableFrom(position);
    if (end !== undefined) {
      const count = await this.#fetch.bytes.read(buffer.subarray(0, end - position), position);
      if (count > 0) return count;
    }
    this.#direct ??= this.#makeDirect(this.#fetch.bytes);
    if (signal.aborted) await this.#direct.close();
    return this.#direct.read(buffer, position);
  }

  async lend(position: number): Promise<LentBytes | undefined> {
    if (position >= this.size) return undefined;
    const end = await this.#readableFrom(position);
    return end === undefined ? undefined : this.#fetch.lend(position);
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new Error('the reader is closed'));
    await this.#direct?.close();
    this.#left();
  }

  /** As of the fetch; `undefined`, too, if the reader continues directly from the bucket. */
  async #readableFrom(position: number): Promise<number | undefined> {
    if (this.#direct !== undefined) return undefined;
    return this.#fetch.readableFrom(position, this.#closing.signal);
  }
}
