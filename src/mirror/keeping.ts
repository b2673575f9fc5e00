import { errorCode } from '../lib/error-code.ts';

/** Whether downloads can be kept, as far as the last of them shows: what cannot is passed on to its readers all the same. */
export class Keeping {
  readonly #nowMs: () => number;
  #failure: { readonly reason: string; readonly sinceMs: number } | undefined;

  constructor(nowMs: () => number = Date.now) {
    this.#nowMs = nowMs;
  }

  /** A line for people, without paths: anybody may read it. */
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
