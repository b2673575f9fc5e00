import { errorCode, errorsIn } from '../lib/error-code.ts';
import { OciError } from './errors.ts';

/**
 * Whether the index's database or the storage of blobs cannot be reached. Both log when that begins and when it is over, so
 * who meets it meanwhile logs no error of his own.
 */
export function isOutage(error: unknown): boolean {
  for (const cause of errorsIn(error)) {
    if (cause instanceof OciError && cause.code === 'UNAVAILABLE') return true;
    if (errorCode(cause) === 'INDEX_AWAY') return true;
  }
  return false;
}
