/** The events of a key within some time: the first ones, and their number. */
export interface PacedEvents<Event> {
  /** At most `MAX_EVENTS`. */
  readonly events: readonly Event[];
  readonly count: number;
}

/** How many events of a group are kept. */
const MAX_EVENTS = 10;

const EVERY_MS = 60_000;

interface Waiting<Event> {
  readonly events: Event[];
  count: number;
}

/**
 * Limits log lines about events that others can cause at any rate: for each key the first event is reported at once,
 * and what follows within a minute together at its end.
 */
export class PacedLines<Event> {
  readonly #write: (key: string, told: PacedEvents<Event>) => void;
  readonly #everyMs: number;
  readonly #waiting = new Map<string, Waiting<Event>>();
  readonly #timers = new Set<NodeJS.Timeout>();

  constructor(write: (key: string, told: PacedEvents<Event>) => void, everyMs: number = EVERY_MS) {
    this.#write = write;
    this.#everyMs = everyMs;
  }

  note(key: string, event: Event): void {
    this.noteAll(key, [event]);
  }

  /** Events that came together are reported together. */
  noteAll(key: string, events: readonly Event[]): void {
    if (events.length === 0) return;
    const waiting = this.#waiting.get(key);
    if (waiting === undefined) {
      this.#write(key, { events: events.slice(0, MAX_EVENTS), count: events.length });
      this.#wait(key);
    } else {
      waiting.count += events.length;
      waiting.events.push(...events.slice(0, MAX_EVENTS - waiting.events.length));
    }
  }

  /** Reports what was not reported yet. */
  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const key of this.#waiting.keys()) this.#tell(key);
  }

  #wait(key: string): void {
    this.#waiting.set(key, { events: [], count: 0 });
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (this.#tell(key)) this.#wait(key);
    }, this.#everyMs);
    timer.unref();
    this.#timers.add(timer);
  }

  #tell(key: string): boolean {
    const waiting = this.#waiting.get(key);
    this.#waiting.delete(key);
    if (waiting === undefined || waiting.count === 0) return false;
    this.#write(key, waiting);
    return true;
  }
}
