import { errorCode, errorsIn } from '../lib/error-code.ts';
import { OciError } from '../oci/errors.ts';

/** Error codes of the system and the index that may pass without the client changing anything. */
const PASSING: ReadonlySet<string> = new Set([
  'EACCES',
  'EAGAIN',
  'EBADMSG',
  'EIO',
  'EMFILE',
  'ENFILE',
  'ENOMEM',
  'EPERM',
  'EROFS',
  'ESTALE',
  'EUCLEAN',
  'INDEX_AWAY',
  'PRESENCE_ENDED',
]);
/** Includes CORRUPT, which SQLite also reports for a failing disk; nor can a client repair a damaged index. */
const PASSING_OF_SQLITE = /^SQLITE_(?:BUSY|CANTOPEN|CORRUPT|IOERR|LOCKED|NOMEM|READONLY)/;
/**
 * A write that got no lock however often it was repeated, a statement that took too long, a server that is out of memory or
 * has damaged files, and tables that are missing or inaccessible, as while a backup is restored.
 */
const PASSING_OF_POSTGRES = /^(?:3F000|40001|40P01|42501|42P01|53200|55P03|57014|XX00[12])$/;

/**
 * For Retry-After: longer than a burst of requests takes to close its files, or another process to release the index.
 */
const RETRY_AFTER_SECONDS = '5';

/** The error for the client if a disk or the index fails temporarily; `undefined` for any other error. */
export function storageTrouble(error: unknown): OciError | undefined {
  for (const cause of errorsIn(error)) {
    const code = errorCode(cause) ?? '';
    if (PASSING.has(code) || PASSING_OF_SQLITE.test(code) || PASSING_OF_POSTGRES.test(code)) {
      return new OciError('UNAVAILABLE', {
        message: 'the registry cannot access its storage at the moment: try again',
        headers: { 'Retry-After': RETRY_AFTER_SECONDS },
        cause: error,
      });
    }
  }
  return undefined;
}
