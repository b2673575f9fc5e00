import { randomBytes } from 'node:crypto';
import { rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTick } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FakeS3, type S3Fault, type S3Request } from '../../../test/support/fake-s3.ts';
import { Latch } from '../../../test/support/latch.ts';
import { makeTempFolder, removeFolder } from '../../../test/support/temp-folder.ts';
import { type BlobReader, HOLD_BACK_BYTES } from '../../lib/blob-reader.ts';
import { steadyLease } from '../../lib/lease.suite.ts';
import { silentLog } from '../../lib/log.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { OciError } from '../../oci/errors.ts';
import { blobStoreSuite, keep } from '../blob-store.suite.ts';
import { openFileStores } from '../file-stores.ts';
import { LocalCopies } from '../local-copies.ts';
import { collect } from '../spool.suite.ts';
import { Bucket, BUCKET_LIMITS } from './bucket.ts';
import { MemoryLedger } from './memory-ledger.fixture.ts';
import { type ObjectLedger, S3BlobStore } from './s3-blob-store.ts';
import { StoreMark } from './store-mark.ts';

/** Longer than any pause of a busy machine, or of a test that holds an answer back. */
const LONG_MS = 60_000;
const KIB = 1024;
const isGet = ({ method, key }: S3Request) => method === 'GET' && key.includes('/blobs/');

/** A folder and a bucket, which several processes open. */
class Place {
  readonly fake: FakeS3;
  readonly folder: string;
  readonly ledger = new MemoryLedger();
  maxBytes = Number.POSITIVE_INFINITY;
  minFreeBytes = 0;
  patienceMs = LONG_MS;

  private constructor(fake: FakeS3, folder: string) {
    this.fake = fake;
    this.folder = folder;
  }

  static async make(): Promise<Place> {
    return new Place(await FakeS3.start(), await makeTempFolder('first-level'));
  }

  async open(ledger: ObjectLedger = this.ledger) {
    const limits = { ...BUCKET_LIMITS, answerMs: LONG_MS, idleBodyMs: LONG_MS, backoffMs: 1 };
    const bucket = new Bucket(this.fake.settings(), { ...limits, patienceMs: this.patienceMs });
    const mark = new StoreMark(bucket, 'this-store');
    await mark.claim({ takesOver: false });
    const files = await openFileStores(this.folder, { log: silentLog, minFree: () => this.minFreeBytes });
    const { spool } = files;
    const maxBytes = () => this.maxBytes;
    const copies = await LocalCopies.open({ path: this.folder, maxBytes, log: silentLog });
    const blobs = new S3BlobStore({ bucket, mark, ledger, local: { spool, copies }, partBytes: 64 * KIB });
    const close = async () => {
      await blobs.close();
      await files.close();
      await bucket.close();
    };
    return { spool, blobs, rows: this.ledger, close };
  }

  async remove(): Promise<void> {
    await this.fake.close();
    await removeFolder(this.folder);
  }
}

blobStoreSuite(() => Place.make());

describe('the first level', () => {
  let place: Place;
  let fake: FakeS3;
  let stores: Awaited<ReturnType<Place['open']>>;
  let blobs: S3BlobStore;

  beforeEach(async () => {
    place = await Place.make();
    ({ fake } = place);
    stores = await place.open();
    ({ blobs } = stores);
  });

  afterEach(async () => {
    await stores.close();
    while (fake.openSockets > 0) await nextTick();
    await place.remove();
  });

  const read = async (digest: Digest, from = blobs) => readAll(await from.open(digest));
  const gets = () => fake.requests.filter(isGet);

  const pathOf = (digest: Digest) =>
    join(place.folder, 'copies', 'sha256', digest.slice(7, 9), digest.slice(7));

  /** A blob in the bucket alone. */
  async function remote(bytes: Buffer): Promise<Digest> {
    const digest = await keep(stores, 'upload-1', bytes);
    await blobs.freeLocal(Number.POSITIVE_INFINITY);
    fake.requests.length = 0;
    return digest;
  }

  /** The body of a GET stops after some bytes, for as long as this is not called. */
  function holdingAt(bytes: number): () => void {
    const latch = new Latch();
    fake.fault = request => (isGet(request) ? { heldAt: bytes, until: latch.opened } : undefined);
    return () => latch.open();
  }

  test('has what was stored, and reads it without a request', async () => {
    const bytes = randomBytes(300 * KIB);
    const digest = await keep(stores, 'upload-1', bytes);
    fake.requests.length = 0;
    expect(bytes.equals(await read(digest))).toBe(true);
    expect(fake.requests).toEqual([]);
    expect(await blobs.localUsage()).toMatchObject({ copies: 1, bytes: 300 * KIB });
  });

  test('gets what it lacks by one request without a question before it, and keeps that', async () => {
    const bytes = randomBytes(3_000 * KIB);
    const digest = await remote(bytes);
    expect(bytes.equals(await read(digest))).toBe(true);
    expect(fake.requests.map(({ method, range }) => [method, range])).toEqual([['GET', 'bytes=0-3071999']]);
    await expect.poll(() => blobs.localUsage()).toMatchObject({ copies: 1 });
    expect(bytes.equals(await read(digest))).toBe(true);
    expect(gets()).toHaveLength(1);
    expect(await collect(stores.spool.list())).toEqual([]);
  });

  test('brings a blob once to all readers of all processes, live', async () => {
    const other = await place.open(place.ledger.ofAnotherProcess());
    const bytes = randomBytes(2_000 * KIB);
    const digest = await remote(bytes);
    const release = holdingAt(1_000 * KIB);
    const openers = [blobs, blobs, other.blobs, other.blobs];
    const readers = await Promise.all(openers.map(store => store.open(digest)));
    const first = await Promise.all(readers.map(async reader => reader?.read(Buffer.alloc(KIB), 0)));
    expect(first).toEqual([KIB, KIB, KIB, KIB]);
    release();
    for (const got of await Promise.all(readers.map(readAll))) expect(bytes.equals(got)).toBe(true);
    expect(gets()).toHaveLength(1);
    await other.close();
  });

  test('names the object as the origin of what it brings, also to those who read ranges of it', async () => {
    const digest = await remote(randomBytes(2_000 * KIB));
    const release = holdingAt(1_000 * KIB);
    const readers = [await blobs.open(digest), await blobs.open(digest, [{ start: 0, end: KIB }])];
    const { key } = place.ledger.rows.get(digest)!;
    expect(readers.map(reader => reader?.origin)).toEqual([key, key]);
    release();
    for (const reader of readers) await reader?.close();
  });

  test('goes on with a blob whose reader has left', async () => {
    const digest = await remote(randomBytes(2_000 * KIB));
    const release = holdingAt(1_000 * KIB);
    const reader = await blobs.open(digest);
    await reader?.read(Buffer.alloc(KIB), 0);
    await reader?.close();
    expect(blobs.hasReaders(digest)).toBe(false);
    release();
    await expect.poll(() => blobs.localUsage()).toMatchObject({ copies: 1 });
  });

  test('is passed by when ranges are read, which wait for nothing', async () => {
    const bytes = randomBytes(3_000 * KIB);
    const digest = await remote(bytes);
    const wanted = [
      { start: 10, end: 20 },
      { start: 2_500 * KIB, end: 2_600 * KIB },
    ];
    const readRanges = async () => {
      const reader = await blobs.open(digest, wanted);
      for (const { start, end } of wanted) {
        const part = Buffer.alloc(end - start);
        for (let at = start; at < end; ) at += (await reader?.read(part.subarray(at - start), at)) ?? 0;
        expect(part.equals(bytes.subarray(start, end))).toBe(true);
      }
      await reader?.close();
    };
    await readRanges();
    expect(gets().map(({ range }) => range)).toEqual([
      'bytes=10-19',
      `bytes=${2_500 * KIB}-${2_600 * KIB - 1}`,
    ]);
    // The same while the whole is fetched: what is there comes from there.
    const release = holdingAt(1_000 * KIB);
    const whole = await blobs.open(digest);
    await whole?.read(Buffer.alloc(KIB), 0);
    fake.fault = () => undefined;
    await readRanges();
    expect(gets()).toHaveLength(4);
    release();
    await readAll(whole);
  });

  test('gets the whole once as much of it was read in ranges as it has', async () => {
    const bytes = randomBytes(2_000 * KIB);
    const digest = await remote(bytes);
    const readRange = async (start: number, end: number) => {
      const reader = await blobs.open(digest, [{ start, end }]);
      const part = Buffer.alloc(end - start);
      for (let at = start; at < end; ) at += (await reader?.read(part.subarray(at - start), at)) ?? 0;
      await reader?.close();
      expect(part.equals(bytes.subarray(start, end))).toBe(true);
    };
    await readRange(0, 500 * KIB);
    await readRange(100 * KIB, 1_500 * KIB);
    expect(await blobs.localUsage()).toMatchObject({ copies: 0 });
    await readRange(0, 100 * KIB);
    await expect.poll(() => blobs.localUsage()).toMatchObject({ copies: 1 });
    await readRange(0, 2_000 * KIB);
    expect(gets().map(({ range }) => range)).toEqual([
      'bytes=0-511999',
      'bytes=102400-1535999',
      'bytes=0-2047999',
    ]);
  });

  test.each([
    { size: 1_000 * KIB, sent: 0 },
    { size: 2_000 * KIB, sent: 2_000 * KIB - HOLD_BACK_BYTES },
  ])('keeps no wrong bytes of $size, and sends $sent of them', async ({ size, sent }) => {
    const bytes = randomBytes(size);
    const digest = await remote(bytes);
    fake.fault = request => (isGet(request) ? { wrongBytes: true } : undefined);
    const [one, other] = [await blobs.open(digest), await blobs.open(digest)];
    expect(await readUntilFailure(one)).toEqual({ sent, code: 'UNAVAILABLE' });
    expect(await readUntilFailure(other)).toEqual({ sent, code: 'UNAVAILABLE' });
    expect(gets()).toHaveLength(1);
    await expect.poll(() => collect(stores.spool.list())).toEqual([]);
    expect(await blobs.localUsage()).toMatchObject({ copies: 0 });
    fake.fault = () => undefined;
    expect(bytes.equals(await read(digest))).toBe(true);
  });

  test('lends what has just come, and its end only when all is verified', async () => {
    const bytes = randomBytes(2_000 * KIB);
    const digest = await remote(bytes);
    const end = bytes.length - HOLD_BACK_BYTES;
    const release = holdingAt(bytes.length - 1);
    const reader = await blobs.open(digest);
    if (reader?.lend === undefined) throw new Error('lends nothing');
    let lentBytes = 0;
    for (let at = 0; at < end; ) {
      const lent = await reader.lend(at);
      const some = lent?.bytes ?? Buffer.alloc(50 * KIB);
      const count = lent === undefined ? await reader.read(some, at) : some.byteLength;
      expect(bytes.subarray(at, at + count).equals(some.subarray(0, count))).toBe(true);
      lent?.giveBack();
      at += count;
      expect(at).toBeLessThanOrEqual(end);
      if (lent !== undefined) lentBytes += count;
    }
    expect(lentBytes).toBeGreaterThan(0);
    release();
    const last = Buffer.alloc(HOLD_BACK_BYTES);
    for (let at = 0; at < last.length; ) at += await reader.read(last.subarray(at), end + at);
    expect(bytes.subarray(end).equals(last)).toBe(true);
    await reader.close();
    await expect(reader.lend(0)).rejects.toThrow('closed');
  });

  test('sends the end of wrong bytes to no reader of another process either', async () => {
    const other = await place.open(place.ledger.ofAnotherProcess());
    const digest = await remote(randomBytes(2_000 * KIB));
    const latch = new Latch();
    fake.fault = request =>
      isGet(request) ? { wrongBytes: true, heldAt: 1_000 * KIB, until: latch.opened } : undefined;
    const ours = await blobs.open(digest);
    expect(await ours?.read(Buffer.alloc(KIB), 0)).toBe(KIB);
    const theirs = await other.blobs.open(digest);
    expect(await theirs?.read(Buffer.alloc(KIB), 0)).toBe(KIB);
    // Whoever fetches it next gets the right ones.
    fake.fault = () => undefined;
    latch.open();
    expect(await readUntilFailure(ours)).toMatchObject({ code: 'UNAVAILABLE' });
    expect(await readUntilFailure(theirs)).toMatchObject({ code: 'UNAVAILABLE' });
    await other.close();
  });

  test('continues a body that breaks', async () => {
    const bytes = randomBytes(2_000 * KIB);
    const digest = await remote(bytes);
    let left = 2;
    fake.fault = request => (isGet(request) && left-- > 0 ? { cutAt: 500 * KIB } : undefined);
    expect(bytes.equals(await read(digest))).toBe(true);
    expect(gets()).toHaveLength(3);
  });

  test('fails as S3 does: an outage is no miss, a missing object is one, a missing bucket is none', async () => {
    const digest = await remote(randomBytes(100 * KIB));
    place.patienceMs = 0;
    const impatient = await place.open();
    const fault: S3Fault = { status: 503, code: 'SlowDown' };
    fake.fault = () => fault;
    await expect(impatient.blobs.open(digest)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      headers: { 'Retry-After': '5' },
    });
    await impatient.close();
    fake.fault = () => undefined;
    fake.hasBucket = false;
    await expect(blobs.open(digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    fake.hasBucket = true;
    for (const key of fake.blobKeys()) fake.objects.delete(`entrepot/${key}`);
    expect(await blobs.open(digest)).toBeUndefined();
    await expect.poll(() => collect(stores.spool.list())).toEqual([]);
  });

  test('serves what it has while S3 is away', async () => {
    const bytes = randomBytes(100 * KIB);
    const digest = await keep(stores, 'upload-1', bytes);
    fake.hasBucket = false;
    expect(bytes.equals(await read(digest))).toBe(true);
  });

  test('lets a blob through that does not fit, or for which the disk has no room', async () => {
    const bytes = randomBytes(200 * KIB);
    const digest = await remote(bytes);
    place.maxBytes = 100 * KIB;
    expect(bytes.equals(await read(digest))).toBe(true);
    place.maxBytes = Number.POSITIVE_INFINITY;
    place.minFreeBytes = Number.MAX_SAFE_INTEGER;
    const full = await place.open();
    expect(bytes.equals(await read(digest, full.blobs))).toBe(true);
    expect(await full.blobs.localUsage()).toMatchObject({ copies: 0 });
    fake.fault = request => (isGet(request) ? { wrongBytes: true } : undefined);
    const reader = await full.blobs.open(digest);
    const sent = bytes.length - HOLD_BACK_BYTES;
    expect(await readUntilFailure(reader)).toEqual({ sent, code: 'UNAVAILABLE' });
    await full.close();
  });

  test('stores a blob in the bucket even if the disk neither takes a copy nor lets the ingest go', async () => {
    const bytes = randomBytes(100 * KIB);
    const digest = digestOf(bytes);
    const ingest = await stores.spool.ingest(steadyLease('upload-1'), { digest });
    await ingest.write([bytes]);
    place.maxBytes = 0;
    vi.spyOn(ingest, 'abort').mockRejectedValue(new Error('EROFS: read-only file system'));
    const { key } = await blobs.put(digest, ingest);
    expect([...fake.objects.keys()]).toContainEqual(expect.stringContaining(key!));
    await ingest.close();
  });

  test('lets readers go on when the disk becomes full on the way', async () => {
    const bytes = randomBytes(3_000 * KIB);
    const digest = await remote(bytes);
    const release = holdingAt(1_000 * KIB);
    const reader = await blobs.open(digest);
    await reader?.read(Buffer.alloc(KIB), 0);
    stores.spool.space.admit = () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' }));
    fake.fault = () => undefined;
    release();
    expect(bytes.equals(await readAll(reader))).toBe(true);
    expect(gets().length).toBe(2);
    expect(await collect(stores.spool.list())).toEqual([]);
  });

  test('sends no end either if bytes are wrong that came before the disk was full, or after', async () => {
    const bytes = randomBytes(3_000 * KIB);
    const digest = await remote(bytes);
    const { space } = stores.spool;
    const admit = space.admit.bind(space);
    for (const isWrongBefore of [true, false]) {
      const latch = new Latch();
      const held = { heldAt: 1_000 * KIB, until: latch.opened };
      fake.fault = request =>
        isGet(request) ? { ...held, ...(isWrongBefore && { wrongBytes: true }) } : undefined;
      const reader = await blobs.open(digest);
      await reader?.read(Buffer.alloc(KIB), 0);
      space.admit = () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' }));
      fake.fault = request => (isGet(request) && !isWrongBefore ? { wrongBytes: true } : undefined);
      latch.open();
      const sent = bytes.length - HOLD_BACK_BYTES;
      expect(await readUntilFailure(reader)).toEqual({ sent, code: 'UNAVAILABLE' });
      space.admit = admit;
    }
  });

  /** A reader that had its first bytes, `begun`, from another process, which has died then. */
  async function leftBy(begun: Buffer, digest: Digest): Promise<BlobReader | undefined> {
    const leader = place.ledger.ofAnotherProcess();
    const lease = await leader.acquireLease(`copy-${digest.replace(':', '-')}`);
    if (lease === undefined) throw new Error('free');
    const ingest = await stores.spool.ingest(lease, { digest });
    await ingest.write([begun]);
    const reader = await blobs.open(digest);
    expect(await reader?.read(Buffer.alloc(KIB), 0)).toBe(KIB);
    await leader.release(lease);
    await ingest.suspend();
    await ingest.close();
    return reader;
  }

  test('lets readers go on when the process dies that fetched for them', async () => {
    const bytes = randomBytes(2_000 * KIB);
    const digest = await remote(bytes);
    const reader = await leftBy(bytes.subarray(0, 1_000 * KIB), digest);
    expect(bytes.equals(await readAll(reader))).toBe(true);
  });

  test('ends readers that had wrong bytes from a process that died', async () => {
    const bytes = randomBytes(2_000 * KIB);
    const digest = await remote(bytes);
    const reader = await leftBy(Buffer.alloc(1_000 * KIB), digest);
    expect(await readUntilFailure(reader)).toMatchObject({ code: 'UNAVAILABLE' });
    expect(bytes.equals(await read(digest))).toBe(true);
  });

  test('removes the least recently used beyond its limit, not what is read', async () => {
    place.maxBytes = 500 * KIB;
    const first = await keep(stores, 'upload-1', randomBytes(200 * KIB));
    const second = await keep(stores, 'upload-2', randomBytes(200 * KIB));
    const longAgo = new Date(0);
    for (const digest of [first, second]) await utimes(pathOf(digest), longAgo, longAgo);
    await read(first);
    await expect.poll(async () => (await stat(pathOf(first))).mtimeMs).toBeGreaterThan(0);
    await keep(stores, 'upload-3', randomBytes(200 * KIB));
    await expect.poll(() => blobs.localUsage()).toMatchObject({ copies: 2, bytes: 400 * KIB });
    fake.requests.length = 0;
    await read(first);
    expect(gets()).toEqual([]);
    await read(second);
    expect(gets()).toHaveLength(1);
  });

  test('frees as much as is asked for, and nothing of the bucket', async () => {
    const bytes = randomBytes(200 * KIB);
    const digest = await keep(stores, 'upload-1', bytes);
    await keep(stores, 'upload-2', randomBytes(200 * KIB));
    expect(await blobs.freeLocal(1)).toBe(200 * KIB);
    expect(await blobs.freeLocal(Number.POSITIVE_INFINITY)).toBe(200 * KIB);
    expect(await blobs.freeLocal(1)).toBe(0);
    expect(bytes.equals(await read(digest))).toBe(true);
  });

  test('loses the copy of a blob with its last object, and not before', async () => {
    const bytes = randomBytes(200 * KIB);
    const digest = await keep(stores, 'upload-1', bytes);
    const [first] = fake.blobKeys();
    await keep(stores, 'upload-2', bytes);
    await blobs.removeObjects([{ key: first!, uploadId: undefined }]);
    expect((await stat(pathOf(digest))).size).toBe(bytes.length);
    place.ledger.remove(digest);
    const [second] = fake.blobKeys();
    await blobs.removeObjects([{ key: second!, uploadId: undefined }]);
    expect(fake.blobKeys()).toEqual([]);
    await expect(stat(pathOf(digest))).rejects.toThrow('ENOENT');
  });

  test('is not believed if a file has another size, and is checked by a scrub', async () => {
    const bytes = randomBytes(200 * KIB);
    const digest = await keep(stores, 'upload-1', bytes);
    const damage = async (content: Buffer) => {
      await rm(pathOf(digest));
      await writeFile(pathOf(digest), content);
    };
    await damage(Buffer.from('short'));
    expect(bytes.equals(await read(digest))).toBe(true);
    await damage(Buffer.alloc(bytes.length));
    expect(await blobs.rehash(digest, { bytesPerSecond: 0 })).toBe(digest);
    expect(bytes.equals(await read(digest))).toBe(true);
  });

  test('ends what it fetches when it is closed', async () => {
    const digest = await remote(randomBytes(2_000 * KIB));
    holdingAt(1_000 * KIB);
    const reader = await blobs.open(digest);
    const reading = readAll(reader);
    await Promise.all([expect(reading).rejects.toThrow('stopping'), blobs.close()]);
    expect(await collect(stores.spool.list())).toEqual([]);
  });

  test('ends readers of what another process fetches when it is closed, and says why', async () => {
    const other = await place.open(place.ledger.ofAnotherProcess());
    const digest = await remote(randomBytes(2_000 * KIB));
    const release = holdingAt(1_000 * KIB);
    const first = await blobs.open(digest);
    const reading = readAll(await other.blobs.open(digest));
    await Promise.all([expect(reading).rejects.toThrow('stopping'), other.close()]);
    release();
    expect(await readAll(first)).toHaveLength(2_000 * KIB);
  });
});

/** How many bytes a reader got before its failure, and the code of that. */
async function readUntilFailure(reader: BlobReader | undefined): Promise<{ sent: number; code: string }> {
  if (reader === undefined) throw new Error('not stored');
  const buffer = Buffer.alloc(50 * KIB);
  let sent = 0;
  try {
    while (sent < reader.size) sent += await reader.read(buffer, sent);
  } catch (error) {
    return { sent, code: error instanceof OciError ? error.code : String(error) };
  } finally {
    await reader.close();
  }
  return { sent, code: 'none' };
}

async function readAll(reader: BlobReader | undefined): Promise<Buffer> {
  if (reader === undefined) throw new Error('not stored');
  const bytes = Buffer.alloc(reader.size);
  try {
    for (let at = 0; at < bytes.length; ) at += await reader.read(bytes.subarray(at, at + 50 * KIB), at);
  } finally {
    await reader.close();
  }
  return bytes;
}
