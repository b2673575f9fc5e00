import type { Refusal } from '../../http/refusal.ts';

/** As soon as it matters to people. */
const TELL_AFTER_MS = 1_000;
/** Of one batch: whatever clients do, it is a small message. What is more is only in the log. */
const MAX_IN_BATCH = 200;

/** Collects what clients are refused in this process, for the one that shows it. */
export class RefusalBatch {
  readonly #tell: (refusals: readonly Refusal[]) => void;
  #collected: Refusal[] = [];

  constructor(tell: (refusals: readonly Refusal[]) => void) {
    this.#tell = tell;
  }

  add(refusal: Refusal): void {
    if (this.#collected.length === 0) setTimeout(() => this.#flush(), TELL_AFTER_MS).unref();
    if (this.#collected.length < MAX_IN_BATCH) this.#collected.push(refusal);
  }

  #flush(): void {
    this.#tell(this.#collected);
    this.#collected = [];
  }
}
