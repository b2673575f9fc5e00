/** The bytes from `start` up to, but not including, `end`. */
export interface Extent {
  readonly start: number;
  readonly end: number;
}

/** Extents that can be looked at, but not changed. */
export interface KnownExtents extends Iterable<Extent> {
  /** How many bytes they have in total. */
  readonly bytes: number;
  /** How many there are. */
  readonly count: number;
  /** The first that ends after `position`: it contains it, or begins later. `undefined` if there is none. */
  next(position: number): Extent | undefined;
  /** The parts of `extent` that are not in these, in ascending order. */
  missing(extent: Extent): readonly Extent[];
}

/** A set of bytes, as extents in ascending order that neither overlap nor touch. Empty ones are ignored. */
export class Extents implements KnownExtents {
  readonly #list: Extent[];
  #bytes: number;

  constructor(extents: Iterable<Extent> = []) {
    const isCopy = extents instanceof Extents;
    this.#list = isCopy ? [...extents.#list] : [];
    this.#bytes = isCopy ? extents.#bytes : 0;
    if (!isCopy) this.addAll(extents);
  }

  get bytes(): number {
    return this.#bytes;
  }

  get count(): number {
    return this.#list.length;
  }

  [Symbol.iterator](): Iterator<Extent> {
    return this.#list[Symbol.iterator]();
  }

  /** Adds all of them; returns this. */
  addAll(extents: Iterable<Extent>): this {
    for (const extent of extents) this.add(extent);
    return this;
  }

  /** Adds the bytes of `extent`, whether or not some of them are there. */
  add({ start, end }: Extent): void {
    if (end <= start) return;
    // Most come in ascending order.
    if (start > (this.#list.at(-1)?.end ?? -1)) {
      this.#list.push({ start, end });
      this.#bytes += end - start;
      return;
    }
    const from = this.#firstEndingFrom(start);
    let to = from;
    let [merged, absorbed] = [{ start, end }, 0];
    for (let next = this.#list[to]; next !== undefined && next.start <= end; next = this.#list[to]) {
      merged = { start: Math.min(merged.start, next.start), end: Math.max(merged.end, next.end) };
      absorbed += next.end - next.start;
      to += 1;
    }
    this.#list.splice(from, to - from, merged);
    this.#bytes += merged.end - merged.start - absorbed;
  }

  next(position: number): Extent | undefined {
    return this.#list[this.#firstEndingFrom(position + 1)];
  }

  missing({ start, end }: Extent): readonly Extent[] {
    const gaps: Extent[] = [];
    let position = start;
    for (let at = this.#firstEndingFrom(start + 1); position < end; at += 1) {
      const next = this.#list[at];
      const gapEnd = Math.min(end, next?.start ?? end);
      if (gapEnd > position) gaps.push({ start: position, end: gapEnd });
      position = next?.end ?? end;
    }
    return gaps;
  }

  /** The index of the first extent that ends at `position` or later. */
  #firstEndingFrom(position: number): number {
    let [low, high] = [0, this.#list.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#list[middle]?.end ?? 0) < position) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
