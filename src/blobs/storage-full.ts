import { errorCode } from '../lib/error-code.ts';

/** A limit of our own is reached, which is handled like a full disk. */
export class StorageFull extends Error {
  readonly code = 'ENOSPC';

  constructor(message: string) {
    super(message);
    this.name = 'StorageFull';
  }
}

/**
 * Whether a write failed because of the place rather than the content: the disk is full, this user may not write there,
 * or the place is gone (such as a removed index).
 */
export function isStorageClosed(error: unknown): boolean {
  return isStorageFull(error) || ['EACCES', 'EPERM', 'EROFS', 'ESTALE'].includes(errorCode(error) ?? '');
}

/**
 * Whether a write failed because the disk, or this user's quota on it, is full. Space may become available again;
 * nothing is broken.
 */
export function isStorageFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}
