import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { BlobReader } from '../lib/blob-reader.ts';
import { LeaseLost } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import type { BlobStore, StoredBlob } from './blob-store.ts';
import type { Ingest, Spool } from './spool.ts';
import { collect, losableLease } from './spool.suite.ts';

/** A place where blobs are stored, with a spool. Each call of `open` is another process's view of it. */
export interface BlobPlace {
  open(): Promise<OpenStores>;
  remove(): Promise<void>;
}

export interface OpenStores extends Stores {
  close(): Promise<void>;
}

interface Stores {
  readonly spool: Spool;
  readonly blobs: BlobStore;
  /** The rows of blobs, if the store finds blobs by what they say. */
  readonly rows?: BlobRows;
}

/** What the index does for a store of objects. */
export interface BlobRows {
  put(digest: Digest, size: number, stored: StoredBlob): void;
  remove(digest: Digest): void;
}

const ABSENT = digestOf(Buffer.from('nowhere'));

/** The contract of BlobStore, as tests for any implementation. */
export function blobStoreSuite(makePlace: () => Promise<BlobPlace>): void {
  describe('a BlobStore', () => {
    let place: BlobPlace;
    let stores: OpenStores;
    let spool: Spool;
    let blobs: BlobStore;

    beforeEach(async () => {
      place = await makePlace();
      stores = await place.open();
      ({ spool, blobs } = stores);
    });

    afterEach(async () => {
      await stores.close();
      await place.remove();
    });

    test('an absent blob is undefined, and removing it has no effect', async () => {
      expect(await blobs.stat(ABSENT)).toBeUndefined();
      expect(await blobs.open(ABSENT)).toBeUndefined();
      expect(await blobs.rehash(ABSENT, { bytesPerSecond: 0 })).toBeUndefined();
      const removal = await blobs.removal(ABSENT);
      expect(removal.isSame()).toBe(true);
      await removal.takeAway()?.();
    });

    test('a blob is visible after put, not before, and leaves no ingest', async () => {
      const bytes = randomBytes(100_000);
      const digest = digestOf(bytes);
      const ingest = await spool.ingest(steadyLease('fill-1'), { digest });
      await ingest.write([bytes.subarray(0, 10), bytes.subarray(10)]);
      expect(await ingest.hash(digest)).toBe(digest);
      expect(await blobs.stat(digest)).toBeUndefined();
      const stored = await put(stores, digest, ingest);
      expect(stored.isThere()).toBe(true);
      await ingest.close();
      expect(await blobs.stat(digest)).toEqual({ size: 100_000 });
      expect(await hashBlob(blobs, digest)).toBe(digest);
      expect(await collect(spool.list())).toEqual([]);
      expect(spool.unfinishedBytes).toBe(0);
    });

    test('an empty blob is a blob', async () => {
      const digest = await keep(stores, 'fill-1', Buffer.alloc(0));
      expect(await blobs.stat(digest)).toEqual({ size: 0 });
      expect(await hashBlob(blobs, digest)).toBe(digest);
    });

    test('an ingest that was put stays readable until it is closed, even if the blob is removed', async () => {
      const bytes = randomBytes(50_000);
      const digest = digestOf(bytes);
      const ingest = await spool.ingest(steadyLease('fill-1'), { digest });
      await ingest.write([bytes]);
      await put(stores, digest, ingest);
      await remove(blobs, digest, stores.rows);
      const buffer = Buffer.alloc(60_000);
      expect(await ingest.read(buffer, 0)).toBe(50_000);
      expect(digestOf(buffer.subarray(0, 50_000))).toBe(digest);
      await ingest.close();
    });

    test('an ingest that was put has ended', async () => {
      const bytes = Buffer.from('bytes');
      const digest = digestOf(bytes);
      const ingest = await spool.ingest(steadyLease('fill-1'));
      await ingest.write([bytes]);
      await put(stores, digest, ingest);
      await expect(ingest.write([bytes])).rejects.toThrow('ended');
      await expect(put(stores, digest, ingest)).rejects.toThrow('ended');
      await ingest.abort();
      await ingest.suspend();
      await ingest.close();
      expect(await hashBlob(blobs, digest)).toBe(digest);
    });

    test('a suspended ingest is put by the process that continues it', async () => {
      const bytes = randomBytes(700_000);
      const digest = digestOf(bytes);
      const first = await spool.ingest(steadyLease('fill-1'), { digest });
      await first.write([bytes.subarray(0, 300_000)]);
      await first.suspend();
      await expect(put(stores, digest, first)).rejects.toThrow('ended');
      await first.close();
      const next = await place.open();
      const left = { epoch: 1, mayWrite: false };
      const second = await next.spool.ingest(steadyLease('fill-1', 2, left), { digest });
      await second.write([bytes.subarray(300_000)]);
      expect(await second.hash(digest)).toBe(digest);
      await put(next, digest, second);
      await second.close();
      await next.close();
      expect(await hashBlob(blobs, digest)).toBe(digest);
    });

    test("a process that was considered dead changes nothing when it wakes up after its successor's put", async () => {
      const bytes = randomBytes(700_000);
      const digest = digestOf(bytes);
      const paused = await spool.ingest(steadyLease('fill-1', 1), { digest });
      await paused.write([bytes.subarray(0, 300_000)]);
      const left = { epoch: 1, mayWrite: true };
      const successor = await spool.ingest(steadyLease('fill-1', 2, left), { digest });
      await paused.write([Buffer.from('other bytes')]);
      await successor.write([bytes.subarray(300_000)]);
      await put(stores, digest, successor);
      await paused.write([Buffer.from('and others')]);
      await paused.truncate(0);
      await paused.abort();
      expect(await hashBlob(blobs, digest)).toBe(digest);
      expect(await collect(spool.list())).toEqual([]);
      await paused.close();
      await successor.close();
    });

    test('a process that has lost its Lease cannot put', async () => {
      let isLost = false;
      const bytes = Buffer.from('bytes');
      const ingest = await spool.ingest(losableLease('fill-1', () => isLost));
      await ingest.write([bytes]);
      isLost = true;
      await expect(put(stores, digestOf(bytes), ingest)).rejects.toThrow(LeaseLost);
      expect(await blobs.stat(digestOf(bytes))).toBeUndefined();
      await ingest.abort();
      await ingest.close();
    });

    test('two ingests of the same blob can both be put', async () => {
      const bytes = randomBytes(10_000);
      const digest = digestOf(bytes);
      const first = await spool.ingest(steadyLease('upload-1'));
      await first.write([bytes]);
      const stored = await put(stores, digest, first);
      await first.close();
      const reader = await blobs.open(digest);
      expect(await keep(stores, 'upload-2', bytes)).toBe(digest);
      expect(stored.isThere()).toBe(true);
      expect(await hashBlob(blobs, digest)).toBe(digest);
      expect(await hashAll(reader)).toBe(digest);
      await reader?.close();
    });

    test('a reader outlives the removal of its blob, and may be closed repeatedly', async () => {
      const bytes = randomBytes(10_000);
      const digest = await keep(stores, 'fill-1', bytes);
      const reader = await blobs.open(digest);
      await remove(blobs, digest, stores.rows);
      expect(await blobs.stat(digest)).toBeUndefined();
      expect(await hashAll(reader)).toBe(digest);
      expect(await reader?.read(Buffer.alloc(10), 10_000)).toBe(0);
      expect(await reader?.read(Buffer.alloc(10), 20_000)).toBe(0);
      await reader?.close();
      await reader?.close();
      await expect(reader?.read(Buffer.alloc(10), 0)).rejects.toThrow('closed');
    });

    test('a blob has readers in this process from the first open to the last close', async () => {
      const digest = await keep(stores, 'fill-1', Buffer.from('bytes'));
      const [first, second] = [await blobs.open(digest), await blobs.open(digest)];
      await first?.close();
      await first?.close();
      expect(blobs.hasReaders(digest)).toBe(true);
      await second?.close();
      expect(blobs.hasReaders(digest)).toBe(false);
    });

    test('readers of the same bytes have one origin, and those of bytes that replace them another', async () => {
      const bytes = randomBytes(100);
      const digest = await keep(stores, 'fill-1', bytes);
      const [first, second] = [await blobs.open(digest), await blobs.open(digest)];
      expect([first?.origin, second?.origin]).toEqual([expect.any(String), first?.origin]);
      await remove(blobs, digest, stores.rows);
      await keep(stores, 'fill-2', bytes);
      const third = await blobs.open(digest);
      expect(third?.origin).toEqual(expect.any(String));
      expect(third?.origin).not.toBe(first?.origin);
      for (const reader of [first, second, third]) await reader?.close();
    });

    test('a removal removes what it was prepared for, if that is still there', async () => {
      const digest = await keep(stores, 'fill-1', Buffer.from('bytes'));
      const removal = await blobs.removal(digest);
      expect(removal.isSame()).toBe(true);
      await keep(stores, 'fill-2', Buffer.from('bytes'));
      if (removal.isSame()) await removal.takeAway()?.();
      expect(await hashBlob(blobs, digest)).toBe(digest);
      await remove(blobs, digest, stores.rows);
      expect(await blobs.stat(digest)).toBeUndefined();
    });

    test('a blob that is stored after another with its digest was removed stays', async () => {
      const bytes = Buffer.from('bytes');
      const digest = digestOf(bytes);
      const free = (await blobs.removal(await keep(stores, 'fill-1', bytes))).takeAway();
      const ingest = await spool.ingest(steadyLease('fill-2'));
      await ingest.write([bytes]);
      const stored = await put(stores, digest, ingest);
      await free?.();
      expect(stored.isThere()).toBe(true);
      expect(await hashBlob(blobs, digest)).toBe(digest);
      await ingest.close();
    });

    test('another process follows an ingest to its end, even after it has become a blob', async () => {
      const bytes = randomBytes(20_000);
      const digest = digestOf(bytes);
      const other = await place.open();
      const ingest = await spool.ingest(steadyLease('fill-1'), { digest });
      const follower = await other.spool.follow('fill-1', 1);
      await ingest.write([bytes]);
      await put(stores, digest, ingest);
      await ingest.close();
      expect(await follower?.length()).toBe(20_000);
      const buffer = Buffer.alloc(20_000);
      expect(await follower?.read(buffer, 0)).toBe(20_000);
      expect(digestOf(buffer)).toBe(digest);
      await follower?.close();
      expect(await hashBlob(other.blobs, digest)).toBe(digest);
      await other.close();
    });

    test('a stored blob is hashed again, with either algorithm', async () => {
      const bytes = randomBytes(300_000);
      const digest = digestOf(bytes, 'sha512');
      const ingest = await spool.ingest(steadyLease('fill-1'), { digest });
      await ingest.write([bytes]);
      await put(stores, digest, ingest);
      await ingest.close();
      const seen: number[] = [];
      const onProgress = (read: number): void => void seen.push(read);
      expect(await blobs.rehash(digest, { bytesPerSecond: 0, onProgress })).toBe(digest);
      expect(seen.every(read => read <= bytes.length)).toBe(true);
      const aborted = AbortSignal.abort(new Error('called off'));
      await expect(blobs.rehash(digest, { bytesPerSecond: 0, signal: aborted })).rejects.toThrow(
        'called off',
      );
    });

    test('an invalid digest never reaches the file system', async () => {
      for (const text of [
        'sha256:../../etc/passwd',
        `sha256:${'A'.repeat(64)}`,
        `md5:${'a'.repeat(32)}`,
        'sha256:',
      ]) {
        const forged = JSON.parse(JSON.stringify(text));
        await expect(blobs.stat(forged)).rejects.toThrow('not a digest');
        await expect(blobs.open(forged)).rejects.toThrow('not a digest');
        await expect(blobs.removal(forged)).rejects.toThrow('not a digest');
      }
    });

    test('all blobs are listed, with sizes and times', async () => {
      const digest = await keep(stores, 'fill-1', Buffer.from('four'));
      const beforeMs = Date.now() - 60_000;
      await expect.poll(() => collect(blobs.list())).toHaveLength(1);
      const [blob] = await collect(blobs.list());
      expect(blob).toMatchObject({ digest, size: 4 });
      expect(blob?.modifiedAtMs).toBeGreaterThan(beforeMs);
    });
  });
}

/** Stores the blob, with its row. */
async function put({ blobs, rows }: Stores, digest: Digest, ingest: Ingest): Promise<StoredBlob> {
  const size = ingest.offset;
  const stored = await blobs.put(digest, ingest);
  rows?.put(digest, size, stored);
  return stored;
}

/** Ingests `bytes` under `key`, stores them under their own digest, and returns that. */
export async function keep(stores: Stores, key: string, bytes: Uint8Array): Promise<Digest> {
  const ingest = await stores.spool.ingest(steadyLease(key), { digest: ABSENT });
  await ingest.write([bytes]);
  const digest = await ingest.hash(ABSENT);
  await put(stores, digest, ingest);
  await ingest.close();
  return digest;
}

/** Removes the blob as upkeep does. */
export async function remove(blobs: BlobStore, digest: Digest, rows?: BlobRows): Promise<void> {
  rows?.remove(digest);
  await (await blobs.removal(digest)).takeAway()?.();
}

/** The digest of the blob's bytes as a reader returns them; `undefined` if it is not stored. */
async function hashBlob(blobs: BlobStore, digest: Digest): Promise<Digest | undefined> {
  const reader = await blobs.open(digest);
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
