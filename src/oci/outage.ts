import { errorCode, errorsIn } from '../lib/error-code.ts';
import { OciError } from './errors.ts';

/** That the index's database is away, and that others have considered this process dead. */
const CODES: ReadonlySet<string | undefined> = new Set(['INDEX_AWAY', 'PRESENCE_ENDED']);

/**
 * Whether something cannot be used for a while that has its own words for it: an UNAVAILABLE (the storage of blobs, an upstream,
 * another replica, memory, a server that stops), the index's database, or this process itself after it was suspended. Whoever is
 * away is logged when that begins, so who meets it meanwhile tells the words, and logs no error and no stack.
 */
export function isOutage(error: unknown): boolean {
  for (const cause of errorsIn(error)) {
    if (cause instanceof OciError && cause.code === 'UNAVAILABLE') return true;
    if (CODES.has(errorCode(cause))) return true;
  }
  return false;
}
