/** Rights whose end is remembered; more than there are repositories being pulled from. */
const MAX_ENDED = 10_000;

/**
 * When upstream took rights back, for the downloads that go on and what they proved. A client that is denied enough names
 * pushes older ends out: no right from before those is vouched for any more, which costs another question and opens nothing.
 */
export class EndedRights {
  readonly #maxEnded: number;
  /** By right, the last one last. On `performance.now()`'s clock, like all times here. */
  readonly #endedAtMs = new Map<string, number>();
  #forgottenUntilMs = -Infinity;

  constructor(maxEnded = MAX_ENDED) {
    this.#maxEnded = maxEnded;
  }

  note(right: string, atMs = performance.now()): void {
    this.#endedAtMs.delete(right);
    this.#endedAtMs.set(right, atMs);
    if (this.#endedAtMs.size > this.#maxEnded) this.#forgetOldest();
  }

  /** Whether it has ended since then, or may have. */
  hasEndedSince(right: string, sinceMs: number): boolean {
    return Math.max(this.#forgottenUntilMs, this.#endedAtMs.get(right) ?? -Infinity) >= sinceMs;
  }

  #forgetOldest(): void {
    for (const [right, atMs] of this.#endedAtMs) {
      this.#endedAtMs.delete(right);
      this.#forgottenUntilMs = atMs;
      return;
    }
  }
}
