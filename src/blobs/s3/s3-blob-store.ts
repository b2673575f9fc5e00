/**
 * blobs/s3/: blobs as objects of a bucket. The main idea: an object is never changed, and its key never used again. The
 * index knows each key before its object exists (`ObjectLedger`) and until it is removed, so that whatever a crash leaves
 * in the bucket is found without a list of it.
 *
 * Keys are `blobs/<algorithm>/<hex>/<uuid>`. Nothing here is loaded unless a bucket is configured.
 */
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobReader } from '../../lib/blob-reader.ts';
import type { Lease } from '../../lib/lease.ts';
import { SingleFlight } from '../../lib/single-flight.ts';
import { type Digest, digestAlgorithm, digestHex, isDigest } from '../../oci/digest.ts';
import { OciError } from '../../oci/errors.ts';
import type {
  BlobRemoval,
  BlobStat,
  BlobStore,
  FoundBlob,
  UnneededObject,
  RehashOptions,
  StoredBlob,
} from '../blob-store.ts';
import type { Ingest } from '../spool.ts';
import { SHORT_FILE } from '../unreadable.ts';
import type { Bucket } from './bucket.ts';
import { ObjectReader } from './object-reader.ts';
import { payloadOfIngest } from './payload.ts';
import { S3Failure } from './s3-failure.ts';
import type { StoreMark } from './store-mark.ts';

/** What the index knows of objects; see `MetadataStore`. */
export interface ObjectLedger {
  statBlob(digest: Digest): Promise<{ readonly size: number; readonly key?: string } | undefined>;
  announceObject(
    object: { readonly digest: Digest; readonly key: string; readonly uploadId?: string },
    lease: Lease,
  ): Promise<void>;
  giveUpObject(key: string): Promise<void>;
}

/** What is larger is uploaded in parts of this size, or of the size that takes MAX_PARTS of them. */
const PART_BYTES = 16 * 1024 * 1024;
/** S3 takes 10,000. */
const MAX_PARTS = 10_000;
/** Parts of one blob that are sent at a time. */
const PARTS_AT_ONCE = 3;
/** A bucket seldom becomes another store's, and looking for its mark takes a request. */
const MARK_SEEN_WITHIN_MS = 60_000;
const REMOVALS_AT_ONCE = 8;
const HASHED_AT_ONCE_BYTES = 1024 * 1024;
/** When clients may try again if S3 cannot be reached, in seconds. */
const RETRY_AFTER_S = '5';

interface Parts extends OwnBucket {
  readonly ledger: ObjectLedger;
  /** Whether readers have a URL. Default: no. */
  readonly redirect?: boolean | undefined;
  /** Default: PART_BYTES. */
  readonly partBytes?: number;
}

/** Blobs in a bucket. While that cannot be reached, methods reject with UNAVAILABLE: nothing then counts as missing. */
export class S3BlobStore implements BlobStore {
  readonly isOnSpoolDisk = false;
  readonly #bucket: Bucket;
  readonly #mark: Pick<StoreMark, 'require'>;
  readonly #ledger: ObjectLedger;
  readonly #partBytes: number;
  readonly #redirect: boolean;
  readonly #reading = new Map<Digest, Reading>();
  readonly #sizing = new SingleFlight<number | undefined>();

  constructor({ bucket, mark, ledger, redirect = false, partBytes = PART_BYTES }: Parts) {
    this.#redirect = redirect;
    this.#bucket = bucket;
    this.#mark = mark;
    this.#ledger = ledger;
    this.#partBytes = partBytes;
  }

  async stat(digest: Digest): Promise<BlobStat | undefined> {
    const found = await this.#find(digest);
    return found && { size: found.size };
  }

  async open(digest: Digest): Promise<BlobReader | undefined> {
    const found = await this.#find(digest);
    return found && this.#reader(digest, found);
  }

  async put(digest: Digest, spooled: Ingest): Promise<StoredBlob> {
    const { lease, offset: size } = spooled;
    // Rejects if the ingest has ended; it was hashed before.
    if ((await spooled.hash(digest)) !== digest) throw new Error('not the bytes of the digest');
    await lease.confirm();
    const object = { digest, key: `${folderOf(digest)}${randomUUID()}` };
    try {
      await available(this.#upload(object, spooled, size));
      await lease.confirm();
    } catch (error) {
      // If this fails, too, the Lease ends all the same, and with it the announcement.
      await this.#ledger.giveUpObject(object.key).catch(() => {});
      throw error;
    }
    await spooled.abort();
    return { lease, isThere: () => true, key: object.key };
  }

  async removal(digest: Digest): Promise<BlobRemoval> {
    requireDigest(digest);
    const row = await this.#ledger.statBlob(digest);
    return { key: row?.key, isSame: () => true, takeAway: () => undefined };
  }

  async removeObjects(objects: readonly UnneededObject[]): Promise<void> {
    // Of a bucket that another store has taken over, that store may need them.
    if (objects.length > 0) await available(this.#mark.require());
    for (let at = 0; at < objects.length; at += REMOVALS_AT_ONCE) {
      const some = objects.slice(at, at + REMOVALS_AT_ONCE);
      await available(Promise.all(some.map(object => this.#remove(object))));
    }
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
    if (found === undefined) return undefined;
    if (found.size < found.expected) {
      throw Object.assign(new Error('the object is too short'), { code: SHORT_FILE });
    }
    const reader = this.#reader(digest, found);
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

  hasReaders(digest: Digest): boolean {
    return this.#reading.has(digest);
  }

  /** The object that the row names, or `key`, with its size; `undefined` if there is none. */
  async #find(
    digest: Digest,
    { key, looksAnew = false }: { readonly key?: string | undefined; readonly looksAnew?: boolean } = {},
  ): Promise<FoundObject | undefined> {
    requireDigest(digest);
    const row = key === undefined ? await this.#ledger.statBlob(digest) : { size: 0, key };
    if (row?.key === undefined) return undefined;
    const beingRead = looksAnew ? undefined : this.#sizeBeingRead(digest, row.key);
    const size = beingRead ?? (await available(this.#sizeOf(row.key)));
    return size === undefined ? undefined : { key: row.key, size, expected: row.size };
  }

  /** The size of an object that somebody has open, who would notice if it were missing. */
  #sizeBeingRead(digest: Digest, key: string): number | undefined {
    const reading = this.#reading.get(digest);
    return reading?.key === key ? reading.size : undefined;
  }

  /** Asks once for all who want to know at a time. */
  #sizeOf(key: string): Promise<number | undefined> {
    return this.#sizing.run(key, async () => {
      const size = await this.#bucket.size(key);
      if (size === undefined) await this.#mark.require();
      return size;
    }).promise;
  }

  #reader(digest: Digest, { key, size }: FoundObject): BlobReader {
    const reading = this.#reading.get(digest) ?? { readers: 0, key, size, bytes: {} };
    this.#reading.set(digest, reading);
    reading.readers += 1;
    return new ObjectReader({
      bucket: this.#bucket,
      key,
      size,
      shares: reading.key === key ? reading.bytes : {},
      url: this.#redirect ? () => available(this.#bucket.urlOf(key)) : undefined,
      failed: unavailable,
      left: () => {
        reading.readers -= 1;
        if (reading.readers === 0) this.#reading.delete(digest);
      },
    });
  }

  async #upload(object: AnnouncedObject, spooled: Ingest, size: number): Promise<void> {
    const { key } = object;
    await this.#mark.require(MARK_SEEN_WITHIN_MS);
    if (size <= this.#partBytes) {
      await this.#ledger.announceObject(object, spooled.lease);
      await this.#bucket.put(key, await payloadOfIngest(spooled, { start: 0, end: size }));
      return;
    }
    const uploadId = await this.#bucket.beginUpload(key);
    // Before the first part, so that nothing lies in the bucket of which the index does not know.
    await this.#ledger
      .announceObject({ ...object, uploadId }, spooled.lease)
      .catch(async (error: unknown) => {
        await this.#bucket.abortUpload(key, uploadId).catch(() => {});
        throw error;
      });
    const tags = await this.#putParts(key, uploadId, spooled, size);
    await spooled.lease.confirm();
    await this.#complete(key, uploadId, tags, size);
  }

  async #putParts(key: string, uploadId: string, spooled: Ingest, size: number): Promise<string[]> {
    const partBytes = Math.max(this.#partBytes, Math.ceil(size / MAX_PARTS));
    const tags: string[] = [];
    let next = 0;
    const putNext = async (): Promise<void> => {
      for (let at = next++; at * partBytes < size; at = next++) {
        const span = { start: at * partBytes, end: Math.min((at + 1) * partBytes, size) };
        await spooled.lease.confirm();
        tags[at] = await this.#bucket.putPart(key, uploadId, at + 1, await payloadOfIngest(spooled, span));
      }
    };
    const putting = Array.from({ length: PARTS_AT_ONCE }, putNext);
    try {
      await Promise.all(putting);
    } catch (error) {
      next = Number.POSITIVE_INFINITY;
      // The ingest may be closed after this.
      await Promise.allSettled(putting);
      throw error;
    }
    return tags;
  }

  /** Completes the upload. If the answer was lost, the object shows that it was completed. */
  async #complete(key: string, uploadId: string, tags: readonly string[], size: number): Promise<void> {
    const failure = await this.#bucket.completeUpload(key, uploadId, tags).then(
      () => undefined,
      (error: unknown) => error,
    );
    const stored = await this.#bucket.size(key);
    if (stored === size) return;
    throw failure ?? new S3Failure(`S3 has ${stored ?? 'no'} bytes of ${key}, whose ${size} it took`);
  }

  async #remove({ key, uploadId }: UnneededObject): Promise<void> {
    if (uploadId !== undefined) await this.#bucket.abortUpload(key, uploadId);
    await this.#bucket.delete(key);
  }
}

interface AnnouncedObject {
  readonly digest: Digest;
  readonly key: string;
}

interface FoundObject {
  readonly key: string;
  readonly size: number;
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
      const [, algorithm, hex, uuid, ...more] = key.split('/');
      const digest = `${algorithm}:${hex}`;
      if (isDigest(digest) && uuid !== undefined && more.length === 0)
        yield { digest, key, size, modifiedAtMs };
    }
  } catch (error) {
    throw error instanceof S3Failure ? unavailable(error) : error;
  }
}

function folderOf(digest: Digest): string {
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}/`;
}

function requireDigest(digest: Digest): void {
  if (!isDigest(digest)) throw new TypeError('not a digest');
}

async function available<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    throw error instanceof S3Failure ? unavailable(error) : error;
  }
}

function unavailable(cause: S3Failure): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'the storage of blobs cannot be reached',
    headers: { 'Retry-After': RETRY_AFTER_S },
    cause,
  });
}
