import { OciError } from '../oci/errors.ts';
import type { Exchange } from './exchange.ts';

/** Newer containerd gives up after 30 s without response headers, so we answer before, whatever anybody below us does. */
export const ANSWER_WITHIN_MS = 20_000;

/** What a client that was told to come back should wait. */
const RETRY_AFTER_SECONDS = '5';

/**
 * `work`, or 503 when it is not done in time. It goes on nevertheless; what it then gives is handed to `discard`, and
 * what it throws is dropped.
 */
export function inTime<T>(
  { startedAtMs }: Pick<Exchange, 'startedAtMs'>,
  work: Promise<T>,
  discard: (late: T) => void = () => {},
  withinMs: number = ANSWER_WITHIN_MS,
): Promise<T> {
  return new Promise((resolve, reject) => {
    let isLate = false;
    const timer = setTimeout(
      () => {
        isLate = true;
        reject(
          new OciError('UNAVAILABLE', {
            message: 'upstream has not answered yet',
            headers: { 'Retry-After': RETRY_AFTER_SECONDS },
          }),
        );
      },
      startedAtMs + withinMs - performance.now(),
    );
    const succeed = (value: T): void => {
      clearTimeout(timer);
      if (isLate) discard(value);
      else resolve(value);
    };
    const fail = (error: unknown): void => {
      clearTimeout(timer);
      reject(error instanceof Error ? error : new Error(String(error)));
    };
    work.then(succeed, fail);
  });
}
