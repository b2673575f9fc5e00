/** What runs for a key, and what runs next for those who came meanwhile. */
interface Line<T> {
  readonly running: Promise<T>;
  next: Promise<T> | undefined;
}

/**
 * Runs work once per key at a time, as SingleFlight does, for callers who need what is true when they call: what runs already
 * may have looked before. So those who come while it runs share the next run, which begins when that one has ended, however it
 * ends.
 */
export class FreshFlight<T> {
  readonly #lines = new Map<string, Line<T>>();

  /** The result or failure of a run of `start` that begins after this call. All callers of a key pass equal work. */
  run(key: string, start: () => Promise<T>): Promise<T> {
    const line = this.#lines.get(key);
    if (line === undefined) return this.#begin(key, start);
    const begin = () => this.#begin(key, start);
    line.next ??= line.running.then(begin, begin);
    return line.next;
  }

  #begin(key: string, start: () => Promise<T>): Promise<T> {
    const running = (async () => start())();
    const line: Line<T> = { running, next: undefined };
    this.#lines.set(key, line);
    const end = () => {
      if (line.next === undefined) this.#lines.delete(key);
    };
    running.then(end, end);
    return running;
  }
}
