import { randomBytes } from 'node:crypto';
import { setImmediate as nextTick, setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FakeS3, type S3Fault, type S3Request } from '../../../test/support/fake-s3.ts';
import { LeaseLost } from '../../lib/lease.ts';
import { steadyLease } from '../../lib/lease.suite.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { BlobsUnusable } from '../blobs-unusable.ts';
import { blobStoreSuite, keep } from '../blob-store.suite.ts';
import { MemoryIngests, MemorySpool } from '../memory-spool.fixture.ts';
import { collect, losableLease } from '../spool.suite.ts';
import { unreadableReason } from '../unreadable.ts';
import { Bucket, BUCKET_LIMITS } from './bucket.ts';
import { MemoryLedger } from './memory-ledger.fixture.ts';
import { listBlobs, S3BlobStore } from './s3-blob-store.ts';
import { StoreMark } from './store-mark.ts';

/** So that a few hundred KB are a multipart upload. */
const PART_BYTES = 64 * 1024;
const LIMITS = {
  ...BUCKET_LIMITS,
  answerMs: 300,
  writtenMs: 300,
  idleBodyMs: 300,
  patienceMs: 2_000,
  backoffMs: 1,
};
const STORE = 'this-store';

const isGet = ({ method }: S3Request) => method === 'GET';
const isPut = ({ method }: S3Request) => method === 'PUT';
const isList = ({ query }: S3Request) => query.has('list-type');
const isAbort = ({ method, query }: S3Request) => method === 'DELETE' && query.has('uploadId');
const isSecondPart = ({ query }: S3Request) => query.get('partNumber') === '2';
const isCompletion = ({ method, query }: S3Request) => method === 'POST' && query.has('uploadId');

class Place {
  readonly fake: FakeS3;
  readonly ledger = new MemoryLedger();
  readonly #ingests = new MemoryIngests();

  private constructor(fake: FakeS3) {
    this.fake = fake;
  }

  static async make(): Promise<Place> {
    return new Place(await FakeS3.start());
  }

  async open(settings: Partial<ReturnType<FakeS3['settings']>> = {}) {
    const bucket = new Bucket({ ...this.fake.settings(), ...settings }, LIMITS);
    const mark = new StoreMark(bucket, STORE);
    await mark.claim({ takesOver: false });
    return {
      spool: new MemorySpool(this.#ingests),
      blobs: new S3BlobStore({ bucket, mark, ledger: this.ledger, partBytes: PART_BYTES }),
      rows: this.ledger,
      bucket,
      mark,
      close: () => bucket.close(),
    };
  }

  remove(): Promise<void> {
    return this.fake.close();
  }
}

blobStoreSuite(() => Place.make());

describe('blobs in a bucket', () => {
  let place: Place;
  let fake: FakeS3;
  let stores: Awaited<ReturnType<Place['open']>>;
  let blobs: S3BlobStore;

  beforeEach(async () => {
    place = await Place.make();
    ({ fake } = place);
    stores = await place.open();
    ({ blobs } = stores);
    fake.requests.length = 0;
  });

  afterEach(async () => {
    await stores.close();
    while (fake.openSockets > 0) await nextTick();
    await place.remove();
  });

  /** Those requests fail `times` times. */
  function failing(fault: S3Fault, times: number, matches: (request: S3Request) => boolean) {
    let left = times;
    fake.fault = request => (matches(request) && left-- > 0 ? fault : undefined);
  }

  const slowDown = { status: 503, code: 'SlowDown' };

  async function read(digest: Digest): Promise<Buffer> {
    const reader = await blobs.open(digest);
    if (reader === undefined) throw new Error('not stored');
    const bytes = Buffer.alloc(reader.size);
    try {
      for (let at = 0; at < bytes.length; ) at += await reader.read(bytes.subarray(at), at);
    } finally {
      await reader.close();
    }
    return bytes;
  }

  test('each put makes an object of its own, and no object is written twice', async () => {
    const bytes = randomBytes(1_000);
    await keep(stores, 'fill-1', bytes);
    const [first] = fake.blobKeys();
    await keep(stores, 'fill-2', bytes);
    const digest = digestOf(bytes);
    expect(first).toMatch(/^blobs\/sha256\/[\da-f]{64}\/[\da-f-]{36}$/);
    expect(fake.blobKeys()).toHaveLength(2);
    expect(place.ledger.rows.get(digest)?.key).not.toBe(first);
    expect(bytes.equals(await read(digest))).toBe(true);
  });

  test('a small blob is one request, a larger one an upload in parts', async () => {
    await keep(stores, 'fill-1', randomBytes(PART_BYTES));
    expect([fake.count('PUT'), fake.count('POST')]).toEqual([1, 0]);
    const bytes = randomBytes(3 * PART_BYTES + 1);
    await keep(stores, 'fill-2', bytes);
    expect([fake.count('PUT'), fake.count('POST')]).toEqual([1 + 4, 2]);
    expect(bytes.equals(await read(digestOf(bytes)))).toBe(true);
    expect(fake.uploads.size).toBe(0);
  });

  test('the index knows of an object, and of its upload, before there is a byte of it', async () => {
    const known: boolean[] = [];
    const announce = place.ledger.announceObject.bind(place.ledger);
    vi.spyOn(place.ledger, 'announceObject').mockImplementation(async object => {
      await sleep(50);
      await announce(object);
    });
    fake.fault = ({ method, key, query }) => {
      const object = key.replace('entrepot/', '');
      if (method === 'PUT' && place.ledger.announced.get(object) === (query.get('uploadId') ?? undefined)) {
        known.push(place.ledger.announced.has(object));
      }
      return undefined;
    };
    await keep(stores, 'fill-1', randomBytes(10));
    await keep(stores, 'fill-2', randomBytes(2 * PART_BYTES));
    expect(known).toEqual([true, true, true]);
  });

  test('S3 that is busy, or ends a connection, is asked again', async () => {
    const bytes = randomBytes(3 * PART_BYTES);
    for (const fault of [slowDown, { status: 500, code: 'InternalError' }, { lost: true } as const]) {
      failing(fault, 3, isPut);
      await keep(stores, 'fill-1', bytes);
    }
    failing(slowDown, 3, () => true);
    expect(bytes.equals(await read(digestOf(bytes)))).toBe(true);
  });

  test('a part whose connection breaks is sent again, however long that took', async () => {
    const bucket = new Bucket(fake.settings(), { ...LIMITS, patienceMs: 0 });
    const broken = new S3BlobStore({ ...stores, bucket, ledger: place.ledger, partBytes: PART_BYTES });
    failing({ lost: true }, 2, ({ query }) => query.get('partNumber') === '2');
    await keep({ ...stores, blobs: broken }, 'fill-1', randomBytes(PART_BYTES * 3));
    expect(fake.requests.filter(({ query }) => query.get('partNumber') === '2')).toHaveLength(3);
    failing({ lost: true }, 9, isPut);
    await expect(keep({ ...stores, blobs: broken }, 'fill-2', randomBytes(10))).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
    expect(new Set(fake.requests.slice(-3).map(({ key }) => key)).size).toBe(1);
    await bucket.close();
  });

  test('an upload whose completion got no answer, or an error in the body, is checked', async () => {
    const bytes = randomBytes(2 * PART_BYTES);
    for (const fault of [{ lost: true } as const, { errorInBody: 'InternalError' }]) {
      failing(fault, 1, isCompletion);
      await keep(stores, 'fill-1', bytes);
      expect(bytes.equals(await read(digestOf(bytes)))).toBe(true);
    }
    failing({ status: 400, code: 'InvalidPart' }, 1, isCompletion);
    await expect(keep(stores, 'fill-1', randomBytes(2 * PART_BYTES))).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  });

  test('a completion that is answered with 200 and a transient error is requested again', async () => {
    const bytes = randomBytes(2 * PART_BYTES);
    failing({ errorInBody: 'InternalError', isUndone: true }, 2, isCompletion);
    await keep(stores, 'fill-1', bytes);
    expect(fake.requests.filter(isCompletion)).toHaveLength(3);
    expect(bytes.equals(await read(digestOf(bytes)))).toBe(true);
    failing({ errorInBody: 'InvalidPart', isUndone: true }, 9, isCompletion);
    fake.requests.length = 0;
    const failed = keep(stores, 'fill-2', randomBytes(2 * PART_BYTES));
    await expect(failed).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(fake.requests.filter(isCompletion)).toHaveLength(1);
  });

  test('a write that gets no answer is sent again', async () => {
    failing({ silent: true }, 1, isPut);
    await keep(stores, 'fill-1', randomBytes(10));
    expect(fake.requests.filter(isPut)).toHaveLength(2);
  });

  test('an ingest that could not be put while S3 was away is put again', async () => {
    const bytes = randomBytes(2 * PART_BYTES);
    const digest = digestOf(bytes);
    const ingest = await stores.spool.ingest(steadyLease('upload-1'));
    await ingest.write([bytes]);
    failing({ status: 403, code: 'AccessDenied' }, 9, isCompletion);
    await expect(blobs.put(digest, ingest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    fake.fault = () => undefined;
    place.ledger.put(digest, bytes.length, await blobs.put(digest, ingest));
    await ingest.close();
    expect(bytes.equals(await read(digest))).toBe(true);
  });

  test('a put fails if something that stores nothing answers with 200', async () => {
    for (const fault of [
      { text: '<html>Sign in</html>' },
      { errorInBody: 'InternalError', isUndone: true } as const,
    ]) {
      fake.fault = request => (isPut(request) ? fault : undefined);
      await expect(keep(stores, 'fill-1', randomBytes(10))).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      expect([fake.blobKeys(), stores.rows.rows.size]).toEqual([[], 0]);
    }
  });

  test('a put that fails leaves nothing that the index does not know', async () => {
    failing({ status: 403, code: 'AccessDenied' }, 9, request => isSecondPart(request) || isAbort(request));
    const digest = digestOf(Buffer.alloc(3 * PART_BYTES, 'a'));
    await expect(keep(stores, 'fill-1', Buffer.alloc(3 * PART_BYTES, 'a'))).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      headers: { 'Retry-After': '5' },
    });
    expect(await blobs.stat(digest)).toBeUndefined();
    const left = [...place.ledger.givenUp].map(([key, uploadId]) => ({ key, uploadId }));
    expect(left).toHaveLength(1);
    await expect.poll(() => fake.requests.filter(isAbort)).toHaveLength(1);
    expect(fake.uploads.size).toBe(1);
    fake.fault = () => undefined;
    await blobs.removeObjects(left);
    expect(fake.uploads.size).toBe(0);
    // Again, after a crash.
    await blobs.removeObjects(left);
  });

  test('an object whose Lease is lost while it is sent gets no row', async () => {
    let isLost = false;
    const bytes = randomBytes(2 * PART_BYTES);
    const ingest = await stores.spool.ingest(losableLease('fill-1', () => isLost));
    await ingest.write([bytes]);
    fake.fault = ({ method }) => {
      isLost ||= method === 'PUT';
      return undefined;
    };
    await expect(blobs.put(digestOf(bytes), ingest)).rejects.toThrow(LeaseLost);
    expect(fake.blobKeys()).toEqual([]);
    expect(place.ledger.givenUp.size).toBe(1);
    await ingest.abort();
    await ingest.close();
  });

  test('bytes that change on their way are refused by S3', async () => {
    const ingest = await stores.spool.ingest(steadyLease('fill-1'));
    const bytes = randomBytes(1_000);
    await ingest.write([bytes]);
    const readIngest = ingest.read.bind(ingest);
    let reads = 0;
    ingest.read = async (buffer, position) => {
      const count = await readIngest(buffer, position);
      if (++reads > 1) buffer[0] = (buffer[0] ?? 0) + 1;
      return count;
    };
    await expect(blobs.put(digestOf(bytes), ingest)).rejects.toMatchObject({
      cause: { code: 'XAmzContentSHA256Mismatch' },
    });
    expect(fake.blobKeys()).toEqual([]);
    await ingest.abort();
    await ingest.close();
  });

  test('a body that breaks or stops is continued where it was', async () => {
    const bytes = randomBytes(2_000_000);
    const digest = await keep(stores, 'fill-1', bytes);
    for (const fault of [{ cutAt: 700_000 }, { stopAt: 300_001 }]) {
      fake.requests.length = 0;
      failing(fault, 1, isGet);
      expect(bytes.equals(await read(digest))).toBe(true);
      const ranges = fake.requests.filter(isGet).map(({ range }) => range);
      expect(ranges).toHaveLength(2);
      expect(ranges[0]).toBe('bytes=0-1999999');
      expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-1999999$/);
    }
  });

  test('a body that never continues fails after some attempts', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(100_000));
    fake.fault = request => (isGet(request) ? { cutAt: 0 } : undefined);
    await expect(read(digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(fake.count('GET')).toBe(5);
  });

  test('bytes of another range than requested are rejected', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(100_000));
    const reader = await blobs.open(digest);
    fake.fault = request => (isGet(request) ? { ignoresRange: true } : undefined);
    await expect(reader?.read(Buffer.alloc(10), 50_000)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await reader?.close();
  });

  test('a read from anywhere begins there, and a reader that leaves ends its request', async () => {
    const bytes = randomBytes(3_000_000);
    const digest = await keep(stores, 'fill-1', bytes);
    const reader = await blobs.open(digest);
    const buffer = Buffer.alloc(1_000);
    expect(await reader?.read(buffer, 2_000_000)).toBe(1_000);
    expect(buffer).toEqual(bytes.subarray(2_000_000, 2_001_000));
    expect(await reader?.read(buffer, 5)).toBe(1_000);
    expect(buffer).toEqual(bytes.subarray(5, 1_005));
    fake.fault = request => (isGet(request) ? { silent: true } : undefined);
    const pending = reader?.read(buffer, 1_000_000);
    await expect.poll(() => fake.count('GET')).toBe(3);
    await Promise.all([expect(pending).rejects.toThrow('closed'), reader?.close()]);
    expect(blobs.hasReaders(digest)).toBe(false);
  });

  test('a missing object is damage; a bucket that is missing, or silent, is not', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(1_000));
    fake.hasBucket = false;
    const unavailable = { code: 'UNAVAILABLE', headers: { 'Retry-After': '5' } };
    await expect(blobs.open(digest)).rejects.toMatchObject(unavailable);
    await expect(blobs.stat(digest)).rejects.toMatchObject(unavailable);
    await expect(blobs.rehash(digest, { bytesPerSecond: 0 })).rejects.toMatchObject(unavailable);
    fake.hasBucket = true;
    failing({ silent: true }, 99, () => true);
    await expect(blobs.open(digest)).rejects.toMatchObject(unavailable);
    fake.fault = () => undefined;
    for (const key of fake.blobKeys()) fake.objects.delete(`entrepot/${key}`);
    expect(await blobs.stat(digest)).toBeUndefined();
    expect(await blobs.open(digest)).toBeUndefined();
    expect(await blobs.rehash(digest, { bytesPerSecond: 0 })).toBeUndefined();
  });

  test('an emptied bucket does not count as the loss of single blobs', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(1_000));
    fake.objects.clear();
    await expect(blobs.open(digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(stores.mark.check()).rejects.toThrow(BlobsUnusable);
  });

  test('an object whose size S3 does not say is not missing', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(1_000));
    fake.fault = ({ key }) => (key.includes('blobs/') ? { noLength: true } : undefined);
    await expect(blobs.stat(digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('an answer of 200 that is not from S3 does not count as damage to an object', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(1_000));
    fake.fault = ({ method }) =>
      method === 'HEAD' ? { status: 200, code: '', headers: { 'Content-Length': '17' } } : undefined;
    await expect(blobs.stat(digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(blobs.rehash(digest, { bytesPerSecond: 0 })).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('a store whose bucket was taken over removes nothing from it', async () => {
    await keep(stores, 'fill-1', randomBytes(1_000));
    const objects = fake.blobKeys().map(key => ({ key, uploadId: undefined }));
    await new StoreMark(stores.bucket, 'another-store').claim({ takesOver: true });
    await expect(blobs.removeObjects(objects)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(fake.blobKeys()).toHaveLength(1);
  });

  test('wrong bytes are found by hashing, and a short object is damage', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(1_000));
    const [key = ''] = fake.blobKeys();
    failing({ wrongBytes: true }, 1, isGet);
    expect(await blobs.rehash(digest, { bytesPerSecond: 0 })).toBe(digestOf(Buffer.alloc(1_000, 'x')));
    fake.objects.set(`entrepot/${key}`, { bytes: Buffer.alloc(10), modifiedAtMs: 0 });
    const fault: unknown = await blobs.rehash(digest, { bytesPerSecond: 0 }).catch((error: unknown) => error);
    expect(unreadableReason(fault)).toContain('truncated');
  });

  test('an object that no row names yet is hashed by its key', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(1_000));
    const [found] = await collect(blobs.list());
    place.ledger.remove(digest);
    expect(await blobs.rehash(digest, { bytesPerSecond: 0 })).toBeUndefined();
    expect(await blobs.rehash(digest, { bytesPerSecond: 0, key: found?.key })).toBe(digest);
  });

  test('a list continues over its pages, and omits what is not a blob', async () => {
    fake.pageSize = 2;
    const digests = [];
    for (const name of ['a', 'b', 'c', 'd', 'e'])
      digests.push(await keep(stores, 'fill-1', Buffer.from(name)));
    for (const key of ['blobs/x', 'blobs/sha256/abc/def', 'blobsy', 'other']) {
      fake.objects.set(`entrepot/${key}`, { bytes: Buffer.alloc(0), modifiedAtMs: 0 });
    }
    const listed = await collect(listBlobs(stores));
    expect(listed.map(({ digest }) => digest)).toEqual(digests.sort());
  });

  test('a list that is cut off, invalid or endless is rejected', async () => {
    for (const text of ['a', 'b']) await keep(stores, text, Buffer.from(text));
    const { bucket } = stores;
    const whole = textOfList(fake.blobKeys().sort());
    for (const text of ['', '<html>Sign in</html>', whole.slice(0, whole.lastIndexOf('<Contents>') + 20)]) {
      fake.fault = request => (isList(request) ? { text } : undefined);
      await expect(collect(bucket.list('blobs/'))).rejects.toThrow('answers with an invalid list');
    }
    for (const endless of [fake.blobKeys().sort(), []]) {
      fake.requests.length = 0;
      fake.fault = request => (isList(request) ? { text: textOfList(endless, 'more') } : undefined);
      await expect(collect(bucket.list('blobs/'))).rejects.toThrow('answers with an endless list');
    }
    // Like a server that skips removed objects.
    fake.fault = request =>
      isList(request) && !request.query.has('continuation-token') ? { text: textOfList([], 'a') } : undefined;
    expect(await collect(bucket.list('blobs/'))).toHaveLength(2);
  });

  test('a clock that is off by hours is corrected by that of S3', async () => {
    fake.skewMs = 5 * 3_600_000;
    const bytes = randomBytes(10);
    await keep(stores, 'fill-1', bytes);
    expect(bytes.equals(await read(digestOf(bytes)))).toBe(true);
    fake.skewMs = -3_600_000;
    expect((await blobs.stat(digestOf(bytes)))?.size).toBe(10);
  });

  test('keys that S3 refuses are loaded once more, and then it is an error', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(10));
    fake.keys.secretAccessKey = 'another secret';
    await expect(read(digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(fake.count('HEAD')).toBeLessThanOrEqual(2);
  });

  test('the refusal of another region says what to correct', async () => {
    const digest = await keep(stores, 'fill-1', randomBytes(10));
    failing(
      { status: 301, code: 'PermanentRedirect', headers: { Location: 'http://x.invalid/' } },
      9,
      () => true,
    );
    await expect(blobs.open(digest)).rejects.toMatchObject({
      cause: { message: expect.stringContaining('storage.s3.region') },
    });
  });

  test('a bucket is marked as one store’s, and another one takes it over only when told to', async () => {
    await keep(stores, 'fill-1', randomBytes(10));
    const other = new StoreMark(stores.bucket, 'another-store');
    await expect(other.claim({ takesOver: false })).rejects.toThrow(
      'belongs to another store (stores/this-store)',
    );
    await other.claim({ takesOver: true });
    await expect(stores.mark.check()).rejects.toThrow('does not have the blobs of this store');
    fake.objects.delete('entrepot/stores/another-store');
    await expect(stores.mark.claim({ takesOver: false })).rejects.toThrow(
      'blobs of a store that is not known',
    );
  });

  test('of two stores that mark a bucket at the same time, at most one has it', async () => {
    fake.objects.clear();
    const one = new StoreMark(stores.bucket, 'one');
    const other = new StoreMark(stores.bucket, 'other');
    const claims = [one, other].map(mark => mark.claim({ takesOver: false }));
    const results = await Promise.allSettled(claims);
    const claimed = results.filter(({ status }) => status === 'fulfilled');
    expect(claimed.length).toBeLessThanOrEqual(1);
    expect(fake.objects.size).toBe(claimed.length);
  });

  test('the bucket may be in the host', async () => {
    const asked = { ...fake.settings(), endpoint: 'http://s3.invalid:1', pathStyle: false };
    const bucket = new Bucket(asked, { ...LIMITS, patienceMs: 1 });
    await expect(bucket.size('a')).rejects.toThrow('registry.s3.invalid:1');
    await bucket.close();
  });
});

function textOfList(keys: readonly string[], more?: string): string {
  const entries = keys.map(
    key =>
      `<Contents><Key>entrepot/${key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>`,
  );
  const next = more === undefined ? '' : `<NextContinuationToken>${more}</NextContinuationToken>`;
  return `<ListBucketResult><IsTruncated>${more !== undefined}</IsTruncated>${next}${entries.join('')}</ListBucketResult>`;
}
