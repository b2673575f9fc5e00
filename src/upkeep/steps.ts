import { setTimeout as sleep } from 'node:timers/promises';

/** Rows in one transaction: it holds the write lock, and the event loop, for about 3 ms. */
const ROWS_PER_STEP = 20;
/** Between two steps, for those who wait for the write lock: they lose an eighth of it to upkeep at most. */
export const PAUSE_MS = 20;

/**
 * Calls `transact` with all of `items`, a few at a time and with pauses, in which `afterwards` works on what it made.
 * Rejects when `signal` aborts, between two steps.
 */
export async function inSteps<T, Done>(
  items: readonly T[],
  signal: AbortSignal | undefined,
  transact: (step: readonly T[]) => Promise<Done>,
  afterwards: (done: Done) => Promise<void> | void = () => {},
): Promise<void> {
  for (let at = 0; at < items.length; at += ROWS_PER_STEP) {
    signal?.throwIfAborted();
    const done = await transact(items.slice(at, at + ROWS_PER_STEP));
    await Promise.all([afterwards(done), sleep(PAUSE_MS)]);
  }
}
