/**
 * blobs/s3/: blobs as objects of a bucket. The main idea: an object is never changed, and its key never used again. The
 * index knows each key before its object exists (`ObjectLedger`) and until it is removed, so that whatever a crash leaves
 * in the bucket is found without a list of it.
 *
 * Keys are `blobs/<algorithm>/<hex>/<uuid>`. Nothing here is loaded unless a bucket is configured.
 */
import { createHash, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobReader } from '../../lib/blob-reader.ts';
import type { Extent } from '../../lib/extents.ts';
import type { Lease, Leases } from '../../lib/lease.ts';
import { type Log, silentLog } from '../../lib/log.ts';
import { Lru } from '../../lib/lru.ts';
import { SingleFlight } from '../../lib/single-flight.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf, isDigest } from '../../oci/digest.ts';
import { OciError } from '../../oci/errors.ts';
import type {
  BlobRemoval,
  BlobStat,
  BlobStore,
  BucketState,
  FoundBlob,
  LocalUsage,
  UnneededObject,
  RehashOptions,
  StoredBlob,
} from '../blob-store.ts';
import type { LocalCopies } from '../local-copies.ts';
import type { Ingest, IngestObserver, Spool } from '../spool.ts';
import { shortFile, unreadableReason } from '../unreadable.ts';
import { available, RETRY_AFTER_S, unavailable } from './available.ts';
import { type Bucket, isTransient } from './bucket.ts';
import type { BucketWatch } from './bucket-watch.ts';
import { type BytesBefore, ObjectFetch } from './object-fetch.ts';
import { MAX_COPIED_BYTES, ObjectCopy } from './object-copy.ts';
import { ObjectReader } from './object-reader.ts';
import { FurtherRequests } from './object-spans.ts';
import { MAX_PARTS, ObjectUpload, type UploadLedger } from './object-upload.ts';
import { S3Failure } from './s3-failure.ts';
import type { StoreMark } from './store-mark.ts';
import { VerifyingReader, type VerifyingReaderOptions } from './verifying-reader.ts';

/** What the index knows of objects; see `MetadataStore`. */
export interface ObjectLedger extends UploadLedger, Pick<Leases, 'acquireLease' | 'readLease' | 'release'> {
  statBlob(digest: Digest): Promise<{ readonly size: number; readonly key?: string } | undefined>;
}

/** What is larger is uploaded in parts of this size, or of the size that takes MAX_PARTS of them. */
const PART_BYTES = 16 * 1024 * 1024;
/** A bucket seldom becomes another store's, and looking for its mark takes a request. */
export const MARK_SEEN_WITHIN_MS = 60_000;
const REMOVALS_AT_ONCE = 8;
/** As many objects as are read in ranges at a time; after a day, others are of interest. */
const RANGED = { maxEntries: 10_000, maxAgeMs: 24 * 60 * 60_000 };
/** So many that no digest is met twice. */
const RANDOM_BYTES = 32;
const HASHED_AT_ONCE_BYTES = 1024 * 1024;

/** Where blobs of the bucket are kept on a disk as well. */
export interface LocalLevel {
  readonly copies: LocalCopies;
  /** On the same disk. */
  readonly spool: Spool;
  /** The id of this replica, if there are several. */
  readonly replica?: string | undefined;
}

interface Parts extends OwnBucket {
  readonly ledger: ObjectLedger;
  /** Default: everything is read from the bucket. */
  readonly local?: LocalLevel | undefined;
  /** Default: whether S3 can be used is not shown. */
  readonly watch?: BucketWatch | undefined;
  /** Default: none. */
  readonly log?: Log;
  /** Whether readers have a URL. Default: no. */
  readonly redirect?: boolean | undefined;
  /** Default: PART_BYTES. */
  readonly partBytes?: number;
  /** How large an object S3 copies. Default: MAX_COPIED_BYTES. */
  readonly maxCopiedBytes?: number | undefined;
}

/**
 * Blobs in a bucket. While that cannot be reached, methods reject with UNAVAILABLE: nothing then counts as missing. What
 * was spooled, or is read as a whole, is also kept in the first level, a cache on the local disk.
 */
export class S3BlobStore implements BlobStore {
  readonly isOnSpoolDisk = false;
  readonly #bucket: Bucket;
  readonly #mark: Pick<StoreMark, 'require'>;
  readonly #ledger: ObjectLedger;
  readonly #partBytes: number;
  readonly #maxCopiedBytes: number;
  readonly #redirect: boolean;
  readonly #local: LocalLevel | undefined;
  readonly #watch: BucketWatch | undefined;
  readonly #log: Log;
  readonly #reading = new Map<Digest, Reading>();
  readonly #sizing = new SingleFlight<number | undefined>();
  /** Of ingests that are still written. */
  readonly #uploads = new Map<Ingest, BegunUpload>();
  /** By key. */
  readonly #fetches = new Map<string, ObjectFetch>();
  readonly #further = new FurtherRequests();
  /** By key, what was read in ranges from the bucket. */
  readonly #ranged = new Lru<{ readonly bytes: number }>(RANGED);

  constructor({
    bucket,
    mark,
    ledger,
    local,
    watch,
    log = silentLog,
    redirect = false,
    partBytes = PART_BYTES,
    maxCopiedBytes = MAX_COPIED_BYTES,
  }: Parts) {
    this.#redirect = redirect;
    this.#local = local;
    this.#watch = watch;
    this.#log = log;
    this.#bucket = bucket;
    this.#mark = mark;
    this.#ledger = ledger;
    this.#partBytes = partBytes;
    this.#maxCopiedBytes = maxCopiedBytes;
  }

  get bucket(): BucketState {
    return { name: this.#bucket.name, trouble: this.#watch?.trouble, problem: this.#watch?.problem };
  }

  /** Sends blobs while they are spooled. */
  readonly observer: IngestObserver = {
    began: (ingest, digest) => {
      // Its key names a digest that no blob has, so whatever is left of it is collected, and never taken for one.
      const upload = this.#newUpload(digest ?? digestOf(randomBytes(RANDOM_BYTES)), ingest);
      this.#uploads.set(ingest, { digest, upload });
    },
    grew: ingest => this.#uploads.get(ingest)?.upload.advance(),
    dropped: async ingest => {
      const begun = this.#uploads.get(ingest);
      this.#uploads.delete(ingest);
      await begun?.upload.drop();
    },
  };

  async stat(digest: Digest): Promise<BlobStat | undefined> {
    const found = await this.#find(digest);
    return found && { size: found.size };
  }

  async open(digest: Digest, wanted?: readonly Extent[]): Promise<BlobReader | undefined> {
    // A client that is sent elsewhere reads nothing here, so only its size is looked up. An empty object has no ranges.
    const row = await this.#ledger.statBlob(requireDigest(digest));
    if (row?.key === undefined) return undefined;
    const object = { key: row.key, size: row.size };
    if (this.#redirect || row.size === 0) {
      const size = await this.#knownSize(digest, object.key);
      return size === row.size ? this.#reader(digest, object, wanted) : undefined;
    }
    const copy = await this.#local?.copies.read(digest, object.size);
    if (copy !== undefined) return copy;
    const isRanged = wanted !== undefined && !this.#hasPaidFor(object, wanted);
    const fetch = await this.#fetchFor(digest, object, { isRanged });
    if (fetch === undefined) return this.#openDirectly(digest, object, wanted);
    if ((await fetch.begun) === 'there') return this.#follow(digest, object, { fetch, wanted });
    return this.#missing();
  }

  async put(digest: Digest, spooled: Ingest): Promise<StoredBlob> {
    const { lease } = spooled;
    // Rejects if the ingest has ended; it was hashed before.
    if ((await spooled.hash(digest)) !== digest) throw new Error('not the bytes of the digest');
    await lease.confirm();
    const key =
      (await this.#finishBegun(digest, spooled)) ??
      (await this.#finish(this.#lastUpload(digest, spooled), lease));
    await this.keepLocally(digest, spooled);
    return { lease, isThere: () => true, key };
  }

  async removal(digest: Digest): Promise<BlobRemoval> {
    const row = await this.#ledger.statBlob(requireDigest(digest));
    return { key: row?.key, isSame: () => true, takeAway: () => undefined };
  }

  async removeObjects(objects: readonly UnneededObject[]): Promise<readonly UnneededObject[]> {
    // If another store has taken the bucket over, it may need them.
    if (objects.length > 0) await available(this.#mark.require());
    const refusals: { readonly object: UnneededObject; readonly err: S3Failure }[] = [];
    const remove = async (object: UnneededObject) => {
      try {
        await this.#remove(object);
      } catch (error) {
        // S3 refuses some, such as one under a retention period; if it is unavailable, do not try the others.
        if (!(error instanceof S3Failure) || isTransient(error)) throw error;
        refusals.push({ object, err: error });
      }
    };
    for (let at = 0; at < objects.length; at += REMOVALS_AT_ONCE) {
      await available(Promise.all(objects.slice(at, at + REMOVALS_AT_ONCE).map(remove)));
    }
    const [first] = refusals;
    if (first !== undefined) {
      this.#log.warn(
        { err: first.err, key: first.object.key, count: refusals.length },
        'S3 refuses to remove unneeded objects: the next collection tries again',
      );
    }
    return refusals.map(({ object }) => object);
  }

  list(): AsyncIterable<FoundBlob> {
    return listBlobs({ bucket: this.#bucket, mark: this.#mark });
  }

  async rehash(
    digest: Digest,
    { key, bytesPerSecond, signal, onProgress }: RehashOptions,
  ): Promise<Digest | undefined> {
    const found = await this.#find(digest, { key, looksAnew: true });
    signal?.throwIfAborted();
    await this.#checkCopy(digest, { bytesPerSecond, ...(signal && { signal }) });
    if (found === undefined) return undefined;
    if (found.size < found.expected) {
      throw shortFile('the object is too short');
    }
    const reader = this.#reader(digest, found, [{ start: 0, end: found.size }]);
    const hash = createHash(digestAlgorithm(digest));
    const buffer = Buffer.allocUnsafeSlow(Math.min(HASHED_AT_ONCE_BYTES, Math.max(1, found.size)));
    const startedMs = performance.now();
    try {
      for (let position = 0; position < found.size; ) {
        signal?.throwIfAborted();
        const count = await reader.read(buffer, position);
        hash.update(buffer.subarray(0, count));
        position += count;
        onProgress?.(position);
        const dueMs = bytesPerSecond === 0 ? 0 : startedMs + (position / bytesPerSecond) * 1000;
        const waitMs = dueMs - performance.now();
        if (waitMs > 0) await sleep(waitMs, undefined, { signal });
      }
    } finally {
      await reader.close();
    }
    const actual = `${digestAlgorithm(digest)}:${hash.digest('hex')}`;
    return isDigest(actual) ? actual : undefined;
  }

  async freeLocal(bytes: number): Promise<number> {
    return (await this.#local?.copies.free(bytes)) ?? 0;
  }

  async keepLocally(digest: Digest, spooled: Ingest): Promise<void> {
    try {
      if ((await this.#local?.copies.keep(digest, spooled)) !== true) await spooled.abort();
    } catch (error) {
      this.#log.warn({ err: error, digest }, 'a blob could not be kept on the disk');
      // The blob is stored nevertheless; upkeep finds what is left here.
      await spooled.abort().catch(() => {});
    }
  }

  async localUsage(): Promise<LocalUsage> {
    return (await this.#local?.copies.usage()) ?? { copies: 0, bytes: 0, maxBytes: 0 };
  }

  hasReaders(digest: Digest): boolean {
    return this.#reading.has(digest) || this.#local?.copies.hasReaders(digest) === true;
  }

  /** Ends what is being fetched. */
  async close(): Promise<void> {
    const stopped = new OciError('UNAVAILABLE', {
      message: 'this server is stopping',
      headers: { 'Retry-After': '1' },
    });
    await Promise.all([...this.#fetches.values()].map(fetch => fetch.stop(stopped)));
    await this.#local?.copies.close();
  }

  /** The object that the row names, or `key`, with its size; `undefined` if there is none. */
  async #find(
    digest: Digest,
    { key, looksAnew = false }: { readonly key?: string | undefined; readonly looksAnew?: boolean } = {},
  ): Promise<FoundObject | undefined> {
    requireDigest(digest);
    const row = key === undefined ? await this.#ledger.statBlob(digest) : { size: 0, key };
    if (row?.key === undefined) return undefined;
    const size = await (looksAnew ? this.#sizeOf(row.key) : this.#knownSize(digest, row.key));
    return size === undefined ? undefined : { key: row.key, size, expected: row.size };
  }

  /** The size of an object, without asking if somebody has it open, who would notice if it were missing. */
  async #knownSize(digest: Digest, key: string): Promise<number | undefined> {
    const reading = this.#reading.get(digest);
    return reading?.key === key ? reading.size : this.#sizeOf(key);
  }

  /** Asks once for all who want to know at a time. */
  #sizeOf(key: string): Promise<number | undefined> {
    const sizing = this.#sizing.run(key, async () => {
      const size = await this.#bucket.size(key);
      if (size === undefined) await this.#mark.require();
      return size;
    });
    return available(sizing.promise);
  }

  /** Call when an object is missing: `undefined`, unless the whole bucket is, which is an error. */
  async #missing(): Promise<undefined> {
    await available(this.#mark.require());
    return undefined;
  }

  async #openDirectly(
    digest: Digest,
    object: NamedObject,
    wanted: readonly Extent[] | undefined,
  ): Promise<BlobReader | undefined> {
    const reader = this.#reader(digest, object, wanted ?? wholeOf(object));
    try {
      if (await reader.begin())
        return wanted === undefined ? this.#verifying(digest, object, { reader }) : reader;
    } catch (error) {
      await reader.close();
      throw error;
    }
    await reader.close();
    return this.#missing();
  }

  /**
   * Whether by now, or since it was true last, as many bytes of the object were read in ranges as it has. Then fetching it at
   * once would have cost as much; and an object of which little is read is not fetched.
   */
  #hasPaidFor({ key, size }: NamedObject, wanted: readonly Extent[]): boolean {
    const before = this.#ranged.get(key)?.bytes ?? 0;
    const bytes = wanted.reduce((sum, { start, end }) => sum + end - start, before);
    this.#ranged.set(key, { bytes: bytes < size ? bytes : 0 });
    return bytes >= size;
  }

  /**
   * The fetch that brings the object into the first level; `undefined` if it is better read from the bucket: only some
   * ranges are wanted, and nobody fetches it, or there is no room.
   */
  async #fetchFor(
    digest: Digest,
    { key, size }: NamedObject,
    { isRanged }: { readonly isRanged: boolean },
  ): Promise<ObjectFetch | undefined> {
    const local = this.#local;
    if (local === undefined) return undefined;
    const running = () => {
      const fetch = this.#fetches.get(key);
      return fetch?.isUseful ? fetch : undefined;
    };
    if (running() !== undefined || isRanged) return running();
    const hasRoom = await Promise.all([local.copies.mayKeep(size), local.spool.space.mayAdmit(size)]);
    if (running() !== undefined || hasRoom.includes(false)) return running();
    const [bucket, leases, log] = [this.#bucket, this.#ledger, this.#log];
    const wrong = (actual: string | undefined) => this.#wrong(digest, key, actual);
    const { copies, spool, replica } = local;
    const further = this.#further;
    const of = { copies, spool, replica, leases, further, log };
    const fetch = new ObjectFetch({ bucket, key, size, digest, ...of, failed: unavailable, wrong });
    this.#fetches.set(key, fetch);
    void this.#forgetAfter(key, fetch);
    return fetch;
  }

  async #forgetAfter(key: string, fetch: ObjectFetch): Promise<void> {
    await fetch.done;
    if (this.#fetches.get(key) === fetch) this.#fetches.delete(key);
  }

  #follow(
    digest: Digest,
    object: NamedObject,
    { fetch, wanted }: { readonly fetch: ObjectFetch; readonly wanted: readonly Extent[] | undefined },
  ): BlobReader {
    const direct = (before: BytesBefore) => {
      const reader = this.#reader(digest, object, wanted ?? wholeOf(object));
      return wanted === undefined ? this.#verifying(digest, object, { reader, before }) : reader;
    };
    return fetch.open(direct, this.#enter(digest, object).left);
  }

  /** A reader of the whole. */
  #verifying(
    digest: Digest,
    { key }: NamedObject,
    parts: Pick<VerifyingReaderOptions, 'reader' | 'before'>,
  ): BlobReader {
    return new VerifyingReader({ ...parts, digest, wrong: actual => this.#wrong(digest, key, actual) });
  }

  /** Reports that S3 has sent other bytes than the digest's, and returns the error for their reader. */
  #wrong(digest: Digest, key: string, actual: string | undefined): OciError {
    this.#log.error(
      { key, digest, actual },
      'S3 sent other bytes than were stored: entrepot scrub finds out which',
    );
    return new OciError('UNAVAILABLE', {
      message: 'the stored content does not match its digest',
      headers: { 'Retry-After': RETRY_AFTER_S },
      detail: { digest },
    });
  }

  #reader(digest: Digest, { key, size }: NamedObject, wanted?: readonly Extent[]): ObjectReader {
    const { shares, left } = this.#enter(digest, { key, size });
    const url = this.#redirect ? () => available(this.#bucket.urlOf(key)) : undefined;
    return new ObjectReader({
      bucket: this.#bucket,
      key,
      size,
      wanted,
      shares,
      url,
      failed: unavailable,
      left,
    });
  }

  /** Notes a reader of the object until `left` is called. */
  #enter(digest: Digest, { key, size }: NamedObject): { readonly shares: object; readonly left: () => void } {
    const reading = this.#reading.get(digest) ?? { readers: 0, key, size, bytes: {} };
    this.#reading.set(digest, reading);
    reading.readers += 1;
    const left = () => {
      reading.readers -= 1;
      if (reading.readers === 0) this.#reading.delete(digest);
    };
    return { shares: reading.key === key ? reading.bytes : {}, left };
  }

  /** Removes a damaged copy, which is not the blob's damage. */
  async #checkCopy(digest: Digest, options: RehashOptions): Promise<void> {
    const copies = this.#local?.copies;
    const actual = await copies?.rehash(digest, options).catch((error: unknown) => {
      if (unreadableReason(error) === undefined) throw error;
      return 'unreadable' as const;
    });
    if (copies === undefined || actual === undefined || actual === digest) return;
    this.#log.warn({ digest, actual }, 'the copy of a blob on the disk was damaged and is removed');
    await copies.remove(digest);
  }

  /**
   * Makes an object of what was sent while the ingest grew, and returns its key; `undefined` if that was nothing, or has failed
   * on the way.
   */
  async #finishBegun(digest: Digest, spooled: Ingest): Promise<string | undefined> {
    const begun = this.#uploads.get(spooled);
    this.#uploads.delete(spooled);
    if (begun === undefined) return undefined;
    const { upload, digest: expected } = begun;
    const maxBytes = expected === undefined ? this.#maxCopiedBytes : MAX_PARTS * this.#partBytes;
    const isOfUse = expected === digest || (expected === undefined && upload.hasBegun);
    if (!isOfUse || upload.hasFailed || spooled.offset > maxBytes) {
      await upload.drop();
      return undefined;
    }
    const { lease } = spooled;
    if (expected !== undefined) return this.#finish(upload, lease);
    const [bucket, ledger] = [this.#bucket, this.#ledger];
    const of = { digest, folder: folderOf(digest), lease, size: spooled.offset };
    try {
      return await this.#finish(new ObjectCopy(upload, { bucket, ledger, ...of }), lease);
    } catch (error) {
      // Not every S3 can copy; but if it is unavailable, do not ask it for more.
      const { cause } = error instanceof OciError ? error : {};
      if (!(cause instanceof S3Failure) || isTransient(cause)) throw error;
      this.#log.warn({ err: error, digest }, 'S3 could not copy what was pushed: it is sent again');
      return undefined;
    }
  }

  #lastUpload(digest: Digest, spooled: Ingest): ObjectUpload {
    return this.#newUpload(digest, spooled, Math.max(this.#partBytes, Math.ceil(spooled.offset / MAX_PARTS)));
  }

  /** Returns the key of the object that is made. */
  async #finish(upload: Pick<ObjectUpload, 'key' | 'finish' | 'drop'>, lease: Lease): Promise<string> {
    try {
      await available(upload.finish());
      await lease.confirm();
      return upload.key;
    } catch (error) {
      // Even if this fails, too, the Lease ends, and with it the announcement.
      await upload.drop();
      throw error;
    }
  }

  #newUpload(digest: Digest, ingest: Ingest, partBytes = this.#partBytes): ObjectUpload {
    return new ObjectUpload({
      bucket: this.#bucket,
      ledger: this.#ledger,
      requireOwn: () => this.#mark.require(MARK_SEEN_WITHIN_MS),
      digest,
      folder: folderOf(digest),
      ingest,
      partBytes,
    });
  }

  async #remove({ key, uploadId }: UnneededObject): Promise<void> {
    if (uploadId !== undefined) await this.#bucket.abortUpload(key, uploadId);
    await this.#bucket.delete(key);
    await this.#removeCopy(key);
  }

  /** Otherwise the copy of a blob that is no longer stored would stay until room is needed. */
  async #removeCopy(key: string): Promise<void> {
    const digest = digestOfKey(key);
    if (digest === undefined || this.#local === undefined) return;
    if ((await this.#ledger.statBlob(digest)) === undefined) await this.#local.copies.remove(digest);
  }
}

/** What is sent of an ingest that still grows. */
interface BegunUpload {
  /** Of the blob that it is to be; `undefined` if that is said at its end. */
  readonly digest: Digest | undefined;
  readonly upload: ObjectUpload;
}

interface NamedObject {
  readonly key: string;
  readonly size: number;
}

interface FoundObject extends NamedObject {
  /** What the row says. */
  readonly expected: number;
}

/** A blob that is open for reading. */
interface Reading {
  readers: number;
  /** The object that the first reader opened. */
  readonly key: string;
  readonly size: number;
  /** Identifies its bytes. */
  readonly bytes: object;
}

/** A bucket that belongs to the store. */
export interface OwnBucket {
  readonly bucket: Bucket;
  readonly mark: Pick<StoreMark, 'require'>;
}

/** All blobs in a bucket. Rejects with UNAVAILABLE if it cannot be reached, or is not the store's. */
export async function* listBlobs({ bucket, mark }: OwnBucket): AsyncGenerator<FoundBlob> {
  try {
    await mark.require();
    for await (const { key, size, modifiedAtMs } of bucket.list('blobs/')) {
      const digest = digestOfKey(key);
      if (digest !== undefined) yield { digest, key, size, modifiedAtMs };
    }
  } catch (error) {
    throw error instanceof S3Failure ? unavailable(error) : error;
  }
}

/** `undefined` if no blob has such a key. */
function digestOfKey(key: string): Digest | undefined {
  const [, algorithm, hex, uuid, ...more] = key.split('/');
  const digest = `${algorithm}:${hex}`;
  return isDigest(digest) && uuid !== undefined && more.length === 0 ? digest : undefined;
}

function wholeOf({ size }: NamedObject): readonly Extent[] {
  return [{ start: 0, end: size }];
}

function folderOf(digest: Digest): string {
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}/`;
}

function requireDigest(digest: Digest): Digest {
  if (!isDigest(digest)) throw new TypeError('not a digest');
  return digest;
}
