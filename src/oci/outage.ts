import { errorCode } from '../lib/error-code.ts';
import { OciError } from './errors.ts';

/** How many nested causes are examined. */
const MAX_CAUSES = 5;

/**
 * Whether the index's database or the storage of blobs cannot be reached. Both log when that begins and when it is over, so
 * who meets it meanwhile logs no error of his own.
 */
export function isOutage(error: unknown): boolean {
  let cause = error;
  for (let depth = 0; depth < MAX_CAUSES && cause instanceof Error; depth += 1) {
    if (cause instanceof OciError && cause.code === 'UNAVAILABLE') return true;
    if (errorCode(cause) === 'INDEX_AWAY') return true;
    cause = cause.cause;
  }
  return false;
}
