import { UpstreamFailure, type UpstreamFailureKind } from '../upstream/failures.ts';

/** What a failure is remembered for: one credential's question, so that nobody pays for another's right. */
export interface FailureKey {
  readonly upstream: string;
  readonly repository: string;
  /** A tag, a digest, or a word of the asker's for what is neither. */
  readonly reference: string;
  readonly credentialId: string;
}

interface Delay {
  readonly firstMs: number;
  readonly maxMs: number;
}

/**
 * How long a failure is answered without asking upstream again. Absence and denial are flat and short: a push and the
 * deploy that follows it must not wait. What upstream is asked in vain backs off, as the kubelet's ImagePullBackOff.
 */
const DELAYS: Readonly<Record<UpstreamFailureKind, Delay>> = {
  unknown: { firstMs: 10_000, maxMs: 10_000 },
  denied: { firstMs: 10_000, maxMs: 10_000 },
  refused: { firstMs: 10_000, maxMs: 300_000 },
  lockedOut: { firstMs: 10_000, maxMs: 300_000 },
  limited: { firstMs: 10_000, maxMs: 300_000 },
  unavailable: { firstMs: 1_000, maxMs: 30_000 },
  invalid: { firstMs: 1_000, maxMs: 30_000 },
};

/** Like the kubelet's back-off: so many times its longest delay without a failure, and it starts anew. */
const RESET_AFTER_MAX_DELAYS = 2;
/** A client can invent references; a full memory of them is a few MB. */
const MAX_REMEMBERED = 10_000;

interface Remembered {
  readonly key: FailureKey;
  readonly failure: UpstreamFailure;
  readonly delayMs: number;
  readonly atMs: number;
  readonly untilMs: number;
}

/** What upstream refused or failed to answer lately. Never to be consulted for what is held and allowed. */
export class NegativeCache {
  readonly #nowMs: () => number;
  /** In the order of their last failure: the first is the one to drop. */
  readonly #remembered = new Map<string, Remembered>();
  readonly #lastSuccessMs = new Map<string, number>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** How many are being waited out now; what is over is kept for longer, for the next delay to follow on. */
  get waitedOut(): number {
    return [...this.#remembered.values()].filter(remembered => !this.#isOver(remembered)).length;
  }

  /** The failure that answers `key` for now, with what is left of its delay. */
  recall(key: FailureKey): UpstreamFailure | undefined {
    const remembered = this.#remembered.get(text(key));
    if (remembered === undefined || this.#isOver(remembered)) return undefined;
    return withRetryAfter(remembered.failure, remembered.untilMs - this.#nowMs());
  }

  /** Remembers `failure` and returns it with the delay that it got. */
  remember(key: FailureKey, failure: UpstreamFailure): UpstreamFailure {
    const before = this.#remembered.get(text(key));
    const atMs = this.#nowMs();
    const delayMs = this.#delayOf(failure, before);
    this.#remembered.delete(text(key));
    this.#remembered.set(text(key), { key, failure, delayMs, atMs, untilMs: atMs + delayMs });
    const [oldest] = this.#remembered.keys();
    if (this.#remembered.size > MAX_REMEMBERED && oldest !== undefined) this.#remembered.delete(oldest);
    return withRetryAfter(failure, delayMs);
  }

  /** Upstream answered: that question is open again, and nothing counts as unreachable any more. */
  succeeded(key: FailureKey): void {
    this.#remembered.delete(text(key));
    this.#lastSuccessMs.set(key.upstream, this.#nowMs());
  }

  /** Forgets all, of one repository or altogether. */
  forget(repository?: { readonly upstream: string; readonly name: string }): void {
    this.#drop(
      ({ key }) =>
        repository === undefined ||
        (key.upstream === repository.upstream && key.repository === repository.name),
    );
  }

  /** Forgets what upstream is said not to have or not to give: somebody else has seen more. */
  forgetNegative(): void {
    this.#drop(({ failure }) => failure.kind === 'unknown' || failure.kind === 'denied');
  }

  #drop(which: (remembered: Remembered) => boolean): void {
    for (const [key, remembered] of this.#remembered) {
      if (which(remembered)) this.#remembered.delete(key);
    }
  }

  #isOver({ failure, key, atMs, untilMs }: Remembered): boolean {
    const endedBySuccess =
      failure.kind === 'unavailable' && (this.#lastSuccessMs.get(key.upstream) ?? -1) >= atMs;
    const nowMs = this.#nowMs();
    // A clock that was set back must not make a failure last longer than its delay.
    return endedBySuccess || nowMs >= untilMs || nowMs < atMs;
  }

  #delayOf(failure: UpstreamFailure, before: Remembered | undefined): number {
    if (failure.kind === 'limited' && failure.retryAfterMs !== undefined) return failure.retryAfterMs;
    const { firstMs, maxMs } = DELAYS[failure.kind];
    const goesOn =
      before?.failure.kind === failure.kind &&
      this.#nowMs() - before.untilMs < maxMs * RESET_AFTER_MAX_DELAYS &&
      !(failure.kind === 'unavailable' && this.#endedBySuccess(before));
    return goesOn ? Math.min(before.delayMs * 2, maxMs) : firstMs;
  }

  #endedBySuccess({ key, atMs }: Remembered): boolean {
    return (this.#lastSuccessMs.get(key.upstream) ?? -1) >= atMs;
  }
}

function text({ upstream, repository, reference, credentialId }: FailureKey): string {
  return [upstream, repository, reference, credentialId].join(' ');
}

function withRetryAfter(failure: UpstreamFailure, retryAfterMs: number): UpstreamFailure {
  const { kind, message, status, endpoint } = failure;
  return new UpstreamFailure(kind, message, { status, endpoint, retryAfterMs, cause: failure });
}
