import type { Log } from '../lib/log.ts';
import type { Labels, Meter } from '../lib/meter.ts';
import { FirstByteTimes } from './first-byte-times.ts';

/**
 * Bytes of mirrored content that were sent to clients, and that were fetched from upstreams. The difference is what the
 * mirror saved.
 */
export interface Transferred {
  readonly sentBytes: number;
  readonly fetchedBytes: number;
}

/** What clients asked for besides. */
export interface Traffic extends Transferred {
  /** Manifests that clients were given by GET, hosted ones as well. */
  readonly pulls: number;
  /** Answers with content that was stored, or that was being fetched for another client. */
  readonly hits: number;
  /** Answers for which content was fetched. */
  readonly misses: number;
}

/** The totals in the store, over all processes that ever ran on it. */
export interface KeptTransfers extends Transferred {
  /** When counting began. Epoch ms. */
  readonly sinceMs: number;
  /** The traffic of each of the last days on which there was any, by its date in UTC (`2026-01-31`). */
  readonly days: ReadonlyMap<string, Traffic>;
}

/** Stores totals; implemented on the index. */
export interface TransferKeeper {
  /** `undefined` if nothing was saved yet. */
  read(): Promise<KeptTransfers | undefined>;
  /**
   * Adds to the saved totals, and to those of today. False if another process did so at the same time, or the index cannot
   * be reached, which others report: try again.
   */
  add(more: Traffic): Promise<boolean>;
}

export const NO_TRAFFIC: Traffic = { sentBytes: 0, fetchedBytes: 0, pulls: 0, hits: 0, misses: 0 };

/** The sum of both. */
export function trafficSum(one: Traffic, other: Traffic): Traffic {
  return {
    sentBytes: one.sentBytes + other.sentBytes,
    fetchedBytes: one.fetchedBytes + other.fetchedBytes,
    pulls: one.pulls + other.pulls,
    hits: one.hits + other.hits,
    misses: one.misses + other.misses,
  };
}

/** The days, with more traffic of the day that it is now. */
export function withToday(
  days: KeptTransfers['days'],
  more: Traffic,
  nowMs = Date.now(),
): KeptTransfers['days'] {
  if (isNothing(more)) return days;
  const today = new Date(nowMs).toISOString().slice(0, 10);
  return new Map(days).set(today, trafficSum(days.get(today) ?? NO_TRAFFIC, more));
}

function isNothing(traffic: Traffic): boolean {
  return Object.values(traffic).every(amount => amount === 0);
}

/** How much of the totals a crash may lose, and what may count for the next day. An idle server writes nothing. */
const KEEP_EACH_MS = 60_000;

/**
 * A meter that also counts what was saved, and stores it regularly, so that it survives restarts; and how long clients
 * waited in the last hour, which is not stored.
 */
export class TransferTotals implements Meter {
  readonly firstBytes = new FirstByteTimes();
  readonly #meter: Meter;
  readonly #isMirrored: (upstream: string) => boolean;
  readonly #sinceStart = { ...NO_TRAFFIC };
  #kept = NO_TRAFFIC;
  #timer: NodeJS.Timeout | undefined;
  #keeping: { readonly keeper: TransferKeeper; readonly log: Log } | undefined;
  /**
   * One write at a time: two at once would store the same bytes twice. And no read during one: what is being saved would
   * count twice, or not at all.
   */
  #turn: Promise<unknown> = Promise.resolve();

  /** `isMirrored`: hosted content is not counted, since nothing is saved. */
  constructor(meter: Meter, isMirrored: (upstream: string) => boolean) {
    this.#meter = meter;
    this.#isMirrored = isMirrored;
  }

  count(name: string, labels: Labels = {}, amount = 1): void {
    this.#meter.count(name, labels, amount);
    const counted = this.#countedAs(name, labels);
    if (counted !== undefined) this.#sinceStart[counted] += amount;
  }

  counter(name: string, labels: Labels = {}): (amount?: number) => void {
    const add = this.#meter.counter(name, labels);
    const counted = this.#countedAs(name, labels);
    if (counted === undefined) return add;
    return (amount = 1) => {
      add(amount);
      this.#sinceStart[counted] += amount;
    };
  }

  gauge(name: string, value: number | undefined, labels?: Labels): void {
    this.#meter.gauge(name, value, labels);
  }

  observe(name: string, value: number, labels?: Labels): void {
    this.#meter.observe(name, value, labels);
    if (name !== 'http_first_byte_seconds') return;
    const { upstream = '', outcome = '' } = labels ?? {};
    this.firstBytes.note({ upstream, outcome }, value * 1000);
  }

  get sinceStart(): Traffic {
    return { ...this.#sinceStart };
  }

  /** Including what other processes have saved. `sinceMs` is `undefined` if nothing was saved yet. */
  async inAll(): Promise<Omit<KeptTransfers, 'sinceMs'> & { readonly sinceMs: number | undefined }> {
    const [kept, more] = await this.#inTurn(
      async () => [await this.#keeping?.keeper.read(), this.unkept] as const,
    );
    return {
      sinceMs: kept?.sinceMs,
      sentBytes: (kept?.sentBytes ?? 0) + more.sentBytes,
      fetchedBytes: (kept?.fetchedBytes ?? 0) + more.fetchedBytes,
      days: withToday(kept?.days ?? new Map(), more),
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

  /** `undefined` for what is not counted. */
  #countedAs(name: string, labels: Labels): keyof Traffic | undefined {
    switch (name) {
      case 'http_requests_total':
        return labels['route'] === 'manifest' && labels['method'] === 'GET' && labels['status'] === '200'
          ? 'pulls'
          : undefined;
      case 'http_sent_bytes_total':
        return this.#isOfMirror(labels) ? 'sentBytes' : undefined;
      case 'bytes_from_upstream_total':
        return this.#isOfMirror(labels) ? 'fetchedBytes' : undefined;
      case 'http_outcomes_total':
        if (!this.#isOfMirror(labels)) return undefined;
        return labels['outcome'] === 'miss' ? 'misses' : 'hits';
      default:
        return undefined;
    }
  }

  #isOfMirror({ upstream = '' }: Labels): boolean {
    return this.#isMirrored(upstream);
  }

  #flush(): Promise<void> {
    return this.#inTurn(() => this.#keepMore());
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  async #keepMore(): Promise<void> {
    const more = this.unkept;
    if (this.#keeping === undefined || isNothing(more)) return;
    const { keeper, log } = this.#keeping;
    try {
      if (await keeper.add(more)) this.#kept = trafficSum(this.#kept, more);
    } catch (error) {
      // It is only a number for people: it is retried, and does not stop anything.
      log.warn({ err: error }, 'transfer totals could not be saved and will be retried');
    }
  }

  /** What was counted and is not saved yet. */
  get unkept(): Traffic {
    const [all, kept] = [this.#sinceStart, this.#kept];
    return {
      sentBytes: all.sentBytes - kept.sentBytes,
      fetchedBytes: all.fetchedBytes - kept.fetchedBytes,
      pulls: all.pulls - kept.pulls,
      hits: all.hits - kept.hits,
      misses: all.misses - kept.misses,
    };
  }
}
