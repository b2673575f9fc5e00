// What processes have open.
import { readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * The paths of what a process, by default this one with all its threads, has open; of what has no path, the kind, as in
 * `socket:[123]`.
 */
export async function openFiles(pid: number | 'self' = 'self'): Promise<readonly string[]> {
  const folder = `/proc/${pid}/fd`;
  // Some are closed meanwhile, and the one that lists the folder always.
  return Promise.all((await readdir(folder)).map(name => readlink(join(folder, name)).catch(() => '')));
}

/** Those of this process that are in `folder`. */
export async function openFilesIn(folder: string): Promise<readonly string[]> {
  return (await openFiles()).filter(path => path.startsWith(folder));
}
