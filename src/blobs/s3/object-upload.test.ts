import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FakeS3, type S3Request } from '../../../test/support/fake-s3.ts';
import { makeTempFolder, removeFolder } from '../../../test/support/temp-folder.ts';
import { steadyLease } from '../../lib/lease.suite.ts';
import { silentLog } from '../../lib/log.ts';
import { digestOf } from '../../oci/digest.ts';
import { type FileStores, openFileStores } from '../file-stores.ts';
import type { Ingest } from '../spool.ts';
import { Bucket, BUCKET_LIMITS } from './bucket.ts';
import { MemoryLedger } from './memory-ledger.fixture.ts';
import { S3BlobStore } from './s3-blob-store.ts';
import { StoreMark } from './store-mark.ts';

const PART_BYTES = 64 * 1024;
const isPart = ({ method, query }: S3Request) => method === 'PUT' && query.has('partNumber');
const LIMITS = { ...BUCKET_LIMITS, patienceMs: 100, backoffMs: 1 };

describe('an upload that follows an ingest', () => {
  let fake: FakeS3;
  let folder: string;
  let files: FileStores;
  let bucket: Bucket;
  let ledger: MemoryLedger;
  let blobs: S3BlobStore;

  beforeEach(async () => {
    fake = await FakeS3.start();
    folder = await makeTempFolder('upload');
    files = await openFileStores(folder, { log: silentLog });
    bucket = new Bucket(fake.settings(), LIMITS);
    ledger = new MemoryLedger();
    await new StoreMark(bucket, 'this-store').claim({ takesOver: false });
    openBlobs();
  });

  function openBlobs(maxCopiedBytes?: number): void {
    const mark = new StoreMark(bucket, 'this-store');
    blobs = new S3BlobStore({ bucket, mark, ledger, partBytes: PART_BYTES, maxCopiedBytes });
    files.spool.observer = blobs.observer;
  }

  afterEach(async () => {
    await blobs.close();
    await files.close();
    await bucket.close();
    await fake.close();
    await removeFolder(folder);
  });

  const bytes = randomBytes(5 * PART_BYTES + 1);
  const digest = digestOf(bytes);
  const parts = () => fake.requests.filter(isPart).map(({ query }) => Number(query.get('partNumber')));
  const sent = async (count: number) => {
    await expect
      .poll(() => [...fake.uploads.values()].flatMap(upload => [...upload.parts]).length)
      .toBe(count);
  };

  test('sends parts before the last byte is there, and makes the object only when told to', async () => {
    const ingest = await files.spool.ingest(steadyLease('fill-1'), { digest });
    await ingest.write([bytes.subarray(0, PART_BYTES)]);
    await ingest.write([bytes.subarray(PART_BYTES, 3 * PART_BYTES + 5)]);
    await sent(3);
    expect([...ledger.announced]).toHaveLength(1);
    expect(fake.blobKeys()).toEqual([]);
    await ingest.write([bytes.subarray(3 * PART_BYTES + 5)]);
    await sent(5);
    expect(fake.blobKeys()).toEqual([]);
    ledger.put(digest, bytes.length, await blobs.put(digest, ingest));
    await ingest.close();
    expect(parts().toSorted((one, other) => one - other)).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...fake.objects].find(([key]) => key.includes('/blobs/'))?.[1].bytes.equals(bytes)).toBe(true);
  });

  test('leaves no part of what turns out to be wrong, is suspended or removed', async () => {
    const endings = [
      (ingest: { truncate(size: number): Promise<void> }) => ingest.truncate(0),
      (ingest: { suspend(): Promise<void> }) => ingest.suspend(),
      (ingest: { abort(): Promise<void> }) => ingest.abort(),
    ];
    for (const [at, end] of endings.entries()) {
      const ingest = await files.spool.ingest(steadyLease(`fill-${at}`), { digest, anew: true });
      await ingest.write([bytes.subarray(0, 3 * PART_BYTES)]);
      await sent(2);
      await end(ingest);
      await expect.poll(() => fake.uploads.size).toBe(0);
      expect(ledger.announced.size).toBe(0);
      expect(ledger.givenUp.size).toBe(at + 1);
      await ingest.abort();
      await ingest.close();
    }
    expect(fake.blobKeys()).toEqual([]);
  });

  test('that has failed on the way is begun again at the end', async () => {
    fake.fault = request => (isPart(request) ? { status: 403, code: 'AccessDenied' } : undefined);
    const ingest = await files.spool.ingest(steadyLease('fill-1'), { digest });
    await ingest.write([bytes]);
    await expect.poll(parts).not.toEqual([]);
    fake.fault = () => undefined;
    ledger.put(digest, bytes.length, await blobs.put(digest, ingest));
    await ingest.close();
    expect([...fake.objects].find(([key]) => key.includes('/blobs/'))?.[1].bytes.equals(bytes)).toBe(true);
    await expect.poll(() => fake.uploads.size).toBe(0);
  });

  /** What is pushed, of which some was sent before its digest is known. */
  async function pushed(): Promise<Ingest> {
    const ingest = await files.spool.ingest(steadyLease('upload-1'));
    await ingest.write([bytes.subarray(0, 3 * PART_BYTES + 5)]);
    await sent(3);
    await ingest.write([bytes.subarray(3 * PART_BYTES + 5)]);
    return ingest;
  }

  const copies = () => fake.requests.filter(({ copied }) => copied !== undefined);

  /** The pushed bytes are a single object, under their digest, and nothing else is left. */
  async function expectPut(ingest: Ingest): Promise<void> {
    const stored = await blobs.put(digest, ingest);
    ledger.put(digest, bytes.length, stored);
    await ingest.close();
    expect(fake.blobKeys()).toEqual([stored.key]);
    expect(stored.key).toContain(digest.slice('sha256:'.length));
    expect(fake.objects.get(`entrepot/${stored.key}`)?.bytes.equals(bytes)).toBe(true);
    await expect.poll(() => [fake.uploads.size, ledger.announced.size]).toEqual([0, 0]);
  }

  test('sends parts of what has no digest yet, and has S3 copy it to its key', async () => {
    const ingest = await pushed();
    expect(fake.blobKeys()).toEqual([]);
    await expectPut(ingest);
    expect(parts().toSorted((one, other) => one - other)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(copies()).toHaveLength(1);
  });

  test('sends it again if S3 cannot copy, but not while S3 is away', async () => {
    const refuse = (status: number, code: string) => {
      fake.fault = ({ copied }) => (copied === undefined ? undefined : { status, code });
    };
    const ingest = await pushed();
    refuse(503, 'SlowDown');
    await expect(blobs.put(digest, ingest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect([parts().length, fake.blobKeys()]).toEqual([6, []]);
    await ingest.abort();
    await ingest.close();
    refuse(501, 'NotImplemented');
    fake.requests.length = 0;
    await expectPut(await pushed());
    expect(parts()).toHaveLength(12);
  });

  test.each([
    [bytes.length, 1],
    [bytes.length - 1, 0],
  ])('has S3 copy it, or sends it again, if S3 copies at most %i bytes', async (maxCopiedBytes, count) => {
    await blobs.close();
    openBlobs(maxCopiedBytes);
    await expectPut(await pushed());
    expect(copies()).toHaveLength(count);
  });

  test('sends what is small, or was pushed in pieces that are far apart, at its end', async () => {
    const small = await files.spool.ingest(steadyLease('upload-1'));
    await small.write([bytes.subarray(0, PART_BYTES)]);
    const smallDigest = digestOf(bytes.subarray(0, PART_BYTES));
    ledger.put(smallDigest, PART_BYTES, await blobs.put(smallDigest, small));
    await small.close();
    expect(fake.requests.map(({ method }) => method)).not.toContain('POST');
    fake.objects.clear();
    const first = await pushed();
    await first.suspend();
    await first.close();
    await expect.poll(() => fake.uploads.size).toBe(0);
    const left = { epoch: 1, mayWrite: false };
    await expectPut(await files.spool.ingest(steadyLease('upload-1', 2, left)));
    expect(copies()).toEqual([]);
  });

  test('does not follow what was continued', async () => {
    const first = await files.spool.ingest(steadyLease('fill-1'), { digest });
    await first.write([bytes.subarray(0, 10)]);
    await first.suspend();
    await first.close();
    const left = { epoch: 1, mayWrite: false };
    const continued = await files.spool.ingest(steadyLease('fill-1', 2, left), { digest });
    await continued.write([bytes.subarray(10)]);
    expect(fake.uploads.size).toBe(0);
    ledger.put(digest, bytes.length, await blobs.put(digest, continued));
    expect([...fake.objects].find(([key]) => key.includes('/blobs/'))?.[1].bytes.equals(bytes)).toBe(true);
    await continued.close();
  });
});
