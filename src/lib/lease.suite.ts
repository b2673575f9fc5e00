import type { Lease, LeftLease } from './lease.ts';

/** A Lease that is never lost, for tests of what works under one. `left`: who had it before. */
export function steadyLease(key: string, epoch = 1, left?: LeftLease): Lease {
  return { key, epoch, left, confirm: () => undefined };
}
