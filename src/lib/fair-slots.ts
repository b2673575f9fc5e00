export interface FairSlotsOptions {
  /** Pieces of work at once. */
  readonly max: number;
  /** Of these, those of one asker: others find room at once, whatever he asks for. */
  readonly maxPerAsker: number;
  /** Of one asker; who asks for more is refused. */
  readonly maxWaitingPerAsker: number;
}

/** An asker has as much waiting as may. */
export class SlotsFull extends Error {
  override readonly name = 'SlotsFull';
}

interface Line {
  running: number;
  readonly waiting: (() => void)[];
}

/** Bounds pieces of work at once. What has to wait is begun in turns: first whose least runs. */
export class FairSlots {
  readonly #options: FairSlotsOptions;
  /** By asker, in the order of turns: who was served goes to the end. */
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

  /** What `work` gives, once it is `asker`'s turn. Rejects with SlotsFull. */
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

  /** Whose least runs; of several, who has waited longest for a turn. */
  #next(): readonly [asker: string, line: Line] | undefined {
    const { maxPerAsker } = this.#options;
    const ready = [...this.#lines].filter(
      ([, { waiting, running }]) => waiting.length > 0 && running < maxPerAsker,
    );
    const least = Math.min(...ready.map(([, { running }]) => running));
    return ready.find(([, { running }]) => running === least);
  }
}
