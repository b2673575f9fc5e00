import { type Repository, repositoryText } from '../oci/repository.ts';
import type { UpstreamFailure } from '../upstream/failures.ts';

/** How an upstream has answered since this process started. */
export interface UpstreamState {
  /** When it last gave any answer, epoch ms. */
  readonly answeredAtMs: number | undefined;
  readonly failure:
    | { readonly atMs: number; readonly reason: string; readonly repository: string }
    | undefined;
}

const NOTHING: UpstreamState = { answeredAtMs: undefined, failure: undefined };

/** The last answer and failure of every upstream, for `entrepot status`. */
export class UpstreamRecord {
  readonly #nowMs: () => number;
  readonly #states = new Map<string, UpstreamState>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  stateOf(upstream: string): UpstreamState {
    return this.#states.get(upstream) ?? NOTHING;
  }

  answered(upstream: string): void {
    this.#states.set(upstream, { ...this.stateOf(upstream), answeredAtMs: this.#nowMs() });
  }

  /** That something does not exist, or is denied to this credential, is an answer and not a failure. */
  failed(repository: Repository, { kind, message }: UpstreamFailure): void {
    if (kind === 'unknown' || kind === 'denied') {
      this.answered(repository.upstream);
      return;
    }
    const failure = { atMs: this.#nowMs(), reason: message, repository: repositoryText(repository) };
    this.#states.set(repository.upstream, { ...this.stateOf(repository.upstream), failure });
  }
}
