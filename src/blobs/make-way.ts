import { randomUUID } from 'node:crypto';
import { rename, rm } from 'node:fs/promises';
import { errorCode } from '../lib/error-code.ts';

/**
 * Leaves nothing under the name `path`, so that a blob can have it. A folder there is somebody's, and not known to be
 * worthless: it is moved aside, to a name that nothing takes for a blob.
 */
export async function makeWay(path: string): Promise<undefined> {
  try {
    await rm(path, { force: true });
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOTDIR') return;
    if (code !== 'ERR_FS_EISDIR' && code !== 'EISDIR') throw error;
    await rename(path, `${path}.folder-${randomUUID()}`);
  }
}
