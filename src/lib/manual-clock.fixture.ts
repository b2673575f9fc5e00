// A Clock that stands still until a test moves it on.
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock, SleepOptions, Timer } from './clock.ts';

export class ManualClock implements Clock {
  #wallMs: number;
  #shortMs = 0;
  #elapsedMs = 0;
  readonly #timers = new Set<ManualTimer>();
  readonly #watchers = new Map<number, Set<() => void>>();

  /** It starts at `wallMs`, epoch ms; by default now. */
  constructor(wallMs: number = Date.now()) {
    this.#wallMs = wallMs;
  }

  readonly nowMs = (): number => this.#wallMs;

  readonly monotonicMs = (): number => this.#elapsedMs;

  readonly after = (delayMs: number, run: () => void): Timer => {
    const timer = new ManualTimer(this.#timers, { delayMs, dueAtMs: this.#elapsedMs + delayMs, run });
    this.#watchers.get(delayMs)?.forEach(tell => tell());
    this.#watchers.delete(delayMs);
    if (delayMs <= this.#shortMs) setImmediate(() => void this.#skipTo(timer));
    return timer;
  };

  readonly sleep = (delayMs: number, { signal }: SleepOptions = {}): Promise<void> =>
    new Promise((resolve, reject) => {
      const abort = () => {
        timer.cancel();
        reject(new DOMException('The operation was aborted', { name: 'AbortError', cause: signal?.reason }));
      };
      const timer = this.after(delayMs, () => {
        signal?.removeEventListener('abort', abort);
        resolve();
      });
      signal?.addEventListener('abort', abort, { once: true });
      if (signal?.aborted === true) abort();
    });

  /**
   * From now on, waits of up to `upToMs` are over at once, also those that have begun, and time moves on with them: for
   * back-offs that the test need not see. Returns the clock.
   */
  skipWaits(upToMs: number): this {
    this.#shortMs = upToMs;
    for (const timer of this.#timers)
      if (timer.delayMs <= upToMs) setImmediate(() => void this.#skipTo(timer));
    return this;
  }

  /** Sets the wall clock alone, as an administrator does. */
  set(wallMs: number): void {
    this.#wallMs = wallMs;
  }

  /** Moves both clocks on by `ms` in which nothing runs, as in a suspended process. Timers are late then. */
  skip(ms: number): void {
    this.#moveTo(this.#elapsedMs + ms);
  }

  /** Moves both clocks on by `ms`. Timers that are due on the way fire at their time, also those that others set. */
  advance(ms: number): Promise<void> {
    return this.#advanceTo(this.#elapsedMs + ms);
  }

  async #advanceTo(untilMs: number): Promise<void> {
    // For what is about to wait.
    await nextTurn();
    for (;;) {
      const next = this.#next();
      if (next === undefined || next.dueAtMs > untilMs) break;
      this.#moveTo(next.dueAtMs);
      next.fire();
      await nextTurn();
    }
    this.#moveTo(untilMs);
  }

  /** Moves on by `delayMs` as soon as somebody waits for exactly that. */
  async pass(delayMs: number): Promise<void> {
    await this.timer(delayMs);
    await this.advance(delayMs);
  }

  /** Resolves when a timer of exactly `delayMs` is set; at once if there is one. */
  timer(delayMs: number): Promise<void> {
    if (this.has(delayMs)) return Promise.resolve();
    return new Promise(resolve => {
      const watchers = this.#watchers.get(delayMs) ?? new Set();
      this.#watchers.set(delayMs, watchers.add(resolve));
    });
  }

  /** Whether a timer of exactly `delayMs` is set. */
  has(delayMs: number): boolean {
    return [...this.#timers].some(timer => timer.delayMs === delayMs);
  }

  /** How many timers are set. */
  get waiting(): number {
    return this.#timers.size;
  }

  /** Of those that are due at the same time, the one that was set first. */
  #next(): ManualTimer | undefined {
    let next: ManualTimer | undefined;
    for (const timer of this.#timers) if (next === undefined || timer.dueAtMs < next.dueAtMs) next = timer;
    return next;
  }

  async #skipTo(timer: ManualTimer): Promise<void> {
    if (this.#timers.has(timer)) await this.#advanceTo(timer.dueAtMs);
  }

  /** Never moves back: late timers are due before now. */
  #moveTo(elapsedMs: number): void {
    const ms = Math.max(0, elapsedMs - this.#elapsedMs);
    this.#wallMs += ms;
    this.#elapsedMs += ms;
  }
}

interface Due {
  readonly delayMs: number;
  readonly dueAtMs: number;
  readonly run: () => void;
}

class ManualTimer implements Timer {
  readonly delayMs: number;
  readonly dueAtMs: number;
  readonly #run: () => void;
  /** Of the clock: has it as long as it is set. */
  readonly #timers: Set<ManualTimer>;

  constructor(timers: Set<ManualTimer>, { delayMs, dueAtMs, run }: Due) {
    this.#timers = timers.add(this);
    this.delayMs = delayMs;
    this.dueAtMs = dueAtMs;
    this.#run = run;
  }

  unref(): this {
    return this;
  }

  cancel(): void {
    this.#timers.delete(this);
  }

  fire(): void {
    this.cancel();
    this.#run();
  }
}
