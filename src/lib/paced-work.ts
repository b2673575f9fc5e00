import { setTimeout as sleep } from 'node:timers/promises';

/** The longest pause: Prometheus gives up after some seconds. */
const MAX_PAUSE_MS = 1_000;

/** Each run is followed by a pause of this many times its duration. */
const PAUSE_FACTOR = 9;

/**
 * Work that may be requested at any rate, but takes at most a tenth of the time: one run serves all requests that are
 * waiting. Results are not cached: each request gets the result of a run that began after it.
 */
export class PacedWork<T> {
  readonly #work: () => Promise<T>;
  #next: Promise<T> | undefined;
  /** Never rejects. */
  #running: Promise<unknown> = Promise.resolve();
  #notBeforeMs = Number.NEGATIVE_INFINITY;

  constructor(work: () => Promise<T>) {
    this.#work = work;
  }

  ask(): Promise<T> {
    this.#next ??= this.#inTurn();
    return this.#next;
  }

  async #inTurn(): Promise<T> {
    await this.#running;
    const pauseMs = this.#notBeforeMs - performance.now();
    if (pauseMs > 0) await sleep(pauseMs);
    this.#next = undefined;
    const run = this.#run();
    this.#running = run.catch(() => {});
    return run;
  }

  async #run(): Promise<T> {
    const beganAtMs = performance.now();
    try {
      return await this.#work();
    } finally {
      const endedAtMs = performance.now();
      this.#notBeforeMs = endedAtMs + Math.min(MAX_PAUSE_MS, (endedAtMs - beganAtMs) * PAUSE_FACTOR);
    }
  }
}
