import { describe, expect, it, vi } from 'vitest';
import { LeaseLost } from '../lib/lease.ts';
import { leaseOf } from '../lib/lease.suite.ts';
import { LeaseTable, MemoryLeases } from '../lib/memory-leases.fixture.ts';
import { IndexAway } from '../metadata/index-away.ts';
import { NO_TRAFFIC } from '../ops/transfer-totals.ts';
import { transferKeeper } from './transfers.ts';

describe('what was saved', () => {
  it('is the sum of what all processes add, in whatever order, since the first of them', async () => {
    const [table, settings] = [new LeaseTable(), new Map<string, string>()];
    const keepers = [100, 200, 300].map(startedAtMs =>
      transferKeeper(processOn(table, settings), startedAtMs),
    );
    const added = keepers.map(keeper => keeper.add({ ...NO_TRAFFIC, sentBytes: 5, fetchedBytes: 2 }));
    expect(await Promise.all(added)).toEqual([true, true, true]);
    expect(await keepers[2]?.read()).toMatchObject({ sinceMs: 100, sentBytes: 15, fetchedBytes: 6 });
  });

  it('is kept for each day, over restarts, for a little over a year', async () => {
    const [table, settings] = [new LeaseTable(), new Map<string, string>()];
    const DAY_MS = 24 * 3_600_000;
    const firstMs = Date.UTC(2026, 0, 1);
    for (let day = 0; day <= 400; day += 1) {
      const keeper = transferKeeper(processOn(table, settings), firstMs, () => firstMs + day * DAY_MS);
      await keeper.add({ ...NO_TRAFFIC, pulls: 1, sentBytes: day });
      await keeper.add({ ...NO_TRAFFIC, hits: 3, misses: 1 });
    }
    const days = (await transferKeeper(processOn(table, settings), firstMs).read())?.days;
    expect(days?.size).toBe(400);
    expect(days?.has('2026-01-01')).toBe(false);
    expect(days?.get('2026-12-31')).toEqual({
      sentBytes: 364,
      fetchedBytes: 0,
      pulls: 1,
      hits: 3,
      misses: 1,
    });
  });

  it('is added once, even if the Lease cannot be released afterwards', async () => {
    const [table, settings] = [new LeaseTable(), new Map<string, string>()];
    const release = vi.fn<() => Promise<void>>().mockRejectedValue(new Error('the index is locked'));
    const keeper = transferKeeper({ ...processOn(table, settings), release }, 1);
    expect(await keeper.add({ ...NO_TRAFFIC, sentBytes: 5 })).toBe(true);
    expect(await keeper.read()).toMatchObject({ sentBytes: 5 });
  });

  it('is added later if the database is away, which others report', async () => {
    const [table, settings] = [new LeaseTable(), new Map<string, string>()];
    const own = processOn(table, settings);
    const away = vi.fn<() => Promise<never>>().mockRejectedValue(new IndexAway('no database'));
    const keeper = transferKeeper({ ...own, acquireLease: away }, 1);
    expect(await keeper.add({ ...NO_TRAFFIC, sentBytes: 5 })).toBe(false);
    away.mockRejectedValue(new Error('the disk is full'));
    await expect(keeper.add({ ...NO_TRAFFIC, sentBytes: 5 })).rejects.toThrow('full');
  });

  it('is not changed by a process that was considered dead while it added', async () => {
    const [table, settings] = [new LeaseTable(), new Map<string, string>()];
    const paused = processOn(table, settings);
    const other = processOn(table, settings);
    const adding = transferKeeper(
      {
        ...paused,
        readSetting: async () => {
          paused.seemDead();
          await leaseOf(new MemoryLeases(table), 'transfer-totals');
          return undefined;
        },
      },
      1,
    ).add({ ...NO_TRAFFIC, sentBytes: 5, fetchedBytes: 2 });
    await expect(adding).rejects.toThrow(LeaseLost);
    expect(await transferKeeper(other, 1).read()).toBeUndefined();
  });
});

/** The settings and Leases of a store, as one process on it sees them. */
function processOn(table: LeaseTable, settings: Map<string, string>) {
  const leases = new MemoryLeases(table);
  return {
    acquireLease: (key: string) => leases.acquireLease(key),
    readLease: (key: string) => leases.readLease(key),
    release: leases.release.bind(leases),
    readSetting: async (name: string) => settings.get(name),
    putSetting: async (name: string, value: string) => void settings.set(name, value),
    seemDead: () => leases.seemDead(),
  };
}
