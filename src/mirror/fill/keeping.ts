import { errorCode } from '../../lib/error-code.ts';

/** Whether downloads can currently be stored, as the last one shows. If not, they are only streamed to clients. */
export class Keeping {
  readonly #nowMs: () => number;
  #failure: { readonly reason: string; readonly sinceMs: number } | undefined;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** A line for `/readyz` and `status`, without paths, since anybody may read it. */
  get problem(): string | undefined {
    if (this.#failure === undefined) return undefined;
    const { reason, sinceMs } = this.#failure;
    return `downloads are passed on but not stored (${reason}) since ${new Date(sinceMs).toISOString()}`;
  }

  succeeded(): void {
    this.#failure = undefined;
  }

  failed(error: unknown): void {
    const reason = errorCode(error) ?? 'see the log';
    this.#failure = { reason, sinceMs: this.#failure?.sinceMs ?? this.#nowMs() };
  }
}
