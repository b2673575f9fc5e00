import { errorCode } from '../lib/error-code.ts';

/** A limit of ours that is met like a full disk. */
export class StorageFull extends Error {
  readonly code = 'ENOSPC';

  constructor(message: string) {
    super(message);
    this.name = 'StorageFull';
  }
}

/**
 * Whether a write failed for the place and not for its content: the disk is full, this user may not write there, as in
 * a folder that another user made, or what was to be written to is gone from there, as the index that was removed.
 */
export function isStorageClosed(error: unknown): boolean {
  return isStorageFull(error) || ['EACCES', 'EPERM', 'EROFS', 'ESTALE'].includes(errorCode(error) ?? '');
}

/** Whether a write failed because the disk, or this user's share of it, is full: space may return, nothing is broken. */
export function isStorageFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}
