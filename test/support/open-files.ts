// What processes have open.
import { readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * The paths of all files that a process, by default this one with all its threads, has open; for what has no path, its kind,
 * as in `socket:[123]`.
 */
export async function openFiles(pid: number | 'self' = 'self'): Promise<readonly string[]> {
  const folder = `/proc/${pid}/fd`;
  // Some may be closed meanwhile, and the descriptor of the folder itself always is.
  return Promise.all((await readdir(folder)).map(name => readlink(join(folder, name)).catch(() => '')));
}

/** The files in `folder` that this process has open. */
export async function openFilesIn(folder: string): Promise<readonly string[]> {
  return (await openFiles()).filter(path => path.startsWith(folder));
}
