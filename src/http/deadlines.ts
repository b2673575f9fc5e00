import { OciError } from '../oci/errors.ts';

/**
 * How long a client should wait before it retries, in seconds: about as long as it takes to give up a broken
 * connection.
 */
const RETRY_AFTER = '5';

/** How late a deadline may be noticed. One timer checks all of them, so a hit starts none. */
const LOOK_MS = 500;

interface Waiting {
  readonly dueAtMs: number;
  readonly reject: (reason: Error) => void;
  isLate: boolean;
}

/** The deadlines of all requests: one for each, for everything that its response waits for. */
export class Deadlines {
  readonly #withinMs: number;
  readonly #waiting = new Set<Waiting>();
  #timer: NodeJS.Timeout | undefined;

  constructor(withinMs: number) {
    this.#withinMs = withinMs;
  }

  /**
   * The result of `work`; 503 with Retry-After if the request that began at `startedAtMs` (of `performance.now()`) has
   * waited too long. The work continues: its result is then passed to `discard`, its error is dropped.
   */
  meet<T>(startedAtMs: number, work: Promise<T>, discard?: (late: T) => void): Promise<T> {
    return new Promise((resolve, reject) => {
      const waiting = { dueAtMs: startedAtMs + this.#withinMs, reject, isLate: false };
      this.#add(waiting);
      const succeed = (value: T): void => {
        this.#waiting.delete(waiting);
        if (waiting.isLate) discard?.(value);
        else resolve(value);
      };
      const fail = (error: unknown): void => {
        this.#waiting.delete(waiting);
        reject(error instanceof Error ? error : new Error(String(error)));
      };
      work.then(succeed, fail);
    });
  }

  #add(waiting: Waiting): void {
    this.#waiting.add(waiting);
    this.#timer ??= setInterval(() => this.#look(), Math.min(LOOK_MS, this.#withinMs)).unref();
  }

  #look(): void {
    const nowMs = performance.now();
    for (const waiting of this.#waiting) {
      if (waiting.dueAtMs > nowMs) continue;
      this.#waiting.delete(waiting);
      waiting.isLate = true;
      waiting.reject(tooLate());
    }
    if (this.#waiting.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}

function tooLate(): OciError {
  return new OciError('UNAVAILABLE', {
    message:
      'no answer in time: upstream, or a service that checks logins, is slow; the request continues, so try again',
    headers: { 'Retry-After': RETRY_AFTER },
  });
}
