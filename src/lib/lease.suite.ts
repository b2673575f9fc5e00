import type { Lease, LeftLease } from './lease.ts';

/** A Lease that is never lost, for tests. `left`: the previous holder's. */
export function steadyLease(key: string, epoch = 1, left?: LeftLease): Lease {
  return { key, epoch, left, confirm: () => undefined };
}
