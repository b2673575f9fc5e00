import { expect, test } from 'vitest';
import { isLeased, LeaseLost } from './lease.ts';
import { leaseOf, leasesSuite } from './lease.suite.ts';
import { LeaseTable, MemoryLeases } from './memory-leases.fixture.ts';

leasesSuite(async () => {
  const table = new LeaseTable();
  return {
    open: async () => {
      const leases = new MemoryLeases(table);
      return { leases, close: () => leases.close() };
    },
    remove: async () => {},
  };
});

test('a Lease of a process that only seemed dead is lost when another has taken it, and not before', async () => {
  const table = new LeaseTable();
  const [paused, other] = [new MemoryLeases(table), new MemoryLeases(table)];
  const lease = await leaseOf(paused, 'fill-1');
  expect(await isLeased(other, 'fill-1')).toBe(true);
  paused.seemDead();
  expect(await isLeased(other, 'fill-1')).toBe(false);
  expect(() => lease.confirm()).not.toThrow();
  const { left } = await leaseOf(other, 'fill-1');
  expect(left).toEqual({ epoch: lease.epoch, mayWrite: true });
  expect(() => lease.confirm()).toThrow(LeaseLost);
  await paused.release(lease);
  expect(await isLeased(other, 'fill-1')).toBe(true);
});
