import { type BackoffSchedule, backoffMs } from './backoff.ts';

/** How many keys are remembered. If more fail, the one that failed longest ago may retry early. */
export const MAX_BACKOFF_KEYS = 10_000;

interface Failure {
  readonly failures: number;
  readonly failedAtMs: number;
}

/**
 * Increasing delays after failures, for each key. Attempts within the delay do not prolong it. After more than twice
 * the longest delay without a failure, a key starts again. Times are passed in, so any clock can be used.
 */
export class KeyedBackoff {
  readonly #schedule: BackoffSchedule;
  /** Longest ago first. */
  readonly #failures = new Map<string, Failure>();

  constructor(schedule: BackoffSchedule) {
    this.#schedule = schedule;
  }

  /** Records a failure, and returns the delay from `nowMs` on. */
  failed(key: string, nowMs: number): number {
    const failures = (this.#current(key, nowMs)?.failures ?? 0) + 1;
    this.#failures.delete(key);
    this.#failures.set(key, { failures, failedAtMs: nowMs });
    this.#forgetOldest();
    return backoffMs(this.#schedule, failures);
  }

  /** How long `key` still has to wait; 0 if it may try. */
  remainingMs(key: string, nowMs: number): number {
    const failure = this.#current(key, nowMs);
    if (failure === undefined) return 0;
    const waitMs = backoffMs(this.#schedule, failure.failures);
    return Math.max(0, failure.failedAtMs + waitMs - nowMs);
  }

  /** Makes `key` start again. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  #current(key: string, nowMs: number): Failure | undefined {
    const failure = this.#failures.get(key);
    const isOver = failure !== undefined && nowMs - failure.failedAtMs > 2 * this.#schedule.maxMs;
    return isOver ? undefined : failure;
  }

  #forgetOldest(): void {
    if (this.#failures.size <= MAX_BACKOFF_KEYS) return;
    const [oldest] = this.#failures.keys();
    if (oldest !== undefined) this.#failures.delete(oldest);
  }
}
