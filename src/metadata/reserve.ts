import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { open, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { absentAsUndefined } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import { PRIVATE_FILE_MODE } from '../lib/private-folder.ts';
import { IndexUnusable } from './index-unusable.ts';

/** The name of the file, beside the index. */
export const RESERVE_FILE = 'reserve';

/**
 * What an index needs to continue: space for its log, for new pages, and for the 32 KiB of memory that processes share.
 */
const STEP_BYTES = 2 * 1024 * 1024;
/** Two steps, since other programs may take the space of the first before the index does. */
const RESERVE_BYTES = 2 * STEP_BYTES;

/** Space for the log, free or allocated: more than one step of upkeep writes. */
const LOG_BYTES = 512 * 1024;
/**
 * SQLite creates this file for the first process, and writes a few pages to the log before it uses all of it. Without
 * space for both, SQLite fails, or the process is killed (SIGBUS).
 */
const SHARED_MEMORY_BYTES = 32 * 1024;
const FIRST_PAGES_BYTES = 32 * 1024;

/** The block size in which stat(2) counts. */
const BLOCK_BYTES = 512;

const WRITE_ONLY = constants.O_WRONLY | constants.O_CREAT;

/**
 * A file that reserves disk space for the index. On a full disk it is given up, so that the server can start, continue,
 * and collect garbage. Space that SQLite frees when the index is closed is added to it, and it is completed when there
 * is space again.
 */
export class Reserve {
  readonly #indexPath: string;
  readonly #path: string;
  readonly #log: Log;
  #isGivenUp = false;
  #restoring: Promise<void> | undefined;
  /** Set while it cannot be created and the log says so. */
  #isFailing = false;

  /** The reserve for the index in the file `indexPath`. */
  constructor(indexPath: string, log: Log) {
    this.#indexPath = indexPath;
    this.#path = join(dirname(indexPath), RESERVE_FILE);
    this.#log = log;
  }

  /** Whether this process has given up some of it and not completed it since. */
  get isGivenUp(): boolean {
    return this.#isGivenUp;
  }

  /**
   * Call before the index is opened: gives up a step unless there is space for the files that SQLite creates, or they
   * exist. Rejects with IndexUnusable if the disk is so full that SQLite must not be tried.
   */
  async giveUpToOpen(): Promise<void> {
    const hasLog = (await this.#freeBytes()) + this.#size(`${this.#indexPath}-wal`) >= LOG_BYTES;
    if (hasLog && (await this.#hasSharedMemory())) return;
    this.giveUp();
    if (await this.#hasSharedMemory()) return;
    throw new IndexUnusable('the disk is full: the index needs a few MiB');
  }

  async #hasSharedMemory(): Promise<boolean> {
    const allocated = this.#allocated(`${this.#indexPath}-shm`);
    if (allocated >= SHARED_MEMORY_BYTES) return true;
    return (await this.#freeBytes()) + allocated >= SHARED_MEMORY_BYTES + FIRST_PAGES_BYTES;
  }

  /**
   * Gives a step of its space to the disk; false if there was none left. Synchronous, so that nothing else in this
   * process takes the space first.
   */
  giveUp(): boolean {
    const size = this.#size(this.#path);
    if (size === 0) return false;
    this.#isGivenUp = true;
    try {
      truncateSync(this.#path, size > STEP_BYTES ? STEP_BYTES : 0);
    } catch {
      // A file of another user, in a folder of ours.
      rmSync(this.#path, { force: true });
    }
    return true;
  }

  /** Closes the index by calling `close`, and at once reserves what SQLite frees by that. */
  keepAfter(close: () => void): void {
    const besideBytes = this.#besideBytes();
    close();
    const size = this.#size(this.#path);
    const bytes = Math.min(besideBytes - this.#besideBytes(), RESERVE_BYTES - size);
    if (bytes <= 0) return;
    try {
      const file = openSync(this.#path, WRITE_ONLY, PRIVATE_FILE_MODE);
      try {
        writeSync(file, randomBytes(bytes), 0, bytes, size);
      } finally {
        closeSync(file);
      }
    } catch {
      // Another process was faster.
    }
  }

  /** Completes it, if the disk has space for two steps. Never rejects: everything else works without it. */
  restore(): Promise<void> {
    this.#restoring ??= this.#attempt().finally(() => {
      this.#restoring = undefined;
    });
    return this.#restoring;
  }

  async #attempt(): Promise<void> {
    try {
      await this.#restore();
      this.#isFailing = false;
    } catch (error) {
      if (!this.#isFailing) {
        this.#log.warn({ err: error, path: this.#path }, 'the reserve for a full disk cannot be created');
      }
      this.#isFailing = true;
    }
  }

  async #restore(): Promise<void> {
    const size = (await absentAsUndefined(stat(this.#path)))?.size ?? 0;
    if (size < RESERVE_BYTES) {
      if ((await this.#freeBytes()) < 2 * RESERVE_BYTES) return;
      await this.#fill(size);
    }
    this.#isGivenUp = false;
  }

  async #fill(size: number): Promise<void> {
    const file = await open(this.#path, WRITE_ONLY, PRIVATE_FILE_MODE);
    try {
      // Not zeros, which some file systems do not store.
      await file.write(randomBytes(RESERVE_BYTES - size), 0, undefined, size);
      await file.sync();
    } catch (error) {
      await rm(this.#path, { force: true });
      throw error;
    } finally {
      await file.close();
    }
  }

  /** The size of the files beside the index while it is open. */
  #besideBytes(): number {
    return this.#size(`${this.#indexPath}-wal`) + this.#size(`${this.#indexPath}-shm`);
  }

  #size(path: string): number {
    return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** The space that a file takes on disk; it may have holes. */
  #allocated(path: string): number {
    return (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * BLOCK_BYTES;
  }

  async #freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(dirname(this.#path));
    return bavail * bsize;
  }
}
