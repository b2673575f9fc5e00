import { errorCode } from '../lib/error-code.ts';
import { NOT_A_REGULAR_FILE } from '../lib/regular-file.ts';

const SHORT_FILE = 'ERR_SHORT_FILE';

const NO_FILE = 'its file is not a regular file';
const DISK = 'its file cannot be read from the disk';
/** Says nothing about what is in the file: an owner, a mode or a label was changed, maybe of all files. */
export const FORBIDDEN = 'permission to read its file is denied';

/** Errors that concern one file. Errors for lack of descriptors or memory say nothing about it. */
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

/** The error for a file, or an object, that ends before its length. */
export function shortFile(message: string): Error {
  return Object.assign(new Error(message), { code: SHORT_FILE });
}

/** The reason for a failed read of a blob if this one blob is damaged; `undefined` for any other failure. */
export function unreadableReason(error: unknown): string | undefined {
  return REASONS[errorCode(error) ?? ''];
}

/** Whether something other than a file is in the blob's place. The blob itself is then absent. */
export function isNoFile(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOTDIR' || code === 'ELOOP' || REASONS[code ?? ''] === NO_FILE;
}
