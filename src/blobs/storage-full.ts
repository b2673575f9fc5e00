import { errorCode } from '../lib/error-code.ts';

/** Whether a write failed because the disk, or this user's share of it, is full: space may return, nothing is broken. */
export function isStorageFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}
