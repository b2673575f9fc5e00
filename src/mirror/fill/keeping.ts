import { isStorageFull } from '../../blobs/storage-full.ts';
import { errorCode } from '../../lib/error-code.ts';

/**
 * How long a full disk, or quota, is a problem after a download has met it: nothing tells when there is space again, and
 * while there is none the next download meets it, too.
 */
const FULL_FOR_MS = 60_000;

interface Failure {
  readonly reason: string;
  readonly sinceMs: number;
  /** Infinity: until a download is stored. */
  readonly untilMs: number;
}

/** Whether downloads can currently be stored, as the last one shows. If not, they are only streamed to clients. */
export class Keeping {
  readonly #nowMs: () => number;
  #failure: Failure | undefined;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** A line for `/readyz` and `status`, without paths, since anybody may read it. */
  get problem(): string | undefined {
    const failure = this.#current;
    return (
      failure &&
      `downloads are passed on but not stored (${failure.reason}) since ${new Date(failure.sinceMs).toISOString()}`
    );
  }

  succeeded(): void {
    this.#failure = undefined;
  }

  failed(error: unknown): void {
    const nowMs = this.#nowMs();
    this.#failure = {
      reason: errorCode(error) ?? 'see the log',
      sinceMs: this.#current?.sinceMs ?? nowMs,
      untilMs: isStorageFull(error) ? nowMs + FULL_FOR_MS : Number.POSITIVE_INFINITY,
    };
  }

  get #current(): Failure | undefined {
    return this.#failure !== undefined && this.#nowMs() < this.#failure.untilMs ? this.#failure : undefined;
  }
}
