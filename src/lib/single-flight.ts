/** One piece of work, shared by all who ask for it while it runs. */
export interface Flight<T> {
  readonly promise: Promise<T>;
  /** Whether somebody else had started it. */
  readonly joined: boolean;
}

/**
 * Work that runs once per key at a time: who asks while it runs shares its result, and its failure. Nothing is
 * remembered afterwards. The work belongs to nobody who waits: see `unlessAborted` for leaving early.
 */
export class SingleFlight<T> {
  readonly #running = new Map<string, Promise<T>>();

  run(key: string, start: () => Promise<T>): Flight<T> {
    const running = this.#running.get(key);
    if (running !== undefined) return { promise: running, joined: true };
    // `start` may throw before its first await: as a rejection, or it would escape those who join.
    const promise = (async () => start())().finally(() => this.#running.delete(key));
    this.#running.set(key, promise);
    return { promise, joined: false };
  }

  /** How many pieces of work are running. */
  get size(): number {
    return this.#running.size;
  }
}

/** `promise`, or a rejection with the signal's reason as soon as it aborts. The work behind `promise` goes on. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
