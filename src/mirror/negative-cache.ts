import { noNews, type News } from '../lib/news.ts';
import { Reachability } from './reachability.ts';
import { UpstreamFailure, type UpstreamFailureKind } from '../upstream/failures.ts';

/** What a failure is remembered for: a question with one credential, so that nobody is affected by another's rights. */
export interface FailureKey {
  readonly upstream: string;
  readonly repository: string;
  /** A tag, a digest, or the caller's name for another kind of question. */
  readonly reference: string;
  readonly credentialId: string;
}

interface Delay {
  readonly firstMs: number;
  readonly maxMs: number;
}

/**
 * How long a failure is answered without asking upstream again. Absence and denial: short and constant, since a
 * deployment often follows a push. Failures of upstream: increasing, like the kubelet's ImagePullBackOff.
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

/** As in the kubelet's back-off: after this many times the longest delay without a failure, it starts again. */
const RESET_AFTER_MAX_DELAYS = 2;
/** Clients can invent references; this many take a few MB. */
const MAX_REMEMBERED = 10_000;

/** A failure that is answered without asking upstream again. Times are epoch ms. */
export interface RememberedFailure {
  readonly key: FailureKey;
  readonly failure: UpstreamFailure;
  readonly atMs: number;
  readonly untilMs: number;
}

interface Remembered extends RememberedFailure {
  readonly delayMs: number;
}

/** What a process tells the others: how upstream has answered a question. */
export interface FailureNews {
  readonly key: FailureKey;
  /** `undefined` if it has answered, which ends remembered failures. */
  readonly failure:
    | Pick<UpstreamFailure, 'kind' | 'message' | 'status' | 'endpoint' | 'retryAfterMs' | 'obstacle'>
    | undefined;
}

/** Recent refusals and failures of upstream. Not to be consulted for content that is stored and allowed. */
export class NegativeCache {
  readonly #nowMs: () => number;
  /** In the order of their last failure: the oldest is dropped first. */
  readonly #remembered = new Map<string, Remembered>();
  readonly #lastSuccessMs = new Map<string, number>();
  readonly #news: News<FailureNews>;
  readonly #reachability: Reachability;

  /** `reachability` is told what the answers and failures say of upstreams. */
  constructor(
    nowMs: () => number,
    news: News<FailureNews> = noNews,
    reachability: Reachability = new Reachability(nowMs),
  ) {
    this.#nowMs = nowMs;
    this.#news = news;
    this.#reachability = reachability;
  }

  /**
   * How many failures are currently answered from here. Expired ones are kept longer, so that the next delay can
   * increase.
   */
  get waitedOut(): number {
    return this.current.length;
  }

  /** Those that are currently answered from here. */
  get current(): readonly RememberedFailure[] {
    return [...this.#remembered.values()].filter(remembered => !this.#isOver(remembered));
  }

  /** The failure to answer for `key`, with the rest of its delay; `undefined` if upstream may be asked. */
  recall(key: FailureKey): UpstreamFailure | undefined {
    const remembered = this.#remembered.get(text(key));
    if (remembered === undefined || this.#isOver(remembered)) return undefined;
    return withRetryAfter(remembered.failure, remembered.untilMs - this.#nowMs(), true);
  }

  /** Remembers `failure`, and returns it with its delay. */
  remember(key: FailureKey, failure: UpstreamFailure): UpstreamFailure {
    const { kind, message, status, endpoint, retryAfterMs, obstacle } = failure;
    this.#news.tell({ key, failure: { kind, message, status, endpoint, retryAfterMs, obstacle } });
    return this.#remember(key, failure);
  }

  /** Takes over what another process has found out. */
  learn({ key, failure }: FailureNews): void {
    // Processes that asked at the same time count as one.
    if (failure === undefined) this.#forgetAfterSuccess(key);
    else if (this.recall(key)?.kind !== failure.kind) {
      this.#remember(key, new UpstreamFailure(failure.kind, failure.message, failure));
    }
  }

  #remember(key: FailureKey, failure: UpstreamFailure): UpstreamFailure {
    if (failure.kind === 'unavailable') this.#reachability.failed(key.upstream, failure);
    // A refusal is an answer, too.
    else this.#reachability.answered(key.upstream);
    const before = this.#remembered.get(text(key));
    const atMs = this.#nowMs();
    const delayMs = this.#delayOf(failure, before);
    this.#remembered.delete(text(key));
    this.#remembered.set(text(key), { key, failure, delayMs, atMs, untilMs: atMs + delayMs });
    const [oldest] = this.#remembered.keys();
    if (this.#remembered.size > MAX_REMEMBERED && oldest !== undefined) this.#remembered.delete(oldest);
    return withRetryAfter(failure, delayMs);
  }

  /** Upstream answered: forgets this failure, and all that said it was unreachable. */
  succeeded(key: FailureKey): void {
    if (this.#forgetAfterSuccess(key)) this.#news.tell({ key, failure: undefined });
  }

  /** Whether there was something to forget. */
  #forgetAfterSuccess(key: FailureKey): boolean {
    const wasRemembered = this.#remembered.delete(text(key));
    this.#lastSuccessMs.set(key.upstream, this.#nowMs());
    const wasUnreachable = this.#reachability.answered(key.upstream);
    return wasUnreachable || wasRemembered;
  }

  /** Forgets all failures, of one repository or of all. */
  forget(repository?: { readonly upstream: string; readonly name: string }): void {
    this.#drop(
      ({ key }) =>
        repository === undefined ||
        (key.upstream === repository.upstream && key.repository === repository.name),
    );
  }

  /** Forgets that upstream does not have or refuses something: another process has seen that it does not. */
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
    // A clock that was set back must not extend a delay.
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

function withRetryAfter(
  failure: UpstreamFailure,
  retryAfterMs: number,
  isRecalled = failure.isRecalled,
): UpstreamFailure {
  const { kind, message, status, endpoint } = failure;
  return new UpstreamFailure(kind, message, { status, endpoint, retryAfterMs, isRecalled, cause: failure });
}
