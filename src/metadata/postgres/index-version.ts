import { TurnBatches } from '../turn-batches.ts';

/** As an SQL expression: another number after every write that a pull may depend on, by whichever process. */
export const VERSION = '(SELECT sum(version)::bigint FROM @versions)';

/**
 * For how long after a question the answer is taken for the version of the index. Long enough that a busy process spends
 * hardly any time on questions, and short enough that nobody minds waiting for it after a write (see `OtherReaders`).
 */
export const VALID_FOR_MS = 4;

/** A question takes less than the rest of that on most networks, so that no pull waits while there are many. */
const ASKED_AHEAD_AFTER_MS = VALID_FOR_MS / 2;

export interface IndexVersionParts {
  /** Asks the database. */
  readonly ask: () => Promise<number>;
  /** Since when all others know of this process: before that, they do not wait for it. */
  readonly seenSinceMs: () => number;
  /** Default: `performance.now`, which is also that of `seenSinceMs`. */
  readonly nowMs?: () => number;
}

/**
 * The version of the index, as far as this process has to know it: a write that was acknowledged before `look` is called
 * is part of the version when that returns. Many pulls share a question; who writes waits, before it acknowledges a write,
 * until no process relies any more on an answer from before.
 */
export class IndexVersion {
  readonly #ask: () => Promise<number>;
  readonly #seenSinceMs: () => number;
  readonly #nowMs: () => number;
  readonly #looks = new TurnBatches(() => this.look());
  #version = Number.NaN;
  /** When the version was first heard of. */
  #heardAtMs = Number.NEGATIVE_INFINITY;
  /** The version includes what was committed until then. */
  #trueAtMs = Number.NEGATIVE_INFINITY;
  #askedAtMs = Number.NEGATIVE_INFINITY;
  /** When this process itself last wrote something. */
  #writtenAtMs = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor({ ask, seenSinceMs, nowMs = () => performance.now() }: IndexVersionParts) {
    this.#ask = ask;
    this.#seenSinceMs = seenSinceMs;
    this.#nowMs = nowMs;
  }

  /** NaN before the first answer. */
  get version(): number {
    return this.#version;
  }

  /** Returns `undefined` if `version` can be relied on, or resolves when it can. Rejects if the database cannot be asked. */
  look(): Promise<void> | undefined {
    const nowMs = this.#nowMs();
    const sinceMs = Math.min(nowMs, Math.max(nowMs - VALID_FOR_MS, this.#writtenAtMs, this.#seenSinceMs()));
    if (this.#trueAtMs >= sinceMs) {
      // Whoever needs the answer asks again if this fails.
      if (nowMs - this.#askedAtMs > ASKED_AHEAD_AFTER_MS && this.#asking === undefined) {
        this.#begin().catch(() => {});
      }
      return undefined;
    }
    if (this.#asking === undefined) return this.#begin();
    if (this.#askedAtMs >= sinceMs) return this.#asking;
    // The one that is under way may have been answered before.
    this.#next ??= this.#asking
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.#asking ?? this.#begin();
      });
    return this.#next;
  }

  /** Looks once for several pulls, at the end of this turn of the event loop or as soon as there are enough. */
  lookInBatch(): Promise<void> {
    return new Promise(resolve => this.#looks.add(resolve));
  }

  /** Call when this process has committed a write: answers to what was asked before do not count any more. */
  written(): void {
    this.#writtenAtMs = this.#nowMs();
  }

  /**
   * Takes note of the version that some other question, which was asked at `askedAtMs`, was answered with. Returns whether
   * that is the version now. One that is older than what was known when it was asked is that of another index: a backup was
   * restored, or a standby took over that lacked something.
   */
  hear(version: number, askedAtMs: number): boolean {
    this.#trueAtMs = Math.max(this.#trueAtMs, askedAtMs);
    if (version === this.#version) return true;
    if (version < this.#version && askedAtMs < this.#heardAtMs) return false;
    this.#version = version;
    this.#heardAtMs = this.#nowMs();
    return true;
  }

  #begin(): Promise<void> {
    const askedAtMs = this.#nowMs();
    this.#askedAtMs = askedAtMs;
    const asking = this.#ask()
      .then(version => void this.hear(version, askedAtMs))
      .finally(() => {
        this.#asking = undefined;
      });
    this.#asking = asking;
    return asking;
  }
}
