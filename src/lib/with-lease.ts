import { setTimeout as sleep } from 'node:timers/promises';
import type { Lease, Leases } from './lease.ts';

export interface LeaseWait {
  /** Whether to wait on for the holder, `waitedMs` after the first attempt. Never waits if absent. */
  readonly mayWait?: (waitedMs: number) => boolean;
  /** Called once, before a wait, with the holder as in `LeaseState`; `undefined` if it has just let go. */
  readonly onWait?: ((holder: string | undefined) => void) | undefined;
  /** Between two attempts, each of which takes the write lock of the index. */
  readonly pollMs?: number;
  /** Ends a wait, which then rejects. */
  readonly signal?: AbortSignal | undefined;
}

/** Acquires the Lease `key`, if necessary after its holder; `undefined` if that one still holds it after the wait. */
export async function leaseAfterWait(
  leases: Pick<Leases, 'acquireLease' | 'readLease'>,
  key: string,
  { mayWait = () => false, onWait, pollMs = 50, signal }: LeaseWait,
): Promise<Lease | undefined> {
  for (let waitedMs = 0; ; waitedMs += pollMs) {
    const lease = await leases.acquireLease(key);
    if (lease !== undefined || !mayWait(waitedMs)) return lease;
    if (waitedMs === 0) onWait?.((await leases.readLease(key))?.holder);
    await sleep(pollMs, undefined, { signal });
  }
}

/**
 * Runs `work` under the Lease `key`, and releases it when that has ended, however it did. `undefined`, without running
 * it, if another process holds the Lease after the wait.
 */
export async function withLease<T>(
  leases: Pick<Leases, 'acquireLease' | 'readLease' | 'release'>,
  key: string,
  work: (lease: Lease) => Promise<T>,
  wait: LeaseWait = {},
): Promise<T | undefined> {
  const lease = await leaseAfterWait(leases, key, wait);
  if (lease === undefined) return undefined;
  try {
    return await work(lease);
  } finally {
    await leases.release(lease);
  }
}
