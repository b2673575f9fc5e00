import { setTimeout as delay } from 'node:timers/promises';

export interface JitteredRetry {
  /** Which errors are retried; any other is thrown at once. */
  readonly isRetryable: (error: unknown) => boolean;
  /**
   * The shortest and longest delay between two attempts; each is chosen at random, so that competitors do not act in
   * step.
   */
  readonly minDelayMs: number;
  readonly maxDelayMs: number;
  /** After this time, `gaveUp` turns the last error into the one that is thrown. */
  readonly deadlineMs: number;
  readonly gaveUp: (cause: unknown) => Error;
}

/**
 * Calls `attempt` until it succeeds, throws another error, or the deadline has passed. The event loop is free in
 * between. If it returns a promise, it has succeeded: what that rejects with is not retried.
 */
export async function retryJittered<T>(attempt: () => T | Promise<T>, retry: JitteredRetry): Promise<T> {
  const startedAtMs = performance.now();
  for (;;) {
    try {
      return attempt();
    } catch (error) {
      if (!retry.isRetryable(error)) {
        throw error;
      }
      if (performance.now() - startedAtMs > retry.deadlineMs) {
        throw retry.gaveUp(error);
      }
    }
    await delay(retry.minDelayMs + Math.random() * (retry.maxDelayMs - retry.minDelayMs));
  }
}
