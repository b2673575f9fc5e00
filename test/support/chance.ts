const GIVEN_SEED = process.env['TEST_SEED'];

/** What random tests begin with: the same in each run, so that a failure is about what changed; or TEST_SEED. */
export const SEED = Number(GIVEN_SEED ?? 1);

/** The same for long runs, which are to find what no run has found: another one each time, unless there is TEST_SEED. */
export function newSeed(): number {
  return GIVEN_SEED === undefined ? Math.floor(Math.random() * 2 ** 31) : SEED;
}

/** Pseudo-random choices that a seed reproduces (mulberry32). */
export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** From 0 up to but not including 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** True in this share of all cases. */
  in(share: number): boolean {
    return this.next() < share;
  }

  below(end: number): number {
    return Math.floor(this.next() * end);
  }

  pick<T>(from: readonly [T, ...T[]] | readonly T[]): T {
    if (from.length === 0) throw new Error('nothing to pick from');
    return from[this.below(from.length)] as T;
  }
}
