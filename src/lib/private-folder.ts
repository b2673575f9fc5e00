import { chmod, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { absentAsUndefined, errorCode } from './error-code.ts';
import type { Log } from './log.ts';
import { makeFolder } from './make-folder.ts';

/** The contents of a private folder, by relative names. */
export interface PrivateContents {
  /** Created if it does not exist, since SQLite gives its other files the mode of this one. */
  readonly database: string;
  readonly folders: readonly string[];
}

export const PRIVATE_FOLDER_MODE = 0o700;
export const PRIVATE_FILE_MODE = 0o600;

const OTHERS = 0o077;
const STICKY = 0o1000;

/** SQLite's files for a database. */
const DATABASE_SUFFIXES = ['', '-wal', '-shm', '-journal'];

/** Files that file systems, or tools that watch over folders, create themselves. */
const NOBODYS_FILE = /^(?:lost\+found|\..*)$/;

/**
 * Makes the folder `path` accessible to its owner only, with the database and the folders in it; what is deeper is
 * protected by these. What was accessible to others is changed and logged. What cannot be changed, because it belongs
 * to another user or the file system has no modes, is logged, too, and does not stop anything: a volume that Kubernetes
 * makes accessible to a group stays so, but what is in it is closed. A folder with other contents is left as it is:
 * whoever uses it would be locked out.
 */
export async function openPrivateFolder(
  path: string,
  { database, folders }: PrivateContents,
  log: Log,
): Promise<void> {
  await makeFolder(path, PRIVATE_FOLDER_MODE);
  await makeEmptyFile(join(path, database));
  const files = DATABASE_SUFFIXES.map(suffix => `${database}${suffix}`);
  const contents = [...files, ...folders];
  const isShared = await holdsMore(path, contents);
  const outcomes = await Promise.all(contents.map(async name => close(join(path, name))));
  if (!isShared) outcomes.unshift(await close(path));
  const closed = outcomes.flatMap(({ outcome, path: of }) => (outcome === 'closed' ? [of] : []));
  const stillOpen = outcomes.flatMap(({ outcome, path: of, reason }) =>
    outcome === 'open' ? [{ path: of, reason }] : [],
  );
  if (closed.length > 0)
    log.warn({ paths: closed }, 'other users could read the store: its permissions were restricted');
  const [first] = stillOpen;
  if (first === undefined) return;
  // Only the names are visible, which are the same in every store, as long as the contents are closed.
  if (stillOpen.length === 1 && first.path === path) {
    log.info(
      { path, reason: first.reason },
      'other users can list the store folder; its contents are private',
    );
  } else {
    log.warn(
      { paths: stillOpen },
      'other users can read parts of the store, and the permissions cannot be changed',
    );
  }
}

/** Never opens an existing file: closing it would release all locks that SQLite holds on it in this process. */
async function makeEmptyFile(path: string): Promise<void> {
  try {
    await (await open(path, 'wx', PRIVATE_FILE_MODE)).close();
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
  }
}

async function holdsMore(path: string, contents: readonly string[]): Promise<boolean> {
  if (((await stat(path)).mode & STICKY) !== 0) return true;
  return (await readdir(path)).some(name => !contents.includes(name) && !NOBODYS_FILE.test(name));
}

interface Closing {
  readonly path: string;
  readonly outcome: 'unchanged' | 'closed' | 'open';
  /** Why it is still accessible. */
  readonly reason?: string;
}

async function close(path: string): Promise<Closing> {
  const mode = (await absentAsUndefined(stat(path)))?.mode ?? 0;
  if ((mode & OTHERS) === 0) return { path, outcome: 'unchanged' };
  try {
    await chmod(path, mode & ~OTHERS & 0o7777);
    const isClosed = ((await stat(path)).mode & OTHERS) === 0;
    return isClosed ? { path, outcome: 'closed' } : { path, outcome: 'open', reason: 'no modes' };
  } catch (error) {
    return { path, outcome: 'open', reason: errorCode(error) ?? String(error) };
  }
}
