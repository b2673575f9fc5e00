export interface FairSlotsOptions {
  /** How many pieces of work at once. */
  readonly max: number;
  /** How many of these for one asker, so that others find room at once. */
  readonly maxPerAsker: number;
  /** How many may wait for one asker; further ones are refused. */
  readonly maxWaitingPerAsker: number;
}

/** The asker has too many waiting. */
export class SlotsFull extends Error {
  override readonly name = 'SlotsFull';
}

interface Line {
  running: number;
  readonly waiting: (() => void)[];
}

/**
 * Limits how many pieces of work run at once. Waiting ones begin in turns: next is the asker with the fewest running.
 */
export class FairSlots {
  readonly #options: FairSlotsOptions;
  /** By asker, in the order of turns: an asker goes to the end after its turn. */
  readonly #lines = new Map<string, Line>();
  #running = 0;

  constructor(options: FairSlotsOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return [...this.#lines.values()].reduce((sum, { waiting }) => sum + waiting.length, 0);
  }

  /** The result of `work`, which runs when it is `asker`'s turn. Rejects with SlotsFull. */
  async run<T>(asker: string, work: () => Promise<T>): Promise<T> {
    const line = this.#lines.get(asker) ?? { running: 0, waiting: [] };
    if (line.waiting.length >= this.#options.maxWaitingPerAsker) {
      throw new SlotsFull(`more than ${this.#options.maxWaitingPerAsker} requests are already waiting`);
    }
    this.#lines.set(asker, line);
    await new Promise<void>(resolve => {
      line.waiting.push(resolve);
      this.#serve();
    });
    try {
      return await work();
    } finally {
      this.#running -= 1;
      line.running -= 1;
      if (line.running === 0 && line.waiting.length === 0) this.#lines.delete(asker);
      this.#serve();
    }
  }

  #serve(): void {
    while (this.#running < this.#options.max) {
      const next = this.#next();
      if (next === undefined) return;
      const [asker, line] = next;
      this.#lines.delete(asker);
      this.#lines.set(asker, line);
      this.#running += 1;
      line.running += 1;
      line.waiting.shift()?.();
    }
  }

  /** The asker with the fewest running; of several, the one that has waited longest for a turn. */
  #next(): readonly [asker: string, line: Line] | undefined {
    const { maxPerAsker } = this.#options;
    const ready = [...this.#lines].filter(
      ([, { waiting, running }]) => waiting.length > 0 && running < maxPerAsker,
    );
    const least = Math.min(...ready.map(([, { running }]) => running));
    return ready.find(([, { running }]) => running === least);
  }
}
