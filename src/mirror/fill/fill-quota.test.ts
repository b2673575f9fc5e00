import { afterEach, expect, it, vi } from 'vitest';
import type { DiskLook } from '../../blobs/spool.ts';
import { FillQuota } from './fill-quota.ts';

afterEach(() => {
  vi.useRealTimers();
});

const quotaOn = (look: () => Promise<DiskLook>, maxBytes?: number) => {
  const mayAdmit = async (bytes: number) => {
    const { freeBytes, minFreeBytes } = await look();
    return bytes <= freeBytes - minFreeBytes;
  };
  return new FillQuota(
    { unfinishedBytes: 0, space: { look, mayAdmit, makeRoom: async () => {} } },
    { maxBytes },
  );
};

const seen = () => Promise.resolve({ freeBytes: 150, minFreeBytes: 50 });
const unseen = () => Promise.reject(new Error('EIO: i/o error, statfs'));

it('has room for what the disk has free beyond its minimum, and for no blob that exceeds the store', async () => {
  expect(await quotaOn(seen).hasRoomFor(100, 500)).toBe(true);
  expect(await quotaOn(seen).hasRoomFor(101, 500)).toBe(false);
  expect(await quotaOn(seen, 499).hasRoomFor(100, 500)).toBe(false);
});

it('has no room for parts beside the other ingests, unless they make room', async () => {
  const store = {
    unfinishedBytes: 60,
    space: {
      look: seen,
      mayAdmit: async () => true,
      makeRoom: async (bytes: number) => void (store.unfinishedBytes -= Math.min(bytes, 20)),
    },
  };
  const quota = new FillQuota(store, { maxBytes: 100 });
  expect(await quota.canTake(40, 40)).toBe(true);
  expect([await quota.canTake(60, 60), store.unfinishedBytes]).toEqual([true, 40]);
  expect(await quota.canTake(90, 90)).toBe(false);
  expect(await quota.canTake(10, 110)).toBe(false);
});

it('has no room beside stored content that cannot be evicted, which it looks up every few seconds', async () => {
  vi.useFakeTimers();
  let keptBytes = 60;
  const store = {
    unfinishedBytes: 10,
    space: { look: seen, mayAdmit: async () => true, makeRoom: async () => {} },
  };
  const quota = new FillQuota(store, { maxBytes: 100 }, async () => keptBytes);
  const space = await quota.enter();
  await space.take(30, 30);
  await expect(space.take(31, 31)).rejects.toThrow('storage.maxBytes');
  expect([await quota.canTake(30, 30), await quota.canTake(31, 31)]).toEqual([true, false]);
  expect([await quota.hasRoomFor(40, 40), await quota.hasRoomFor(40, 41)]).toEqual([true, false]);
  keptBytes = 0;
  vi.advanceTimersByTime(5_000);
  expect(await quota.canTake(90, 90)).toBe(true);
});

it('does not fail a request because the disk cannot be asked', async () => {
  expect(await quotaOn(unseen).hasRoomFor(100, 500)).toBe(true);
  await expect(quotaOn(unseen).enter()).rejects.toThrow('EIO');
});

it('says its limits in units, and which option sets the size of the store', async () => {
  const mib = 1024 * 1024;
  const space = await quotaOn(seen, 20 * mib).enter();
  await expect(space.take(1, 21 * mib)).rejects.toThrow(
    'the store may take 20MiB in total (storage.maxBytes)',
  );
  const roomy = () => Promise.resolve({ freeBytes: 150 * mib, minFreeBytes: 50 * mib });
  const unnamed = await quotaOn(roomy, 20 * mib).enter();
  await expect(unnamed.take(6 * mib, undefined)).rejects.toThrow(
    'blobs of unknown size may take 5.0 MiB in total',
  );
});

it('evicts idle downloads that leave too little room, once for all, and not again while that is of no use', async () => {
  const asked: number[] = [];
  let evictable = 400;
  const store = {
    unfinishedBytes: 950,
    space: {
      look: seen,
      mayAdmit: async () => true,
      makeRoom: async (bytes: number) => {
        asked.push(bytes);
        store.unfinishedBytes -= evictable;
        evictable = 0;
      },
    },
  };
  const space = await new FillQuota(store, { maxBytes: 1_000 }).enter();
  await space.take(50, 500);
  expect(asked).toEqual([]);
  await Promise.all([space.take(60, 500), space.take(70, 500)]);
  expect(asked).toEqual([60]);
  store.unfinishedBytes = 1_000;
  for (let attempt = 0; attempt < 2; attempt += 1)
    await expect(space.take(1, 500)).rejects.toThrow('storage.maxBytes');
  expect(asked).toEqual([60, 1]);
});

it('evicts again some seconds after that was of no use, however often it was asked meanwhile', async () => {
  vi.useFakeTimers({ toFake: ['performance'] });
  let evictions = 0;
  const makeRoom = async () => void (evictions += 1);
  const store = { unfinishedBytes: 1_000, space: { look: seen, mayAdmit: async () => true, makeRoom } };
  const space = await new FillQuota(store, { maxBytes: 1_000 }).enter();
  for (let second = 0; second < 12; second += 3) {
    await expect(space.take(1, 500)).rejects.toThrow('storage.maxBytes');
    vi.advanceTimersByTime(3_000);
  }
  expect(evictions).toBe(2);
});
