import { backoffMs, jittered } from '../../lib/backoff.ts';

export interface SettleQueueOptions {
  /** Makes the current state of a namespace take effect. Rejects if that is not possible now; it is then retried. */
  readonly settle: (namespace: string) => Promise<void>;
  /** Called with the reason for which a namespace cannot be settled now; `undefined` when all can. */
  readonly onProblem: (reason: string | undefined) => void;
}

/** Changes come in bursts, such as `kubectl apply` of a folder. */
const SETTLE_MS = 50;

/** A slow namespace occupies one of these places. */
const AT_ONCE = 8;

const RETRY = { firstMs: 250, maxMs: 5_000 } as const;

/** A namespace that changes constantly pauses for a multiple of the time that it took, so that others get more. */
const REST_FACTOR = 5;
const MAX_REST_MS = 2_000;

/** How long a caller that waits for all of them waits for one. */
const LATE_MS = 10_000;

interface Failure {
  readonly count: number;
  readonly reason: string;
}

/** Namespaces with changes that have not taken effect yet. Each is settled soon, and never twice at a time. */
export class SettleQueue {
  readonly #options: SettleQueueOptions;
  /** The earliest time for each. */
  readonly #dueAtMs = new Map<string, number>();
  readonly #running = new Set<string>();
  /** Changed while they were being settled. */
  readonly #again = new Set<string>();
  readonly #restUntilMs = new Map<string, number>();
  readonly #failures = new Map<string, Failure>();
  readonly #untried = new Set<string>();
  #tried = () => {};
  #ended = () => {};
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(options: SettleQueueOptions) {
    this.#options = options;
  }

  add(namespaces: Iterable<string>): void {
    for (const name of namespaces) {
      if (this.#running.has(name)) this.#again.add(name);
      else if (!this.#dueAtMs.has(name)) this.#dueAtMs.set(name, this.#restedAtMs(name, SETTLE_MS));
    }
    this.#pump();
  }

  /** Settles these at once; resolves when each was tried. */
  async addAtOnce(namespaces: Iterable<string>): Promise<void> {
    if (this.#isClosed) return;
    for (const name of namespaces) {
      this.#untried.add(name);
      this.#dueAtMs.set(name, 0);
    }
    if (this.#untried.size === 0) return;
    const tried = new Promise<void>(resolve => (this.#tried = resolve));
    this.#pump();
    await tried;
  }

  /** How many namespaces of `addAtOnce` were not tried yet. */
  get untried(): number {
    return this.#untried.size;
  }

  /** Starts nothing more; resolves when what was started has ended. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    this.#tried();
    if (this.#running.size > 0) await new Promise<void>(resolve => (this.#ended = resolve));
  }

  #pump(): void {
    if (this.#isClosed) return;
    clearTimeout(this.#timer);
    const nowMs = performance.now();
    let nextAtMs = Number.POSITIVE_INFINITY;
    for (const [name, atMs] of this.#dueAtMs) {
      if (this.#running.size >= AT_ONCE) return;
      if (atMs <= nowMs) void this.#run(name);
      else nextAtMs = Math.min(nextAtMs, atMs);
    }
    if (nextAtMs === Number.POSITIVE_INFINITY) return;
    this.#timer = setTimeout(() => this.#pump(), nextAtMs - nowMs).unref();
  }

  async #run(name: string): Promise<void> {
    this.#dueAtMs.delete(name);
    this.#running.add(name);
    const late = setTimeout(() => this.#noteTried(name), LATE_MS).unref();
    const startMs = performance.now();
    try {
      await this.#options.settle(name);
      this.#failures.delete(name);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.#failures.set(name, { count: (this.#failures.get(name)?.count ?? 0) + 1, reason });
    }
    clearTimeout(late);
    const nowMs = performance.now();
    this.#running.delete(name);
    this.#restUntilMs.set(name, nowMs + Math.min(MAX_REST_MS, REST_FACTOR * (nowMs - startMs)));
    this.#goOn(name);
  }

  #goOn(name: string): void {
    this.#noteTried(name);
    if (this.#isClosed) {
      if (this.#running.size === 0) this.#ended();
      return;
    }
    const failure = this.#failures.get(name);
    const [first] = this.#failures.values();
    this.#options.onProblem(first?.reason);
    const isAgain = this.#again.delete(name);
    if (failure !== undefined) {
      this.#dueAtMs.set(name, this.#restedAtMs(name, jittered(backoffMs(RETRY, failure.count))));
    } else if (isAgain) {
      this.#dueAtMs.set(name, this.#restedAtMs(name, SETTLE_MS));
    }
    this.#pump();
  }

  #noteTried(name: string): void {
    if (this.#untried.delete(name) && this.#untried.size === 0) this.#tried();
  }

  #restedAtMs(name: string, waitMs: number): number {
    const restUntilMs = this.#restUntilMs.get(name) ?? 0;
    this.#restUntilMs.delete(name);
    return Math.max(performance.now() + waitMs, restUntilMs);
  }
}
