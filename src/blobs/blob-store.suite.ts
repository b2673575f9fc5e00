import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { BlobReader } from '../lib/blob-reader.ts';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import type { BlobStore, Ingest } from './blob-store.ts';

/** A place where blobs are stored. Each call of `open` is another process's view of it. */
export interface BlobPlace {
  open(): Promise<BlobStore>;
  remove(): Promise<void>;
}

const ABSENT = digestOf(Buffer.from('nowhere'));

/** The contract of BlobStore, as tests for any implementation. */
export function blobStoreSuite(makePlace: () => Promise<BlobPlace>): void {
  describe('a BlobStore', () => {
    let place: BlobPlace;
    let store: BlobStore;

    beforeEach(async () => {
      place = await makePlace();
      store = await place.open();
    });

    afterEach(async () => {
      await store.close();
      await place.remove();
    });

    test('what is not here is undefined, and removing it is fine', async () => {
      expect(await store.stat(ABSENT)).toBeUndefined();
      expect(await store.open(ABSENT)).toBeUndefined();
      expect(await store.follow('fill-1', 1)).toBeUndefined();
      await store.takeAway(ABSENT)?.();
      await store.abandon({ name: 'fill-1.1' });
    });

    test('a blob is visible from its commit on, and not before', async () => {
      const bytes = randomBytes(100_000);
      const digest = digestOf(bytes);
      const ingest = await store.ingest(steadyLease('fill-1'), { digest });
      await ingest.write([bytes.subarray(0, 10), bytes.subarray(10)]);
      expect(await ingest.hash(digest)).toBe(digest);
      expect(await store.stat(digest)).toBeUndefined();
      await ingest.commit(digest);
      await ingest.close();
      expect(await store.stat(digest)).toEqual({ size: 100_000 });
      expect(await hashBlob(store, digest)).toBe(digest);
      expect(await collect(store.ingests())).toEqual([]);
    });

    test('an empty blob is a blob', async () => {
      const digest = await keep(store, 'fill-1', Buffer.alloc(0));
      expect(await store.stat(digest)).toEqual({ size: 0 });
      expect(await hashBlob(store, digest)).toBe(digest);
    });

    test('one write takes thousands of chunks, empty ones among them', async () => {
      const bytes = randomBytes(30_000);
      const chunks = Array.from({ length: 3_000 }, (_, index) => bytes.subarray(index * 10, index * 10 + 10));
      const ingest = await store.ingest(steadyLease('fill-1'));
      await ingest.write([new Uint8Array(0), ...chunks, new Uint8Array(0)]);
      await ingest.write([]);
      expect(ingest.offset).toBe(30_000);
      expect(await ingest.hash(ABSENT)).toBe(digestOf(bytes));
      await ingest.abort();
      await ingest.close();
    });

    test('an ingest is read while it grows, up to its offset, and after its commit', async () => {
      const bytes = randomBytes(50_000);
      const digest = digestOf(bytes);
      const ingest = await store.ingest(steadyLease('fill-1'), { digest });
      const buffer = Buffer.alloc(60_000);
      expect(await ingest.read(buffer, 0)).toBe(0);
      await ingest.write([bytes.subarray(0, 30_000)]);
      expect(await ingest.read(buffer, 29_990)).toBe(10);
      expect(buffer.subarray(0, 10)).toEqual(bytes.subarray(29_990, 30_000));
      await ingest.write([bytes.subarray(30_000)]);
      await ingest.commit(digest);
      await store.takeAway(digest)?.();
      expect(await ingest.read(buffer, 0)).toBe(50_000);
      expect(digestOf(buffer.subarray(0, 50_000))).toBe(digest);
      await ingest.close();
    });

    test('both algorithms are hashed, one that was not begun from the start, and writing may go on', async () => {
      const bytes = randomBytes(2_000_000);
      const ingest = await store.ingest(steadyLease('upload-1'));
      await ingest.write([bytes.subarray(0, 1_500_000)]);
      const half = bytes.subarray(0, 1_500_000);
      expect(await ingest.hash(digestOf(half, 'sha512'))).toBe(digestOf(half, 'sha512'));
      expect(await ingest.hash(digestOf(half))).toBe(digestOf(half));
      await ingest.write([bytes.subarray(1_500_000)]);
      expect(await ingest.hash(digestOf(half))).toBe(digestOf(bytes));
      expect(await ingest.hash(digestOf(half, 'sha512'))).toBe(digestOf(bytes, 'sha512'));
      await ingest.abort();
      await ingest.close();
    });

    test('truncating forgets the end, for reading and for hashing', async () => {
      const bytes = randomBytes(1_000_000);
      const ingest = await store.ingest(steadyLease('fill-1'));
      await ingest.write([bytes]);
      await ingest.hash(ABSENT);
      await ingest.truncate(400_000);
      expect(ingest.offset).toBe(400_000);
      expect(await ingest.read(Buffer.alloc(10), 400_000)).toBe(0);
      await ingest.write([Buffer.from('another end')]);
      const expected = digestOf(Buffer.concat([bytes.subarray(0, 400_000), Buffer.from('another end')]));
      expect(await ingest.hash(ABSENT)).toBe(expected);
      await expect(ingest.truncate(500_000)).rejects.toThrow(RangeError);
      await ingest.truncate(0);
      expect(await ingest.hash(ABSENT)).toBe(digestOf(Buffer.alloc(0)));
      await ingest.abort();
      await ingest.close();
    });

    test('a suspended ingest goes on where it ended, in this process or the next', async () => {
      const bytes = randomBytes(700_000);
      const digest = digestOf(bytes);
      const first = await store.ingest(steadyLease('fill-1'), { digest });
      await first.write([bytes.subarray(0, 300_000)]);
      await first.suspend();
      await first.close();
      const nextProcess = await place.open();
      const second = await nextProcess.ingest(steadyLease('fill-1', 2, { epoch: 1, mayWrite: false }), {
        digest,
      });
      expect(second.offset).toBe(300_000);
      await second.write([bytes.subarray(300_000)]);
      expect(await second.hash(digest)).toBe(digest);
      await second.commit(digest);
      await second.close();
      await nextProcess.close();
      expect(await hashBlob(store, digest)).toBe(digest);
    });

    describe('an ingest whose holder was taken for dead', () => {
      const bytes = randomBytes(700_000);
      const digest = digestOf(bytes);
      const left = { epoch: 1, mayWrite: true };
      let paused: Ingest;
      let successor: Ingest;

      beforeEach(async () => {
        paused = await store.ingest(steadyLease('fill-1', 1), { digest });
        await paused.write([bytes.subarray(0, 300_000)]);
        successor = await store.ingest(steadyLease('fill-1', 2, left), { digest });
      });

      afterEach(async () => {
        await paused.close();
        await successor.close();
      });

      test('goes on as a copy, which he cannot write into when he wakes', async () => {
        expect(successor.offset).toBe(300_000);
        await paused.write([Buffer.from('other bytes')]);
        await successor.write([bytes.subarray(300_000)]);
        await paused.truncate(0);
        expect(await successor.hash(digest)).toBe(digest);
        await successor.commit(digest);
        await paused.write([Buffer.from('and others')]);
        await paused.abort();
        expect(await hashBlob(store, digest)).toBe(digest);
        expect(await collect(store.ingests())).toEqual([]);
      });

      test('is the successor’s alone for whoever follows it', async () => {
        expect(await store.follow('fill-1', 1)).toBeUndefined();
        const follower = await store.follow('fill-1', 2);
        expect(await follower?.length()).toBe(300_000);
        await follower?.close();
        expect(await store.ingestLength('fill-1', 2)).toBe(300_000);
        // The next holder is still copying.
        expect(await store.ingestLength('fill-1', 3)).toBe(300_000);
      });

      test('does not go on when it is begun anew', async () => {
        const anew = await store.ingest(steadyLease('fill-1', 3, { epoch: 2, mayWrite: true }), {
          digest,
          anew: true,
        });
        expect(anew.offset).toBe(0);
        await anew.abort();
        await anew.close();
      });
    });

    test('what a writer wrote that has lost its Lease does not count', async () => {
      let isLost = false;
      const lease: Lease = {
        ...steadyLease('fill-1'),
        confirm: () => {
          if (isLost) throw new LeaseLost('fill-1');
          return undefined;
        },
      };
      const ingest = await store.ingest(lease);
      const writing = ingest.write([Buffer.from('bytes')]);
      await writing;
      isLost = true;
      await expect(ingest.write([Buffer.from('more')])).rejects.toThrow(LeaseLost);
      await expect(ingest.truncate(0)).rejects.toThrow(LeaseLost);
      await expect(ingest.commit(ABSENT)).rejects.toThrow(LeaseLost);
      expect(ingest.offset).toBe(5);
      await ingest.abort();
      await ingest.close();
    });

    test('an aborted or abandoned ingest leaves nothing', async () => {
      const aborted = await store.ingest(steadyLease('fill-1'));
      await aborted.write([Buffer.from('bytes')]);
      await aborted.abort();
      await aborted.close();
      const suspended = await store.ingest(steadyLease('fill-2'));
      await suspended.write([Buffer.from('bytes')]);
      await suspended.suspend();
      await suspended.close();
      await store.abandon({ name: 'fill-2.1' });
      expect(await collect(store.ingests())).toEqual([]);
      const again = await store.ingest(steadyLease('fill-1'));
      expect(again.offset).toBe(0);
      await again.abort();
      await again.close();
    });

    test('an ingest that has ended takes no more, and closing it twice is fine', async () => {
      const ingest = await store.ingest(steadyLease('fill-1'));
      await ingest.suspend();
      await expect(ingest.write([Buffer.from('x')])).rejects.toThrow('ended');
      await expect(ingest.commit(ABSENT)).rejects.toThrow('ended');
      await ingest.close();
      await ingest.close();
      await expect(ingest.read(Buffer.alloc(1), 0)).resolves.toBe(0);
    });

    test('two ingests may become the same blob', async () => {
      const bytes = randomBytes(10_000);
      const digest = await keep(store, 'upload-1', bytes);
      const reader = await store.open(digest);
      expect(await keep(store, 'upload-2', bytes)).toBe(digest);
      expect(await hashBlob(store, digest)).toBe(digest);
      expect(await hashAll(reader)).toBe(digest);
      await reader?.close();
    });

    test('a reader outlives the removal of its blob, and is closed as often as one likes', async () => {
      const bytes = randomBytes(10_000);
      const digest = await keep(store, 'fill-1', bytes);
      const reader = await store.open(digest);
      await store.takeAway(digest)?.();
      expect(await store.stat(digest)).toBeUndefined();
      expect(await hashAll(reader)).toBe(digest);
      expect(await reader?.read(Buffer.alloc(10), 10_000)).toBe(0);
      expect(await reader?.read(Buffer.alloc(10), 20_000)).toBe(0);
      await reader?.close();
      await reader?.close();
      await expect(reader?.read(Buffer.alloc(10), 0)).rejects.toThrow('closed');
    });

    test('another process reads along with an ingest, and to its end after the commit', async () => {
      const bytes = randomBytes(20_000);
      const digest = digestOf(bytes);
      const other = await place.open();
      const ingest = await store.ingest(steadyLease('fill-1'), { digest });
      const follower = await other.follow('fill-1', 1);
      expect(await follower?.length()).toBe(0);
      await ingest.write([bytes.subarray(0, 5_000)]);
      expect(await follower?.length()).toBe(5_000);
      await ingest.write([bytes.subarray(5_000)]);
      await ingest.commit(digest);
      await ingest.close();
      expect(await follower?.length()).toBe(20_000);
      const buffer = Buffer.alloc(20_000);
      expect(await follower?.read(buffer, 0)).toBe(20_000);
      expect(digestOf(buffer)).toBe(digest);
      await follower?.close();
      await other.close();
    });

    test('forty ingests at once are all hashed right', async () => {
      const contents = Array.from({ length: 40 }, (_, index) => randomBytes(200_000 + index));
      const digests = await Promise.all(contents.map((bytes, index) => keep(store, `fill-${index}`, bytes)));
      expect(digests).toEqual(contents.map(bytes => digestOf(bytes)));
    });

    test('what is no key and no digest never gets near the store', async () => {
      for (const key of ['', '.', '..', '../x', 'a/b', 'a.b', 'A', 'x'.repeat(201), 'a\0']) {
        await expect(store.ingest(steadyLease(key))).rejects.toThrow('not an ingest key');
        await expect(store.follow(key, 1)).rejects.toThrow('not an ingest key');
        await expect(store.abandon({ name: `${key}.1` })).rejects.toThrow('not the name');
      }
      for (const text of [
        'sha256:../../etc/passwd',
        `sha256:${'A'.repeat(64)}`,
        `md5:${'a'.repeat(32)}`,
        'sha256:',
      ]) {
        const forged = JSON.parse(JSON.stringify(text));
        await expect(store.stat(forged)).rejects.toThrow('not a digest');
        await expect(store.open(forged)).rejects.toThrow('not a digest');
        expect(() => store.takeAway(forged)).toThrow('not a digest');
      }
    });

    test('everything that is here is listed, with sizes and times', async () => {
      const digest = await keep(store, 'fill-1', Buffer.from('four'));
      const ingest = await store.ingest(steadyLease('upload-1'));
      await ingest.write([Buffer.from('seven..')]);
      const beforeMs = Date.now() - 60_000;
      const [blob, ...otherBlobs] = await collect(store.blobs());
      expect(blob).toMatchObject({ digest, size: 4 });
      expect(blob?.modifiedAtMs).toBeGreaterThan(beforeMs);
      expect(otherBlobs).toEqual([]);
      const [found, ...otherIngests] = await collect(store.ingests());
      expect(found).toMatchObject({ key: 'upload-1', size: 7 });
      expect(found?.modifiedAtMs).toBeGreaterThan(beforeMs);
      expect(otherIngests).toEqual([]);
      await ingest.abort();
      await ingest.close();
    });
  });
}

/** Ingests `bytes` under `key`, commits them under their own digest, and returns that. */
export async function keep(store: BlobStore, key: string, bytes: Uint8Array): Promise<Digest> {
  const ingest = await store.ingest(steadyLease(key), { digest: ABSENT });
  await ingest.write([bytes]);
  const digest = await ingest.hash(ABSENT);
  await ingest.commit(digest);
  await ingest.close();
  return digest;
}

/** The digest of the blob's bytes as a reader returns them; `undefined` if it is not stored. */
async function hashBlob(store: BlobStore, digest: Digest): Promise<Digest | undefined> {
  const reader = await store.open(digest);
  try {
    return await hashAll(reader);
  } finally {
    await reader?.close();
  }
}

async function hashAll(reader: BlobReader | undefined): Promise<Digest | undefined> {
  if (reader === undefined) {
    return undefined;
  }
  const bytes = Buffer.alloc(reader.size);
  let position = 0;
  while (position < reader.size) {
    position += await reader.read(bytes.subarray(position, position + 4_096), position);
  }
  return digestOf(bytes);
}

async function collect<T>(entries: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const entry of entries) {
    all.push(entry);
  }
  return all;
}
