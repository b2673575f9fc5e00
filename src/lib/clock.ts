import { setTimeout as sleep } from 'node:timers/promises';

/** How far a correctly kept clock may be set back. Processes on one machine share a clock. */
export const CLOCK_SLACK_MS = 60_000;

/** Time, for parts that wait: the system's, or one that a test moves on. */
export interface Clock {
  /** Epoch ms, by the wall clock, which may be set in either direction. */
  readonly nowMs: () => number;
  /** The ms that have passed since some moment, by a clock that nobody sets. */
  readonly monotonicMs: () => number;
  /** Calls `run` once, `delayMs` from now. */
  readonly after: (delayMs: number, run: () => void) => Timer;
  /** Resolves `delayMs` from now. */
  readonly sleep: (delayMs: number, options?: SleepOptions) => Promise<void>;
}

export interface Timer {
  /** Lets the process end before the timer fires. Returns the timer. */
  unref(): Timer;
  /** Has no effect on a timer that has fired or was cancelled. */
  cancel(): void;
}

export interface SleepOptions {
  /** Ends the sleep, which then rejects with an AbortError. */
  readonly signal?: AbortSignal;
  /** False lets the process end before. Default true. */
  readonly ref?: boolean;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after: (delayMs, run) => new SystemTimer(setTimeout(run, delayMs)),
  sleep: (delayMs, options) => sleep(delayMs, undefined, options),
};

class SystemTimer implements Timer {
  readonly #timeout: NodeJS.Timeout;

  constructor(timeout: NodeJS.Timeout) {
    this.#timeout = timeout;
  }

  unref(): this {
    this.#timeout.unref();
    return this;
  }

  cancel(): void {
    clearTimeout(this.#timeout);
  }
}
