import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { silentMeter } from '../../lib/meter.ts';
import { ConnectionTrials, type Further, type Sharer } from './connection-trials.ts';

/** MB/s of one connection, unless it is all that upstream gives. */
const RATE = 25e6;

let trials: ConnectionTrials;
/** What upstream gives over so many connections. */
let rateOf: (connections: number) => number;
let downloads: Download[];
/** Of this process. */
let load: number;

beforeEach(() => {
  vi.useFakeTimers();
  trials = new ConnectionTrials('up.example', silentMeter, () => load);
  rateOf = connections => connections * RATE;
  downloads = [];
  load = 0.5;
});

afterEach(() => {
  for (const download of downloads) download.leave();
  vi.useRealTimers();
});

const connectionsOfAll = (): number => downloads.reduce((sum, { connections }) => sum + connections, 0);

/** A download that gets its connections' share of what upstream gives. */
class Download implements Sharer {
  readonly leave: () => void;
  /** How many further connections it has had. */
  grown = 0;
  mayGrow = true;
  /** Whether its further connections bring anything. */
  isAnswered = true;
  readonly #limit: number;
  #further: { state: Further['state']; end: () => void }[] = [];

  constructor(limit = 4) {
    this.#limit = limit;
    downloads.push(this);
    this.leave = trials.enter(this);
  }

  get connections(): number {
    return 1 + this.#further.length;
  }

  grow(): Further {
    this.grown += 1;
    let close: (() => void) | undefined;
    const further = {
      state: 'waiting' as Further['state'],
      end: (): void => {
        close?.();
        close = undefined;
        further.state = 'over';
        this.#further = this.#further.filter(other => other !== further);
        this.mayGrow = this.connections < this.#limit;
      },
    };
    this.#further.push(further);
    this.mayGrow = this.connections < this.#limit;
    setTimeout(() => {
      if (further.state === 'over' || !this.isAnswered) return;
      further.state = 'running';
      close = trials.opened();
    }, 50);
    return further;
  }

  shrink(): void {
    this.#further.at(-1)?.end();
  }

  measured(windowMs: number): number {
    return ((rateOf(connectionsOfAll()) / connectionsOfAll()) * this.connections * windowMs) / 1000;
  }
}

it('adds one connection after the other, up to the limit, if each makes the download faster', () => {
  const download = new Download(4);
  vi.advanceTimersByTime(10_000);
  expect([download.connections, download.grown]).toEqual([4, 3]);
});

it('adds none before the rate of the first one is known', () => {
  const download = new Download();
  vi.advanceTimersByTime(800);
  expect(download.grown).toBe(0);
  vi.advanceTimersByTime(200);
  expect(download.grown).toBe(1);
});

it('adds none while this process itself is the bottleneck', () => {
  load = 0.95;
  const download = new Download();
  vi.advanceTimersByTime(5_000);
  expect(download.grown).toBe(0);
  load = 0.5;
  vi.advanceTimersByTime(2_000);
  expect(download.grown).toBe(0);
  vi.advanceTimersByTime(800);
  expect(download.grown).toBe(1);
});

it('adds none while the rate rises by itself', () => {
  let factor = 1;
  rateOf = () => (factor *= 1.3) * RATE;
  const download = new Download();
  vi.advanceTimersByTime(5_000);
  expect(download.grown).toBe(0);
});

it('gives up one that does not help, and tries no other for some time, whatever is downloaded', () => {
  rateOf = () => RATE;
  const first = new Download();
  vi.advanceTimersByTime(9 * 60_000);
  expect([first.connections, first.grown]).toEqual([1, 1]);
  first.leave();
  downloads = [];
  const later = new Download();
  vi.advanceTimersByTime(30_000);
  expect(later.grown).toBe(0);
  vi.advanceTimersByTime(60_000);
  expect([later.connections, later.grown]).toEqual([1, 1]);
});

it('keeps those that helped when a further one does not', () => {
  rateOf = connections => Math.min(connections, 2) * RATE;
  const download = new Download();
  vi.advanceTimersByTime(60_000);
  expect([download.connections, download.grown]).toEqual([2, 2]);
});

it('adds none while nothing comes', () => {
  rateOf = () => 0;
  const download = new Download();
  vi.advanceTimersByTime(5_000);
  expect(download.grown).toBe(0);
});

it('adds one for an upstream that sends in bursts', () => {
  let windows = 0;
  rateOf = connections => (windows++ % 3 === 0 ? 3 * connections * RATE : 0);
  const download = new Download(2);
  vi.advanceTimersByTime(10_000);
  expect(download.connections).toBe(2);
});

it('is not misled by a moment in which nothing comes', () => {
  const download = new Download(2);
  vi.advanceTimersByTime(1_200);
  rateOf = () => 0;
  vi.advanceTimersByTime(600);
  rateOf = connections => connections * RATE;
  vi.advanceTimersByTime(3_000);
  expect(download.connections).toBe(2);
});

it('does not wait for one that brings nothing', () => {
  const download = new Download();
  download.isAnswered = false;
  vi.advanceTimersByTime(7_000);
  expect(download.connections).toBe(1);
});

it('shares what upstream gives in all between downloads, however many connections the first one has', () => {
  rateOf = connections => Math.min(connections, 4) * RATE;
  const first = new Download();
  vi.advanceTimersByTime(10_000);
  expect(first.connections).toBe(4);
  const second = new Download();
  vi.advanceTimersByTime(20_000);
  expect(connectionsOfAll()).toBe(5);
  expect(Math.min(first.connections, second.connections)).toBe(2);
});

it('lets downloads grow in turn', () => {
  const [one, other] = [new Download(3), new Download(3)];
  vi.advanceTimersByTime(20_000);
  expect([one.connections, other.connections]).toEqual([3, 3]);
});

it('adds none for some time after upstream has refused one', () => {
  const download = new Download();
  trials.refuse();
  vi.advanceTimersByTime(60_000);
  expect(download.grown).toBe(0);
});

it('does not forget a refusal because a trial ends after it', () => {
  rateOf = connections => Math.min(connections, 2) * RATE;
  const download = new Download();
  vi.advanceTimersByTime(3_000);
  expect(download.connections).toBe(3);
  trials.refuse();
  vi.advanceTimersByTime(3_000);
  expect(download.connections).toBe(2);
  download.shrink();
  download.leave();
  downloads = [];
  const later = new Download();
  vi.advanceTimersByTime(60_000);
  expect(later.grown).toBe(0);
});
