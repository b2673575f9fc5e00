import { errorCode } from '../lib/error-code.ts';
import { NOT_A_REGULAR_FILE } from '../lib/regular-file.ts';

/** The `code` of the error for a file that ended before its length. */
export const SHORT_FILE = 'ERR_SHORT_FILE';

const NO_FILE = 'its file is not a regular file';
const DISK = 'its file cannot be read from the disk';
const FORBIDDEN = 'permission to read its file is denied';

/** Of one file. What fails for want of descriptors or memory says nothing about the file. */
const REASONS: Readonly<Record<string, string>> = {
  EIO: DISK,
  EUCLEAN: DISK,
  EBADMSG: DISK,
  EACCES: FORBIDDEN,
  EPERM: FORBIDDEN,
  EISDIR: NO_FILE,
  ENODEV: NO_FILE,
  ENXIO: NO_FILE,
  [NOT_A_REGULAR_FILE]: NO_FILE,
  ELOOP: 'its file is a symbolic link',
  [SHORT_FILE]: 'its file is truncated',
};

/** Why reading a blob failed, when that is damage of this one blob; `undefined` for every other failure. */
export function unreadableReason(error: unknown): string | undefined {
  return REASONS[errorCode(error) ?? ''];
}

/** Whether there is something in the blob's place that is no file at all: the blob itself is absent. */
export function isNoFile(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOTDIR' || code === 'ELOOP' || REASONS[code ?? ''] === NO_FILE;
}
