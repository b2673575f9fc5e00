import { errorCode, errorsIn } from '../lib/error-code.ts';
import { OciError } from './errors.ts';

/**
 * Whether something cannot be used for a while that has its own words for it: an UNAVAILABLE (the storage of blobs, an upstream,
 * another replica, memory, a server that stops), or the index's database. Whoever is away is logged when that begins and
 * when it is over, so who meets it meanwhile tells the words, and logs no error and no stack.
 */
export function isOutage(error: unknown): boolean {
  for (const cause of errorsIn(error)) {
    if (cause instanceof OciError && cause.code === 'UNAVAILABLE') return true;
    if (errorCode(cause) === 'INDEX_AWAY') return true;
  }
  return false;
}
