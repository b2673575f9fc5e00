import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { errorCode } from '../../lib/error-code.ts';
import { PRIVATE_FOLDER_MODE } from '../../lib/private-folder.ts';
import { Database } from './driver.ts';

/** Beside the index. */
export const PROCESSES_FOLDER = 'processes';

/** What is not yet locked may not be mistaken for a dead process's. */
const UNLOCKED = '.new';

/**
 * Shows that a process lives, by a lock on an empty file of its own, `processes/<id>`, which the kernel frees with the
 * process: others then know of its death at once. A paused process has it still. The lock is SQLite's, since Node has
 * none, and the index needs it to work anyway.
 */
export class Life {
  readonly #path: string;
  readonly #lock: Database;

  private constructor(path: string, lock: Database) {
    this.#path = path;
    this.#lock = lock;
  }

  /** Begins the life of the process `id` on the index in the file `indexPath`. */
  static begin(indexPath: string, id: string): Life {
    const path = lifePath(indexPath, id);
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

  /** The end of one's own. */
  end(): void {
    this.#lock.close();
    rmSync(this.#path, { force: true });
  }
}

/** Nothing is written, so there is nothing to undo: a journal would need room, which a full disk has not. */
function lockWhole(lock: Database): void {
  lock.pragma('journal_mode = MEMORY');
  lock.exec('BEGIN EXCLUSIVE');
}

/** Whether the process `id` is certainly dead. False for one of which nothing is known. */
export function isDead(indexPath: string, id: string): boolean {
  let lock: Database | undefined;
  try {
    lock = new Database(lifePath(indexPath, id), { timeout: 0, fileMustExist: true });
    lockWhole(lock);
    return true;
  } catch (error) {
    const code = errorCode(error);
    if (code?.startsWith('SQLITE_BUSY') === true || code === 'SQLITE_CANTOPEN') return false;
    throw error;
  } finally {
    lock?.close();
  }
}

/** Forgets the files of dead processes, which are those of `ids` and whatever an earlier crash has left. */
export function forgetDead(indexPath: string): void {
  for (const id of readdirSync(join(dirname(indexPath), PROCESSES_FOLDER))) {
    if (!id.endsWith(UNLOCKED) && isDead(indexPath, id)) rmSync(lifePath(indexPath, id), { force: true });
  }
}

function lifePath(indexPath: string, id: string): string {
  return join(dirname(indexPath), PROCESSES_FOLDER, id);
}
