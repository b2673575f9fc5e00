import { setTimeout as sleep } from 'node:timers/promises';

/** Rows per transaction, which holds the write lock, and blocks the event loop, for about 3 ms. */
const ROWS_PER_STEP = 20;
/** The pause between two steps for others that need the write lock: upkeep takes at most an eighth of it. */
export const PAUSE_MS = 20;

/**
 * Calls `transact` with all `items`, a few at a time. In the pauses, `afterwards` works on its results. Rejects between
 * two steps when `signal` aborts.
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
