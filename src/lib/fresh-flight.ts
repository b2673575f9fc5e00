import { within } from './within.ts';

/** Work that takes longer may hang, as over a connection that has died: those who have come meanwhile do not wait for its end. */
const OVERTAKEN_AFTER_MS = 100;

/** What runs for a key, and what runs next for those who came meanwhile. */
interface Line<T> {
  readonly running: Promise<T>;
  next: Promise<T> | undefined;
}

/**
 * Shares work, as SingleFlight does, among callers who need what is true when they call: what runs already may have looked
 * before. So those who come while it runs share the next run, which begins when that one has ended, however it ends, or after
 * 100 ms.
 */
export class FreshFlight<T> {
  readonly #lines = new Map<string, Line<T>>();

  /** The result or failure of a run of `start` that begins after this call. All callers of a key pass equal work. */
  run(key: string, start: () => Promise<T>): Promise<T> {
    const line = this.#lines.get(key);
    if (line === undefined) return this.#begin(key, start);
    const begin = () => this.#begin(key, start);
    line.next ??= within(line.running, OVERTAKEN_AFTER_MS).then(begin, begin);
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
