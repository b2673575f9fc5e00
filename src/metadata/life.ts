import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { errorCode } from '../lib/error-code.ts';
import { PRIVATE_FOLDER_MODE } from '../lib/private-folder.ts';
import { Database } from './sqlite/driver.ts';

/** The name of the folder in that of the store. */
export const PROCESSES_FOLDER = 'processes';

/** A file without its lock must not be taken for that of a dead process. */
const UNLOCKED = '.new';

/**
 * Shows that a process is alive, by a lock on an empty file of its own, `processes/<id>`. The kernel releases it when
 * the process ends, so others know at once; a suspended process keeps it. SQLite takes the lock, since Node has no file
 * locks, and the index needs them anyway.
 */
export class Life {
  readonly #path: string;
  readonly #lock: Database;

  private constructor(path: string, lock: Database) {
    this.#path = path;
    this.#lock = lock;
  }

  /** Takes the lock for the process `id` on the store in `folder`. */
  static begin(folder: string, id: string): Life {
    const path = lifePath(folder, id);
    mkdirSync(dirname(path), { recursive: true, mode: PRIVATE_FOLDER_MODE });
    const lock = new Database(path + UNLOCKED, { timeout: 0 });
    try {
      lockWhole(lock);
      renameSync(path + UNLOCKED, path);
    } catch (error) {
      lock.close();
      throw error;
    }
    return new Life(path, lock);
  }

  /** Releases the lock and removes the file. */
  end(): void {
    this.#lock.close();
    rmSync(this.#path, { force: true });
  }
}

/**
 * Runs `act` while the file `path`, which is created and then removed, is locked, even while this process is suspended.
 * Rejects with the error of `refusal` if another process has the lock.
 */
export async function whileLocked<T>(path: string, refusal: () => Error, act: () => Promise<T>): Promise<T> {
  const release = lockNew(path);
  if (release === undefined) throw refusal();
  try {
    return await act();
  } finally {
    release();
  }
}

/** Creates and locks the file `path`; `undefined` if another process has the lock. The function removes and releases it. */
function lockNew(path: string): (() => void) | undefined {
  const file = openSync(path, 'a');
  const lock = new Database(path, { timeout: 0 });
  const release = () => {
    lock.close();
    // Not before: the kernel releases a process's locks on a file when any descriptor of it is closed.
    closeSync(file);
  };
  try {
    lockWhole(lock);
    // Otherwise another process has removed the file since, and a third one may have locked the next.
    if (isFileAt(path, file)) {
      return () => {
        rmSync(path, { force: true });
        release();
      };
    }
  } catch (error) {
    if (!isBusy(error)) {
      release();
      throw error;
    }
  }
  release();
  return undefined;
}

/** Whether the open `file` is still the one at `path`. */
function isFileAt(path: string, file: number): boolean {
  return statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(file).ino;
}

/** Nothing is written, so there is nothing to undo: a journal file would need space on a full disk. */
function lockWhole(lock: Database): void {
  lock.pragma('journal_mode = MEMORY');
  lock.exec('BEGIN EXCLUSIVE');
}

function isBusy(error: unknown): boolean {
  return errorCode(error)?.startsWith('SQLITE_BUSY') === true;
}

/** Whether the process `id` is certainly dead. False if nothing is known about it. */
export function isDead(folder: string, id: string): boolean {
  return stateOf(lifePath(folder, id)) === 'free';
}

/** Whether a process has locked the file `path`. */
export function isLocked(path: string): boolean {
  return stateOf(path) === 'locked';
}

function stateOf(path: string): 'locked' | 'free' | 'absent' {
  // If the folder does not exist, the driver throws an error without a code.
  if (!existsSync(path)) return 'absent';
  let lock: Database | undefined;
  try {
    lock = new Database(path, { timeout: 0, fileMustExist: true });
    lockWhole(lock);
    return 'free';
  } catch (error) {
    if (isBusy(error)) return 'locked';
    if (errorCode(error) === 'SQLITE_CANTOPEN') return 'absent';
    throw error;
  } finally {
    lock?.close();
  }
}

/** Removes the files of dead processes: those of `ids`, and whatever an earlier crash left. */
export function forgetDead(folder: string): void {
  for (const id of readdirSync(join(folder, PROCESSES_FOLDER))) {
    if (!id.endsWith(UNLOCKED) && isDead(folder, id)) rmSync(lifePath(folder, id), { force: true });
  }
}

function lifePath(folder: string, id: string): string {
  return join(folder, PROCESSES_FOLDER, id);
}
