import { randomUUID } from 'node:crypto';
import { rename, rm } from 'node:fs/promises';
import { errorCode } from '../lib/error-code.ts';

/**
 * Renames the folder at `path` to a name that is never taken for a blob, since it belongs to somebody and may have
 * content. Anything but a folder stays: another process may have done this before, and put a blob there.
 */
export async function moveFolderAside(path: string): Promise<void> {
  try {
    // With the slash, rename only accepts a folder, whatever is there by now.
    await rename(`${path}/`, `${path}.folder-${randomUUID()}`);
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
  }
}

/** Deletes the file at `path`, which no other process uses; a folder is moved aside. */
export async function freeOwn(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ERR_FS_EISDIR' && code !== 'EISDIR') throw error;
    await moveFolderAside(path);
  }
}
