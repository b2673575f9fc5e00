import { setTimeout as sleep } from 'node:timers/promises';

/** Rows in one transaction: it holds the write lock, and the event loop, for about 3 ms. */
const ROWS_PER_STEP = 20;
/** Between two steps, for those who wait for the write lock: they lose an eighth of it to upkeep at most. */
const PAUSE_MS = 20;

/** Does `work` on all of `items`, a few at a time and with pauses. Rejects when `signal` aborts, between two steps. */
export async function inSteps<T>(
  items: readonly T[],
  signal: AbortSignal | undefined,
  work: (step: readonly T[]) => Promise<void>,
): Promise<void> {
  for (let at = 0; at < items.length; at += ROWS_PER_STEP) {
    signal?.throwIfAborted();
    await work(items.slice(at, at + ROWS_PER_STEP));
    await sleep(PAUSE_MS);
  }
}
