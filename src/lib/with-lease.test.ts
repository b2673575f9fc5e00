import { describe, expect, it, vi } from 'vitest';
import { leaseOf } from './lease.suite.ts';
import { LeaseTable, MemoryLeases } from './memory-leases.fixture.ts';
import { leaseAfterWait, withLease } from './with-lease.ts';

function twoProcesses(): readonly [MemoryLeases, MemoryLeases] {
  const table = new LeaseTable();
  return [new MemoryLeases(table), new MemoryLeases(table, { address: 'theirs, a process' })];
}

describe('work under a Lease', () => {
  it('excludes others until it has ended', async () => {
    const [ours, theirs] = twoProcesses();
    const result = await withLease(ours, 'gc', async lease => {
      expect(await theirs.acquireLease('gc')).toBeUndefined();
      return lease.key;
    });
    expect(result).toBe('gc');
    expect(await theirs.readLease('gc')).toBeUndefined();
  });

  it('that fails gives the Lease back, too', async () => {
    const [ours, theirs] = twoProcesses();
    const failing = withLease(ours, 'gc', async () => {
      throw new Error('no');
    });
    await expect(failing).rejects.toThrow('no');
    expect(await theirs.acquireLease('gc')).toMatchObject({ left: undefined });
  });

  it('does not run while another process holds the Lease, and runs as soon as that has released it', async () => {
    const [ours, theirs] = twoProcesses();
    const lease = await leaseOf(theirs, 'gc');
    const steps: string[] = [];
    const work = async (): Promise<void> => {
      steps.push('work');
    };
    await withLease(ours, 'gc', work);
    const mayWait = (waitedMs: number): boolean => {
      steps.push(`waited ${waitedMs} ms`);
      if (waitedMs === 1) void theirs.release(lease);
      return true;
    };
    await withLease(ours, 'gc', work, { mayWait, pollMs: 1 });
    expect(steps).toEqual(['waited 0 ms', 'waited 1 ms', 'work']);
  });
});

describe('waiting for a Lease', () => {
  it('ends when the wait has been long enough, and says once for whom', async () => {
    const [ours, theirs] = twoProcesses();
    await theirs.acquireLease('gc');
    const asked: number[] = [];
    const onWait = vi.fn<(holder: string | undefined) => void>();
    const mayWait = (waitedMs: number): boolean => {
      asked.push(waitedMs);
      return waitedMs < 2;
    };
    expect(await leaseAfterWait(ours, 'gc', { mayWait, onWait, pollMs: 1 })).toBeUndefined();
    expect(asked).toEqual([0, 1, 2]);
    expect(onWait.mock.calls).toEqual([['theirs, a process']]);
  });

  it('ends when it is aborted', async () => {
    const [ours, theirs] = twoProcesses();
    await theirs.acquireLease('gc');
    const aborting = new AbortController();
    const waiting = leaseAfterWait(ours, 'gc', { mayWait: () => true, signal: aborting.signal });
    aborting.abort();
    await expect(waiting).rejects.toMatchObject({ name: 'AbortError' });
  });
});
