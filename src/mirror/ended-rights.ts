/** That upstream has withdrawn a credential's right to a repository, as processes of one server tell each other. */
export interface EndedRight {
  readonly upstream: string;
  readonly repository: string;
  readonly credentialId: string;
}

/** More than the number of repositories being pulled from. */
const MAX_ENDED = 10_000;

/**
 * When upstream withdrew rights, for downloads in progress and what they proved. Clients that are denied many names
 * push out old entries. Rights from before the oldest entry then count as withdrawn, which costs another question and
 * gives nothing away.
 */
export class EndedRights {
  readonly #maxEnded: number;
  /** By right, in order of time. By `Clock.monotonicMs`, like all times here. */
  readonly #endedAtMs = new Map<string, number>();
  #forgottenUntilMs = -Infinity;

  constructor(maxEnded = MAX_ENDED) {
    this.#maxEnded = maxEnded;
  }

  note(right: string, atMs: number): void {
    this.#endedAtMs.delete(right);
    this.#endedAtMs.set(right, atMs);
    if (this.#endedAtMs.size > this.#maxEnded) this.#forgetOldest();
  }

  /** Whether the right has ended since then, or may have. */
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
