import { setTimeout as delay } from 'node:timers/promises';

export interface JitteredRetry {
  /** Which errors are worth another attempt; any other is thrown at once. */
  readonly isRetryable: (error: unknown) => boolean;
  /** Shortest and longest pause between two attempts; each pause is drawn anew, so that rivals do not march in step. */
  readonly minDelayMs: number;
  readonly maxDelayMs: number;
  /** After so long what `gaveUp` makes of the last error is thrown. */
  readonly deadlineMs: number;
  readonly gaveUp: (cause: unknown) => Error;
}

/** Calls `attempt` until it succeeds, fails for good, or the deadline has passed. The event loop is free in between. */
export async function retryJittered<T>(attempt: () => T, retry: JitteredRetry): Promise<T> {
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
