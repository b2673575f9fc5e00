/** What many events of one key come to within a time: the first of them, and how many there were. */
export interface PacedEvents<Event> {
  /** No more than `MAX_EVENTS` of them. */
  readonly events: readonly Event[];
  readonly count: number;
}

/** What is told of those that are told together. */
const MAX_EVENTS = 10;

const EVERY_MS = 60_000;

interface Waiting<Event> {
  readonly events: Event[];
  count: number;
}

/**
 * Lines about what others do, who may do it a thousand times a second: for each key the first event is told at once, and
 * what follows within a minute in one line at its end.
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

  /** Several that came together are told together. */
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

  /** Tells what was not told yet. */
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
