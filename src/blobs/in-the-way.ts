import { randomUUID } from 'node:crypto';
import { rename, rm } from 'node:fs/promises';
import { errorCode } from '../lib/error-code.ts';

/**
 * Moves a folder with the name `path` aside, to a name that nothing takes for a blob: it is somebody's, and not known to be
 * worthless. What is no folder stays: another process may have moved it before, and put a blob there.
 */
export async function moveFolderAside(path: string): Promise<void> {
  try {
    // By the slash nothing but a folder is meant, whatever has come there since it was seen.
    await rename(`${path}/`, `${path}.folder-${randomUUID()}`);
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
  }
}

/** Frees what has the name `path`, which no other process uses; a folder is moved aside. */
export async function freeOwn(path: string): Promise<void> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    const code = errorCode(error);
    if (code !== 'ERR_FS_EISDIR' && code !== 'EISDIR') throw error;
    await moveFolderAside(path);
  }
}
