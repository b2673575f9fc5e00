/** A piece of work that is shared by everybody who asks for it while it runs. */
export interface Flight<T> {
  readonly promise: Promise<T>;
  /** Whether another caller had started it. */
  readonly joined: boolean;
}

/**
 * Runs work once per key at a time: callers that ask while it runs share its result or failure. Nothing is remembered
 * afterwards. No caller can abort it; see `unlessAborted` for leaving early.
 */
export class SingleFlight<T> {
  readonly #running = new Map<string, Promise<T>>();

  run(key: string, start: () => Promise<T>): Flight<T> {
    const running = this.#running.get(key);
    if (running !== undefined) return { promise: running, joined: true };
    // If `start` throws synchronously, that becomes a rejection, which those who join get as well.
    const promise = (async () => start())().finally(() => this.#running.delete(key));
    this.#running.set(key, promise);
    return { promise, joined: false };
  }

  /** How many pieces of work are running. */
  get size(): number {
    return this.#running.size;
  }
}

/**
 * The result of `promise`, or a rejection with the signal's reason as soon as it aborts. The work behind `promise`
 * continues.
 */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
    void promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
