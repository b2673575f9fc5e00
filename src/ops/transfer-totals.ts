import type { Log } from '../lib/log.ts';
import type { Labels, Meter } from '../lib/meter.ts';

/**
 * Bytes of mirrored content that were sent to clients, and that were fetched from upstreams. The difference is what the
 * mirror saved.
 */
export interface Transferred {
  readonly sentBytes: number;
  readonly fetchedBytes: number;
}

/** The totals in the store, over all processes that ever ran on it. */
export interface KeptTransfers extends Transferred {
  /** When counting began. Epoch ms. */
  readonly sinceMs: number;
}

/** Stores totals; implemented on the index. */
export interface TransferKeeper {
  /** `undefined` if nothing was saved yet. */
  read(): Promise<KeptTransfers | undefined>;
  /** Adds to the saved totals. False if another process did so at the same time: try again. */
  add(more: Transferred): Promise<boolean>;
}

/** How much of the totals a crash may lose. An idle server writes nothing. */
const KEEP_EACH_MS = 60_000;

const COUNTED = {
  http_sent_bytes_total: 'sentBytes',
  bytes_from_upstream_total: 'fetchedBytes',
} as const satisfies Record<string, keyof Transferred>;

/** A meter that also counts what was saved, and stores it regularly, so that it survives restarts. */
export class TransferTotals implements Meter {
  readonly #meter: Meter;
  readonly #isMirrored: (upstream: string) => boolean;
  readonly #sinceStart = { sentBytes: 0, fetchedBytes: 0 };
  readonly #kept = { sentBytes: 0, fetchedBytes: 0 };
  #timer: NodeJS.Timeout | undefined;
  #keeping: { readonly keeper: TransferKeeper; readonly log: Log } | undefined;
  /** One write at a time: two at once would store the same bytes twice. */
  #flushed = Promise.resolve();

  /** `isMirrored`: hosted content is not counted, since nothing is saved. */
  constructor(meter: Meter, isMirrored: (upstream: string) => boolean) {
    this.#meter = meter;
    this.#isMirrored = isMirrored;
  }

  count(name: string, labels: Labels = {}, amount = 1): void {
    this.#meter.count(name, labels, amount);
    this.#add(name, labels, amount);
  }

  counter(name: string, labels: Labels = {}): (amount?: number) => void {
    const add = this.#meter.counter(name, labels);
    return (amount = 1) => {
      add(amount);
      this.#add(name, labels, amount);
    };
  }

  gauge(name: string, value: number | undefined, labels?: Labels): void {
    this.#meter.gauge(name, value, labels);
  }

  observe(name: string, value: number, labels?: Labels): void {
    this.#meter.observe(name, value, labels);
  }

  get sinceStart(): Transferred {
    return { ...this.#sinceStart };
  }

  /** Including what other processes have saved. `sinceMs` is `undefined` if nothing was saved yet. */
  async inAll(): Promise<Transferred & { readonly sinceMs: number | undefined }> {
    const kept = await this.#keeping?.keeper.read();
    const more = this.unkept;
    return {
      sinceMs: kept?.sinceMs,
      sentBytes: (kept?.sentBytes ?? 0) + more.sentBytes,
      fetchedBytes: (kept?.fetchedBytes ?? 0) + more.fetchedBytes,
    };
  }

  /** Saves the totals regularly from now on, until `close`. */
  keep(keeper: TransferKeeper, log: Log): void {
    this.#keeping = { keeper, log };
    this.#timer = setInterval(() => void this.#flush(), KEEP_EACH_MS).unref();
  }

  /** Saves what was counted since the last time. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    await this.#flush();
  }

  #add(name: string, labels: Labels, amount: number): void {
    const counted = name === 'http_sent_bytes_total' || name === 'bytes_from_upstream_total';
    if (counted && this.#isMirrored(labels['upstream'] ?? '')) this.#sinceStart[COUNTED[name]] += amount;
  }

  #flush(): Promise<void> {
    this.#flushed = this.#flushed.then(() => this.#keepMore());
    return this.#flushed;
  }

  async #keepMore(): Promise<void> {
    const more = this.unkept;
    if (this.#keeping === undefined || (more.sentBytes === 0 && more.fetchedBytes === 0)) return;
    const { keeper, log } = this.#keeping;
    try {
      if (!(await keeper.add(more))) return;
      this.#kept.sentBytes += more.sentBytes;
      this.#kept.fetchedBytes += more.fetchedBytes;
    } catch (error) {
      // It is only a number for people: it is retried, and does not stop anything.
      log.warn({ err: error }, 'transfer totals could not be saved and will be retried');
    }
  }

  /** What was counted and is not saved yet. */
  get unkept(): Transferred {
    return {
      sentBytes: this.#sinceStart.sentBytes - this.#kept.sentBytes,
      fetchedBytes: this.#sinceStart.fetchedBytes - this.#kept.fetchedBytes,
    };
  }
}
