/** Upper bounds of the classes of times, in ms: each half as long again as the one before, from half a millisecond on. */
const BOUNDS_MS: readonly number[] = Array.from({ length: 28 }, (_, at) => 0.5 * 1.5 ** at);
/** Times are kept for an hour, in parts of which the oldest is forgotten. */
const PART_MS = 5 * 60_000;
const PARTS = 12;

/** How long clients waited for the first byte of content of an upstream, in the last hour. It can be cloned. */
export interface FirstByteCounts {
  /** As in the label of the metric: `none` for hosted content. */
  readonly upstream: string;
  /** As in `Outcome`. */
  readonly outcome: string;
  /** How many took so long, by class. */
  readonly counts: readonly number[];
}

/** What the counts say. */
export interface FirstByteSummary {
  readonly count: number;
  /** So many ms at most took half of them, nine of ten, and 99 of a hundred; half as long again at worst. */
  readonly p50Ms: number;
  readonly p90Ms: number;
  readonly p99Ms: number;
}

interface Part {
  /** Since the start of the process. */
  readonly number: number;
  readonly counts: Uint32Array;
}

/**
 * How long clients waited for the first byte of content, by upstream and cache result, as a histogram of the last hour.
 * Prometheus has the same for as long as it likes; this is for those who have none.
 */
export class FirstByteTimes {
  readonly #monotonicMs: () => number;
  /** By upstream, then outcome; of each, the parts of the last hour by their numbers modulo PARTS. */
  readonly #series = new Map<string, Map<string, (Part | undefined)[]>>();

  constructor(monotonicMs: () => number = () => performance.now()) {
    this.#monotonicMs = monotonicMs;
  }

  note({ upstream, outcome }: Pick<FirstByteCounts, 'upstream' | 'outcome'>, ms: number): void {
    const ofUpstream = this.#series.get(upstream) ?? new Map<string, (Part | undefined)[]>();
    this.#series.set(upstream, ofUpstream);
    const parts = ofUpstream.get(outcome) ?? [];
    ofUpstream.set(outcome, parts);
    const number = this.#partNow();
    let part = parts[number % PARTS];
    if (part?.number !== number) {
      part = { number, counts: new Uint32Array(BOUNDS_MS.length) };
      parts[number % PARTS] = part;
    }
    const at = classOf(ms);
    part.counts[at] = (part.counts[at] ?? 0) + 1;
  }

  /** Of the last hour. */
  get counts(): readonly FirstByteCounts[] {
    const oldest = this.#partNow() - PARTS + 1;
    return [...this.#series].flatMap(([upstream, ofUpstream]) =>
      [...ofUpstream].map(([outcome, parts]) => ({
        upstream,
        outcome,
        counts: parts
          .filter(part => part !== undefined && part.number >= oldest)
          .reduce((sum, part) => sumOf(sum, [...(part?.counts ?? [])]), NOTHING),
      })),
    );
  }

  #partNow(): number {
    return Math.floor(this.#monotonicMs() / PART_MS);
  }
}

const NOTHING: readonly number[] = BOUNDS_MS.map(() => 0);

/** What several processes, or upstreams, have counted together; `undefined` if nothing. */
export function firstByteSummary(all: readonly FirstByteCounts[]): FirstByteSummary | undefined {
  const counts = all.reduce((sum, each) => sumOf(sum, each.counts), NOTHING);
  const count = counts.reduce((sum, each) => sum + each, 0);
  if (count === 0) return undefined;
  const percentile = (share: number) => boundOf(counts, Math.ceil(count * share));
  return { count, p50Ms: percentile(0.5), p90Ms: percentile(0.9), p99Ms: percentile(0.99) };
}

function sumOf(one: readonly number[], other: readonly number[]): readonly number[] {
  return one.map((count, at) => count + (other[at] ?? 0));
}

function classOf(ms: number): number {
  const at = BOUNDS_MS.findIndex(bound => ms <= bound);
  return at === -1 ? BOUNDS_MS.length - 1 : at;
}

/** The bound of the class in which the so-manieth is, with two digits. */
function boundOf(counts: readonly number[], rank: number): number {
  let sum = 0;
  const at = counts.findIndex(count => (sum += count) >= rank);
  return Number((BOUNDS_MS[at] ?? 0).toPrecision(2));
}
