import type { LoopLoad } from '../../lib/loop-load.ts';
import type { Meter } from '../../lib/meter.ts';

/** Over which time a rate is measured, and how many of them in a row make a measurement: a third of a second is noise. */
const WINDOW_MS = 300;
const WINDOWS = 2;
/** How many measurements a further connection has to show that it helps: a busy moment of the machine spoils one or two. */
const MEASUREMENTS = 5;
/** What a further connection must bring, as a share of what one brings. Less is noise, or is taken from other downloads. */
const MIN_GAIN = 0.3;
/** A rate that still rises by more says nothing: TCP connections take some round trips to become fast. */
const STEADY = 1.2;
/** A connection that has not been judged by then is given up: it does not begin, or others come and go all the time. */
const TRIAL_MS = 5_000;
/**
 * Above this share of the time, this process itself is the bottleneck: what upstream sends waits for it in the network, another
 * connection brings nothing, and the response that is then broken off has brought most.
 */
const MAX_LOAD = 0.8;
/** For how long the process must not have been busy: a busy one has moments, too, in which it waits for something. */
const CALM_MS = 2_000;
/** How long it is remembered how many connections were enough. Networks and their users change. */
const REMEMBERED_MS = 10 * 60_000;
/** How long no other is tried after one that could not be judged. */
const UNJUDGED_MS = 60_000;

/** A further connection of a download. */
export interface Further {
  /** `queued` until it has a place, `waiting` until it brings bytes. */
  readonly state: 'queued' | 'waiting' | 'running' | 'over';
  end(): void;
}

/** A download from the upstream. */
export interface Sharer {
  /** How many connections it has, those that are only beginning included. */
  readonly connections: number;
  /** Whether another connection could be of use to it. */
  readonly mayGrow: boolean;
  grow(): Further;
  /** Gives one of its further connections up. */
  shrink(): void;
  /** Called at the end of each window. Returns how many bytes it has received in it. */
  measured(windowMs: number): number;
}

interface Trial {
  readonly further: Further;
  readonly bytesPerSecond: number;
  readonly connections: number;
  readonly atMs: number;
  measurements: number;
}

/**
 * Finds out how many connections to one upstream are worth having, one at a time: a further one is kept if all downloads
 * together become faster by it. If they do not, it would only take from the others, so it is given up, or another download
 * that has more gives one up for it.
 */
export class ConnectionTrials {
  readonly #meter: Meter;
  readonly #labels: { readonly upstream: string };
  readonly #load: LoopLoad;
  readonly #sharers = new Set<Sharer>();
  #connections = 0;
  #further = 0;
  /** Rates of the last windows in which no connection came or went, nor was this process busy, bytes per second. */
  #rates: number[] = [];
  #hasChanged = false;
  #windowAtMs = 0;
  #busyAtMs = Number.NEGATIVE_INFINITY;
  #trial: Trial | undefined;
  #enough: { readonly connections: number; readonly untilMs: number } | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** `load`: of this process. */
  constructor(upstream: string, meter: Meter, load: LoopLoad) {
    this.#meter = meter;
    this.#load = load;
    this.#labels = { upstream };
  }

  /** A download begins to receive bytes. Returns the way to end that. */
  enter(sharer: Sharer): () => void {
    this.#sharers.add(sharer);
    this.#count(1, 0);
    if (this.#timer === undefined) {
      this.#windowAtMs = performance.now();
      this.#load();
      this.#timer = setInterval(() => this.#tick(), WINDOW_MS).unref();
    }
    return () => {
      if (!this.#sharers.delete(sharer)) return;
      this.#count(-1, 0);
      if (this.#sharers.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
      this.#trial = undefined;
    };
  }

  /** A further connection begins to bring bytes. Returns the way to end that. */
  opened(): () => void {
    this.#count(1, 1);
    return () => this.#count(-1, -1);
  }

  /** Upstream does not want several connections for a blob, or gets them wrong. */
  refuse(): void {
    this.#enough = { connections: 0, untilMs: performance.now() + REMEMBERED_MS };
  }

  #count(change: number, further: number): void {
    this.#connections += change;
    this.#hasChanged = true;
    if (further === 0) return;
    this.#further += further;
    this.#meter.gauge('fill_further_connections', this.#further, this.#labels);
  }

  #tick(): void {
    const nowMs = performance.now();
    const windowMs = nowMs - this.#windowAtMs;
    this.#windowAtMs = nowMs;
    if (this.#load() > MAX_LOAD) this.#busyAtMs = nowMs;
    let bytes = 0;
    for (const sharer of this.#sharers) bytes += sharer.measured(windowMs);
    if (this.#hasChanged || nowMs - this.#busyAtMs < CALM_MS) this.#rates = [];
    else this.#rates = [...this.#rates, (bytes * 1000) / Math.max(1, windowMs)].slice(-WINDOWS);
    this.#hasChanged = false;
    if (this.#trial === undefined) this.#tryOne(nowMs);
    else this.#judge(this.#trial, nowMs);
  }

  /** The present rate, bytes per second; `undefined` if it is not known, or may still rise by itself. */
  get #bytesPerSecond(): number | undefined {
    const [first = 0, ...others] = this.#rates;
    const last = others.at(-1);
    // In a moment in which nothing comes, anything would be faster.
    if (last === undefined || first + last === 0 || last > first * STEADY) return undefined;
    return (first + last) / 2;
  }

  #tryOne(nowMs: number): void {
    const bytesPerSecond = this.#bytesPerSecond;
    if (bytesPerSecond === undefined) return;
    const [sharer] = [...this.#sharers].filter(({ mayGrow }) => mayGrow).toSorted(byConnections);
    if (sharer === undefined) return;
    const { connections: enough = Number.POSITIVE_INFINITY, untilMs = 0 } = this.#enough ?? {};
    if (this.#connections >= enough && nowMs < untilMs) {
      if (enough > 0 && this.#takeFromRichest(sharer.connections)) sharer.grow();
      return;
    }
    const connections = this.#connections;
    this.#trial = { further: sharer.grow(), bytesPerSecond, connections, atMs: nowMs, measurements: 0 };
  }

  #judge(trial: Trial, nowMs: number): void {
    const { further, bytesPerSecond: before, connections, atMs } = trial;
    const isLate = nowMs - atMs > TRIAL_MS;
    const after = this.#rates.length < WINDOWS ? undefined : mean(this.#rates);
    if (further.state === 'running' && after !== undefined) {
      trial.measurements += 1;
      if (after >= before * (1 + MIN_GAIN / connections)) {
        this.#trial = undefined;
        this.#tryOne(nowMs);
        return;
      }
      if (trial.measurements < MEASUREMENTS) return;
      this.#trial = undefined;
      this.#remember(connections);
      const poorest = [...this.#sharers].toSorted(byConnections)[0]?.connections ?? 0;
      if (!this.#takeFromRichest(poorest)) further.end();
    } else if (further.state === 'over' || isLate) {
      this.#trial = undefined;
      if (further.state === 'waiting' || further.state === 'running')
        this.#remember(connections, UNJUDGED_MS);
      further.end();
    }
  }

  /** Has the download with most connections give one up for one that has this many. False if it would then have fewer. */
  #takeFromRichest(connections: number): boolean {
    const richest = [...this.#sharers].toSorted(byConnections).at(-1);
    if (richest === undefined || richest.connections - connections < 2) return false;
    richest.shrink();
    return true;
  }

  /** Does not replace a refusal, which may have come during the trial. */
  #remember(connections: number, forMs = REMEMBERED_MS): void {
    const nowMs = performance.now();
    if (this.#enough?.connections === 0 && nowMs < this.#enough.untilMs) return;
    this.#enough = { connections, untilMs: nowMs + forMs };
  }
}

function byConnections(one: Sharer, other: Sharer): number {
  return one.connections - other.connections;
}

function mean(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
}
