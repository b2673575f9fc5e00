import { join } from 'node:path';
import { IndexUnusable } from './index-unusable.ts';
import { isLocked } from './life.ts';

/**
 * The file in the store's folder that a restore has locked as long as its process lives. Nothing else uses the folder meanwhile,
 * since all of it is removed if the restore fails, however late: its process may have been suspended.
 */
export const RESTORE_LOCK = '.restoring';

/** Throws IndexUnusable while a backup is being restored to the folder `path`. */
export function requireNoRestore(path: string): void {
  if (!isLocked(join(path, RESTORE_LOCK))) return;
  throw new IndexUnusable(
    `a backup is being restored to ${path}: wait until that has finished, or end it if it is suspended`,
  );
}
