/**
 * Labels of one sample. Never a repository, tag, digest or user name: their number has no bound. What others name may be
 * one only where few are told at a time, and each is taken away again.
 */
export type Labels = Readonly<Record<string, string>>;

/**
 * Numbers that operators watch; `ops/metrics.ts` owns the table of names and makes one on prom-client.
 * A name that the table lacks throws, so a misspelt metric fails the first test that meets it.
 */
export interface Meter {
  /** Adds to a counter (`amount` ≥ 0, default 1). */
  count(name: string, labels?: Labels, amount?: number): void;
  /** Sets a gauge; `undefined` takes away the sample of these labels. */
  gauge(name: string, value: number | undefined, labels?: Labels): void;
  /** Adds one observation to a histogram; the unit is in the name. */
  observe(name: string, value: number, labels?: Labels): void;
}

/** A meter that keeps nothing. */
export const silentMeter: Meter = { count() {}, gauge() {}, observe() {} };
