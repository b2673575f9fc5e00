import { randomBytes } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { digestOf } from '../oci/digest.ts';
import type { BlobParts, Ingest, Spool } from './spool.ts';

/** A place where ingests are kept. Each call of `open` is another process's view of it. */
export interface SpoolPlace {
  open(): Promise<OpenSpool>;
  remove(): Promise<void>;
}

export interface OpenSpool {
  readonly spool: Spool;
  close(): Promise<void>;
}

const SOME = digestOf(Buffer.from('some'));

/** The contract of Spool, as tests for any implementation; `blobStoreSuite` covers what becomes of a stored ingest. */
export function spoolSuite(makePlace: () => Promise<SpoolPlace>): void {
  describe('a Spool', () => {
    let place: SpoolPlace;
    let opened: OpenSpool;
    let spool: Spool;

    beforeEach(async () => {
      place = await makePlace();
      opened = await place.open();
      spool = opened.spool;
    });

    afterEach(async () => {
      await opened.close();
      await place.remove();
    });

    test('an absent ingest is undefined, and abandoning it has no effect', async () => {
      expect(await spool.follow('fill-1', 1)).toBeUndefined();
      expect(await spool.length('fill-1', 1)).toBe(0);
      await spool.abandon({ name: 'fill-1.1' });
    });

    test('one write accepts thousands of chunks, including empty ones', async () => {
      const bytes = randomBytes(30_000);
      const chunks = Array.from({ length: 3_000 }, (_, index) => bytes.subarray(index * 10, index * 10 + 10));
      const ingest = await spool.ingest(steadyLease('fill-1'));
      await ingest.write([new Uint8Array(0), ...chunks, new Uint8Array(0)]);
      await ingest.write([]);
      expect(ingest.offset).toBe(30_000);
      expect(await ingest.hash(SOME)).toBe(digestOf(bytes));
      await ingest.abort();
      await ingest.close();
    });

    test('an ingest is read while it grows, up to its offset, and until it is closed', async () => {
      const bytes = randomBytes(50_000);
      const ingest = await spool.ingest(steadyLease('fill-1'));
      const buffer = Buffer.alloc(60_000);
      expect(await ingest.read(buffer, 0)).toBe(0);
      await ingest.write([bytes.subarray(0, 30_000)]);
      expect(await ingest.read(buffer, 29_990)).toBe(10);
      expect(buffer.subarray(0, 10)).toEqual(bytes.subarray(29_990, 30_000));
      await ingest.write([bytes.subarray(30_000)]);
      await ingest.abort();
      expect(await ingest.read(buffer, 0)).toBe(50_000);
      expect(digestOf(buffer.subarray(0, 50_000))).toBe(digestOf(bytes));
      await ingest.close();
    });

    test('both algorithms are supported, one that was not announced from the start, and writing may continue', async () => {
      const bytes = randomBytes(2_000_000);
      const ingest = await spool.ingest(steadyLease('upload-1'));
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

    test('a small one is hashed, too, and may become large and small again', async () => {
      const bytes = randomBytes(300_000);
      const ingest = await spool.ingest(steadyLease('fill-1'));
      expect(await ingest.hash(SOME)).toBe(digestOf(Buffer.alloc(0)));
      await ingest.write([bytes.subarray(0, 10_000)]);
      const small = bytes.subarray(0, 10_000);
      expect(await ingest.hash(digestOf(small, 'sha512'))).toBe(digestOf(small, 'sha512'));
      await ingest.write([bytes.subarray(10_000)]);
      expect(await ingest.hash(SOME)).toBe(digestOf(bytes));
      await ingest.truncate(10_000);
      expect(await ingest.hash(SOME)).toBe(digestOf(small));
      await ingest.abort();
      await ingest.close();
    });

    test('truncating discards the end, for reading and for hashing', async () => {
      const bytes = randomBytes(1_000_000);
      const ingest = await spool.ingest(steadyLease('fill-1'));
      await ingest.write([bytes]);
      await ingest.hash(SOME);
      await ingest.truncate(400_000);
      expect(ingest.offset).toBe(400_000);
      expect(await ingest.read(Buffer.alloc(10), 400_000)).toBe(0);
      await ingest.write([Buffer.from('another end')]);
      const expected = digestOf(Buffer.concat([bytes.subarray(0, 400_000), Buffer.from('another end')]));
      expect(await ingest.hash(SOME)).toBe(expected);
      await expect(ingest.truncate(500_000)).rejects.toThrow(RangeError);
      await ingest.truncate(0);
      expect(await ingest.hash(SOME)).toBe(digestOf(Buffer.alloc(0)));
      await ingest.abort();
      await ingest.close();
    });

    test('a suspended ingest continues where it ended, in this or another process', async () => {
      const bytes = randomBytes(700_000);
      const digest = digestOf(bytes);
      const first = await spool.ingest(steadyLease('fill-1'), { digest });
      await first.write([bytes.subarray(0, 300_000)]);
      await first.suspend();
      await first.close();
      const next = await place.open();
      const left = { epoch: 1, mayWrite: false };
      const second = await next.spool.ingest(steadyLease('fill-1', 2, left), { digest });
      expect(second.offset).toBe(300_000);
      await second.write([bytes.subarray(300_000)]);
      expect(await second.hash(digest)).toBe(digest);
      await second.abort();
      await second.close();
      await next.close();
      expect(await collect(spool.list())).toEqual([]);
    });

    test('an ingest continues although the index forgot its Lease in a power failure, unless it begins anew', async () => {
      const bytes = randomBytes(300_000);
      for (const key of ['fill-1', 'fill-2']) {
        const lost = await spool.ingest(steadyLease(key, 7));
        await lost.write([bytes]);
        await lost.suspend();
        await lost.close();
      }
      const next = await place.open();
      expect(await next.spool.length('fill-1', undefined)).toBe(300_000);
      expect(await next.spool.length('fill-1', 5)).toBe(300_000);
      expect(await next.spool.length('fill-3', undefined)).toBe(0);
      const found = await next.spool.ingest(steadyLease('fill-1', 1_000_001));
      expect(found.offset).toBe(300_000);
      expect(await found.hash(SOME)).toBe(digestOf(bytes));
      const same = await next.spool.ingest(steadyLease('fill-2', 7), { anew: true });
      expect(same.offset).toBe(0);
      await same.close();
      const anew = await next.spool.ingest(steadyLease('fill-2', 1_000_002), { anew: true });
      expect(anew.offset).toBe(0);
      const epochs = (await collect(next.spool.list())).map(({ epoch }) => epoch);
      expect(new Set(epochs)).toEqual(new Set([1_000_001, 1_000_002]));
      for (const ingest of [found, anew]) {
        await ingest.abort();
        await ingest.close();
      }
      await next.close();
    });

    describe('an ingest whose holder was considered dead', () => {
      const bytes = randomBytes(700_000);
      const digest = digestOf(bytes);
      const left = { epoch: 1, mayWrite: true };
      let paused: Ingest;
      let successor: Ingest;

      beforeEach(async () => {
        paused = await spool.ingest(steadyLease('fill-1', 1), { digest });
        await paused.write([bytes.subarray(0, 300_000)]);
        successor = await spool.ingest(steadyLease('fill-1', 2, left), { digest });
      });

      afterEach(async () => {
        await paused.close();
        await successor.close();
      });

      test('continues as a copy, to which the former holder cannot write when it wakes up', async () => {
        expect(successor.offset).toBe(300_000);
        await paused.write([Buffer.from('other bytes')]);
        await successor.write([bytes.subarray(300_000)]);
        await paused.truncate(0);
        expect(await successor.hash(digest)).toBe(digest);
        await paused.abort();
        const buffer = Buffer.alloc(bytes.length);
        expect(await successor.read(buffer, 0)).toBe(bytes.length);
        expect(digestOf(buffer)).toBe(digest);
        expect(await collect(spool.list())).toMatchObject([{ key: 'fill-1', epoch: 2, size: bytes.length }]);
      });

      test("is the successor's only, for processes that follow it", async () => {
        expect(await spool.follow('fill-1', 1)).toBeUndefined();
        const follower = await spool.follow('fill-1', 2);
        expect(await follower?.length()).toBe(300_000);
        await follower?.close();
        expect(await spool.length('fill-1', 2)).toBe(300_000);
        // The next holder is still copying.
        expect(await spool.length('fill-1', 3)).toBe(300_000);
      });

      test('does not continue if it is begun anew', async () => {
        const anew = await spool.ingest(steadyLease('fill-1', 3, { epoch: 2, mayWrite: true }), {
          digest,
          anew: true,
        });
        expect(anew.offset).toBe(0);
        await anew.abort();
        await anew.close();
      });
    });

    test('has no bytes that its writer wrote after losing the Lease', async () => {
      let isLost = false;
      const ingest = await spool.ingest(losableLease('fill-1', () => isLost));
      await ingest.write([Buffer.from('bytes')]);
      isLost = true;
      await expect(ingest.write([Buffer.from('more')])).rejects.toThrow(LeaseLost);
      await expect(ingest.truncate(0)).rejects.toThrow(LeaseLost);
      expect(ingest.offset).toBe(5);
      await ingest.abort();
      await ingest.close();
    });

    test('an aborted or abandoned ingest leaves nothing behind', async () => {
      const aborted = await spool.ingest(steadyLease('fill-1'));
      await aborted.write([Buffer.from('bytes')]);
      await aborted.abort();
      await aborted.close();
      const suspended = await spool.ingest(steadyLease('fill-2'));
      await suspended.write([Buffer.from('bytes')]);
      await suspended.suspend();
      await suspended.close();
      await spool.abandon({ name: 'fill-2.1' });
      expect(await collect(spool.list())).toEqual([]);
      const again = await spool.ingest(steadyLease('fill-1'));
      expect(again.offset).toBe(0);
      await again.abort();
      await again.close();
    });

    test('an ended ingest accepts no bytes, and may be closed twice', async () => {
      const ingest = await spool.ingest(steadyLease('fill-1'));
      await ingest.suspend();
      await expect(ingest.write([Buffer.from('x')])).rejects.toThrow('ended');
      await ingest.close();
      await ingest.close();
      await expect(ingest.read(Buffer.alloc(1), 0)).resolves.toBe(0);
    });

    test('another process follows an ingest', async () => {
      const bytes = randomBytes(20_000);
      const other = await place.open();
      const ingest = await spool.ingest(steadyLease('fill-1'));
      const follower = await other.spool.follow('fill-1', 1);
      expect(await follower?.length()).toBe(0);
      await ingest.write([bytes.subarray(0, 5_000)]);
      expect(await follower?.length()).toBe(5_000);
      await ingest.write([bytes.subarray(5_000)]);
      const buffer = Buffer.alloc(20_000);
      expect(await follower?.read(buffer, 0)).toBe(20_000);
      expect(digestOf(buffer)).toBe(digestOf(bytes));
      // Wrong bytes are truncated before the ingest is removed.
      await ingest.truncate(0);
      await ingest.abort();
      expect(await follower?.length()).toBe(0);
      await ingest.close();
      await follower?.close();
      await other.close();
    });

    test('forty concurrent ingests are all hashed correctly', async () => {
      const contents = Array.from({ length: 40 }, (_, index) => randomBytes(200_000 + index));
      const hashed = contents.map(async (bytes, index) => {
        const ingest = await spool.ingest(steadyLease(`fill-${index}`));
        await ingest.write([bytes]);
        const digest = await ingest.hash(SOME);
        await ingest.abort();
        await ingest.close();
        return digest;
      });
      expect(await Promise.all(hashed)).toEqual(contents.map(bytes => digestOf(bytes)));
    });

    describe('parts of a blob', () => {
      const blob = randomBytes(200_000);
      const part = (start: number, end: number): Uint8Array => blob.subarray(start, end);

      test('are written in any order and read where they are, and nowhere else', async () => {
        const parts = await spool.parts(steadyLease('part-1'), blob.length);
        await parts.write(150_000, part(150_000, 200_000));
        await Promise.all([parts.write(0, part(0, 2)), parts.write(2, part(2, 1_000))]);
        expect([...parts.extents]).toEqual([
          { start: 0, end: 1_000 },
          { start: 150_000, end: 200_000 },
        ]);
        expect(await readPart(parts, 990, 500)).toEqual(part(990, 1_000));
        expect(await readPart(parts, 199_000, 5_000)).toEqual(part(199_000, 200_000));
        expect((await readPart(parts, 1_000, 500)).length).toBe(0);
        expect((await readPart(parts, 149_999, 500)).length).toBe(0);
        await parts.abort();
        expect(await readPart(parts, 0, 10)).toEqual(part(0, 10));
        await parts.close();
        expect(await collect(spool.list())).toEqual([]);
      });

      test('are found by the next holder as they were saved, in this or another process', async () => {
        const first = await spool.parts(steadyLease('part-1'), blob.length);
        await first.write(1_000, part(1_000, 3_000));
        await first.save();
        await first.write(50_000, part(50_000, 60_000));
        await first.suspend();
        await expect(first.write(0, part(0, 1))).rejects.toThrow('ended');
        await first.close();
        const next = await place.open();
        const second = await next.spool.parts(
          steadyLease('part-1', 2, { epoch: 1, mayWrite: false }),
          blob.length,
        );
        expect([...second.extents]).toEqual([...first.extents]);
        expect(await readPart(second, 50_000, 20_000)).toEqual(part(50_000, 60_000));
        await second.close();
        await next.close();
      });

      test('that were not saved before a crash are gone', async () => {
        const first = await spool.parts(steadyLease('part-1'), blob.length);
        await first.write(1_000, part(1_000, 3_000));
        await first.save();
        await first.write(50_000, part(50_000, 60_000));
        await first.close();
        const left = { epoch: 1, mayWrite: false };
        const second = await spool.parts(steadyLease('part-1', 2, left), blob.length);
        expect([...second.extents]).toEqual([{ start: 1_000, end: 3_000 }]);
        await second.close();
      });

      test('continue although the index forgot their Lease in a power failure', async () => {
        const lost = await spool.parts(steadyLease('part-1', 7), blob.length);
        await lost.write(0, part(0, 100));
        await lost.suspend();
        await lost.close();
        const next = await place.open();
        const found = await next.spool.parts(steadyLease('part-1', 1_000_001), blob.length);
        expect([...found.extents]).toEqual([{ start: 0, end: 100 }]);
        await found.abort();
        await found.close();
        expect(await collect(next.spool.list())).toEqual([]);
        await next.close();
      });

      test('are not taken over from a holder that may still write, nor for a blob of another size', async () => {
        const paused = await spool.parts(steadyLease('part-1'), blob.length);
        await paused.write(0, part(0, 100));
        await paused.save();
        const second = await spool.parts(steadyLease('part-1', 2, { epoch: 1, mayWrite: true }), blob.length);
        expect(second.extents.count).toBe(0);
        await second.write(0, part(0, 50));
        await paused.write(0, Buffer.alloc(100));
        expect(await readPart(second, 0, 100)).toEqual(part(0, 50));
        await paused.close();
        await second.suspend();
        await second.close();
        const other = await spool.parts(steadyLease('part-1', 3, { epoch: 2, mayWrite: false }), 100);
        expect(other.extents.count).toBe(0);
        await other.close();
      });

      test('reject what is written after losing the Lease, and bytes behind the end', async () => {
        let isLost = false;
        const parts = await spool.parts(
          losableLease('part-1', () => isLost),
          blob.length,
        );
        await expect(parts.write(199_999, part(0, 2))).rejects.toThrow(/behind|out of bounds/);
        isLost = true;
        await expect(parts.write(0, part(0, 10))).rejects.toThrow(LeaseLost);
        expect(parts.extents.count).toBe(0);
        await parts.abort();
        await parts.close();
      });

      test('are read by other processes as far as they are saved, until they are removed', async () => {
        const other = await place.open();
        const parts = await spool.parts(steadyLease('part-1'), blob.length);
        expect(await other.spool.savedParts('part-1', 1)).toBeUndefined();
        await parts.write(1_000, part(1_000, 3_000));
        await parts.save();
        const saved = await other.spool.savedParts('part-1', 1);
        if (saved === undefined) throw new Error('nothing is saved');
        await parts.write(100_000, part(100_000, 200_000));
        expect([...saved.extents]).toEqual([{ start: 1_000, end: 3_000 }]);
        await parts.save();
        expect(await saved.refresh()).toBe(true);
        expect([saved.size, saved.extents.count]).toEqual([blob.length, 2]);
        const buffer = Buffer.alloc(200_000);
        expect(await saved.read(buffer, 150_000)).toBe(50_000);
        expect(buffer.subarray(0, 50_000)).toEqual(part(150_000, 200_000));
        expect(await saved.read(buffer, 3_000)).toBe(0);
        await parts.abort();
        expect(await saved.refresh()).toBe(false);
        await parts.close();
        await saved.close();
        await other.close();
      });

      test('are announced to other processes before they are there, until the next holder takes over', async () => {
        const other = await place.open();
        const parts = await spool.parts(steadyLease('part-1'), blob.length);
        const coming = [
          { start: 0, end: 5, state: 'requested' },
          { start: 7, end: 9, state: 'received' },
          { start: 100, end: 20_000, state: 'claimed' },
        ] as const;
        await parts.announce(coming);
        const seen = await other.spool.savedParts('part-1', 1);
        if (seen === undefined) throw new Error('nothing is announced');
        expect([seen.size, seen.extents.count, seen.coming]).toEqual([blob.length, 0, coming]);
        await parts.write(0, part(0, 5));
        await parts.save();
        await parts.announce([]);
        await seen.refresh();
        expect([seen.extents.bytes, seen.coming]).toEqual([5, []]);
        const announced = Array.from({ length: 10 }, (_, at) =>
          parts.announce([coming[at % 2] ?? []].flat()),
        );
        await Promise.all(announced);
        await seen.refresh();
        expect(seen.coming).toEqual([coming[1]]);
        await parts.suspend();
        await expect(parts.announce([])).rejects.toThrow('ended');
        await parts.close();
        const next = await spool.parts(steadyLease('part-1', 2, { epoch: 1, mayWrite: false }), blob.length);
        const later = await other.spool.savedParts('part-1', 2);
        expect([later?.extents.bytes, later?.coming]).toEqual([5, []]);
        await next.close();
        for (const saved of [seen, later]) await saved?.close();
        await other.close();
      });

      test('are listed with the space that they take, and counted', async () => {
        const parts = await spool.parts(steadyLease('part-1'), 100 * 1024);
        await parts.write(0, part(0, 64 * 1024));
        await parts.save();
        const [found] = await collect(spool.list());
        expect(found).toMatchObject({ key: 'part-1', epoch: 1, isParts: true });
        expect(found?.size).toBeGreaterThanOrEqual(64 * 1024);
        expect(found?.size).toBeLessThan(1024 * 1024);
        expect(spool.unfinishedBytes).toBe(found?.size);
        await parts.abort();
        expect(spool.unfinishedBytes).toBe(0);
        await parts.close();
      });

      test('that nobody wrote leave nothing behind', async () => {
        const parts = await spool.parts(steadyLease('part-1'), blob.length);
        await parts.suspend();
        await parts.close();
        await parts.close();
        expect(await collect(spool.list())).toEqual([]);
      });
    });

    test('an invalid key never reaches the file system', async () => {
      for (const key of ['', '.', '..', '../x', 'a/b', 'a.b', 'A', 'x'.repeat(201), 'a\0']) {
        await expect(spool.ingest(steadyLease(key))).rejects.toThrow('not an ingest key');
        await expect(spool.follow(key, 1)).rejects.toThrow('not an ingest key');
        await expect(spool.length(key, 1)).rejects.toThrow('not an ingest key');
        await expect(spool.abandon({ name: `${key}.1` })).rejects.toThrow('not the name');
      }
    });

    test('all ingests are listed with size and time, and counted as they grow and end', async () => {
      const ingest = await spool.ingest(steadyLease('upload-1'));
      await ingest.write([Buffer.from('seven..')]);
      const beforeMs = Date.now() - 60_000;
      const [found, ...others] = await collect(spool.list());
      expect(found).toMatchObject({ key: 'upload-1', epoch: 1, size: 7 });
      expect(found?.modifiedAtMs).toBeGreaterThan(beforeMs);
      expect(others).toEqual([]);
      expect(spool.unfinishedBytes).toBe(7);
      spool.countUnfinished(10);
      await ingest.truncate(5);
      expect(spool.unfinishedBytes).toBe(8);
      await ingest.abort();
      expect(spool.unfinishedBytes).toBe(3);
      await ingest.close();
    });
  });
}

async function readPart(parts: BlobParts, start: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  return buffer.subarray(0, await parts.read(buffer, start));
}

/** A Lease that belongs to another process as soon as `isLost` returns true. */
export function losableLease(key: string, isLost: () => boolean): Lease {
  return {
    ...steadyLease(key),
    confirm: () => {
      if (isLost()) throw new LeaseLost(key);
      return undefined;
    },
  };
}

export async function collect<T>(entries: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const entry of entries) {
    all.push(entry);
  }
  return all;
}
