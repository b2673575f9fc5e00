import { chmod, mkdir, open, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { absentAsUndefined, errorCode } from './error-code.ts';
import type { Log } from './log.ts';

/** What a private folder holds: relative names. */
export interface PrivateContents {
  /** Made if it is missing, since what SQLite keeps beside a database takes over that file's mode. */
  readonly database: string;
  readonly folders: readonly string[];
}

export const PRIVATE_FOLDER_MODE = 0o700;
export const PRIVATE_FILE_MODE = 0o600;

const OTHERS = 0o077;
const STICKY = 0o1000;

/** SQLite's own files beside a database. */
const DATABASE_SUFFIXES = ['', '-wal', '-shm', '-journal'];

/** What a file system, or a tool that watches over folders, puts into them itself. */
const NOBODYS_FILE = /^(?:lost\+found|\..*)$/;

/**
 * Makes the folder `path` its owner's alone, with the database and the folders in it; what lies deeper is closed by
 * them. What was open to others is closed and told in the log. What cannot be closed, since it belongs to another user
 * or the file system has no modes, is told too and stops nothing: on a volume that Kubernetes hands to a group the
 * folder itself stays open to it, and what is in it is closed all the same. A folder that holds other things besides is
 * left as it is: whoever else uses it would be locked out.
 */
export async function openPrivateFolder(
  path: string,
  { database, folders }: PrivateContents,
  log: Log,
): Promise<void> {
  await mkdir(path, { recursive: true, mode: PRIVATE_FOLDER_MODE });
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
  // Its list of names is the same for every store, as long as what they name is closed.
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

/** Never opens a file that is there: closing one gives up every lock that SQLite holds on it in this process. */
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
  /** Why it is still open. */
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
