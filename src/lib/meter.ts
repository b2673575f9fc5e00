/**
 * The labels of a sample. Never a repository, tag, digest or user name, whose number is unlimited. Names from outside
 * may be labels only if few are reported at a time and each is removed again.
 */
export type Labels = Readonly<Record<string, string>>;

/**
 * Records metrics. `ops/metrics.ts` has the table of their names and implements this with prom-client. An unknown name
 * throws, so that the first test that uses a misspelled one fails.
 */
export interface Meter {
  /** Adds to a counter (`amount` ≥ 0, default 1). */
  count(name: string, labels?: Labels, amount?: number): void;
  /**
   * A function that adds to the counter with these labels, which begins at zero; for what is counted with each request.
   * It is kept as long as the meter: make one for each set of labels, of which there must not be any number.
   */
  counter(name: string, labels?: Labels): (amount?: number) => void;
  /** Sets a gauge; `undefined` removes the sample with these labels. */
  gauge(name: string, value: number | undefined, labels?: Labels): void;
  /** Adds an observation to a histogram; the unit is in the name. */
  observe(name: string, value: number, labels?: Labels): void;
}

/** A meter that discards everything. */
export const silentMeter: Meter = { count() {}, counter: () => () => {}, gauge() {}, observe() {} };
