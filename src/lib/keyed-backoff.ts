import { type BackoffSchedule, backoffMs } from './backoff.ts';

/** Keys remembered at once: when more fail, the one that failed longest ago may try again early. */
export const MAX_BACKOFF_KEYS = 10_000;

interface Failure {
  readonly failures: number;
  readonly failedAtMs: number;
}

/**
 * Who failed waits, each key for itself, longer each time; attempts within the wait don't lengthen it. A key that has
 * been quiet for more than twice the longest wait begins anew. Times are handed in, so that any clock will do.
 */
export class KeyedBackoff {
  readonly #schedule: BackoffSchedule;
  /** The longest ago first. */
  readonly #failures = new Map<string, Failure>();

  constructor(schedule: BackoffSchedule) {
    this.#schedule = schedule;
  }

  /** Notes a failure, and says how long to wait from `nowMs` on. */
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

  /** Lets `key` begin anew. */
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
