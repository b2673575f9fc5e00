import { errorCode } from '../lib/error-code.ts';
import { OciError } from '../oci/errors.ts';

/** Of the system and of SQLite: what may pass without the client changing anything. */
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
]);
/** With CORRUPT, since SQLite calls it that too when a disk fails it; nor can a client mend an index that is damaged. */
const PASSING_OF_SQLITE = /^SQLITE_(?:BUSY|CANTOPEN|CORRUPT|IOERR|LOCKED|NOMEM|READONLY)/;

/** Told to the client: longer than a burst of requests takes to close its files, or a rival to give the index back. */
const RETRY_AFTER_SECONDS = '5';

/** An error may be wrapped by whoever says what could not be done; nobody wraps deeper. */
const MAX_CAUSES = 5;

/** What a client hears of a disk or an index that fails for now; `undefined` when `error` is something else. */
export function storageTrouble(error: unknown): OciError | undefined {
  let cause = error;
  for (let depth = 0; depth < MAX_CAUSES && cause instanceof Error; depth += 1) {
    const code = errorCode(cause) ?? '';
    if (PASSING.has(code) || PASSING_OF_SQLITE.test(code)) {
      return new OciError('UNAVAILABLE', {
        message: 'the registry cannot access its storage at the moment: try again',
        headers: { 'Retry-After': RETRY_AFTER_SECONDS },
        cause: error,
      });
    }
    cause = cause.cause;
  }
  return undefined;
}
