import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { open, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { absentAsUndefined } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import { PRIVATE_FILE_MODE } from '../lib/private-folder.ts';

/** Beside the index. */
export const RESERVE_FILE = 'reserve';

/** What an index needs to go on: room for its log, for new pages, and for the 32 KiB through which processes share the log. */
const STEP_BYTES = 2 * 1024 * 1024;
/** Others may have the room of the first step before the index has. */
const RESERVE_BYTES = 2 * STEP_BYTES;

/** Of log, free or there: more than a step of upkeep writes. */
const LOG_BYTES = 512 * 1024;
/** SQLite makes it anew for the first process; where it finds no room it fails, or the process is killed (SIGBUS). */
const SHARED_MEMORY_BYTES = 32 * 1024;

/** In which stat(2) counts. */
const BLOCK_BYTES = 512;

const WRITE_ONLY = constants.O_WRONLY | constants.O_CREAT;

/**
 * A file that holds room for the index: on a disk that is full to the last byte it is given up, so that the server starts,
 * goes on, and can collect garbage. Room that SQLite gives back when the index is closed goes into it, and it is whole again
 * when there is room.
 */
export class Reserve {
  readonly #indexPath: string;
  readonly #path: string;
  readonly #log: Log;
  #isGivenUp = false;
  #restoring: Promise<void> | undefined;
  /** It cannot be made, and the log says so. */
  #isFailing = false;

  /** For the index in the file `indexPath`. */
  constructor(indexPath: string, log: Log) {
    this.#indexPath = indexPath;
    this.#path = join(dirname(indexPath), RESERVE_FILE);
    this.#log = log;
  }

  /** This process has given up some of it, and not made it whole again. */
  get isGivenUp(): boolean {
    return this.#isGivenUp;
  }

  /** Before the index is opened: gives up a step unless there is room for the files that SQLite makes, or they are there. */
  async giveUpToOpen(): Promise<void> {
    const freeBytes = await this.#freeBytes();
    const hasLog = freeBytes + this.#size(`${this.#indexPath}-wal`) >= LOG_BYTES;
    const hasSharedMemory = freeBytes + this.#allocated(`${this.#indexPath}-shm`) >= SHARED_MEMORY_BYTES;
    if (!hasLog || !hasSharedMemory) this.giveUp();
  }

  /** Gives a step of its room to the disk; false when it had none. Synchronous: nobody else in this process is quicker. */
  giveUp(): boolean {
    const size = this.#size(this.#path);
    if (size === 0) return false;
    this.#isGivenUp = true;
    try {
      truncateSync(this.#path, size > STEP_BYTES ? STEP_BYTES : 0);
    } catch {
      // Another user's, in a folder that is ours.
      rmSync(this.#path, { force: true });
    }
    return true;
  }

  /** Closes the index by `close`: what SQLite removes then is in reserve at once, before others have its room. */
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
      // Somebody else was quicker.
    }
  }

  /** Makes it whole, if the disk has room for two. Never rejects: without it everything else works. */
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
      // Not zeros, which some file systems keep nowhere.
      await file.write(randomBytes(RESERVE_BYTES - size), 0, undefined, size);
      await file.sync();
    } catch (error) {
      await rm(this.#path, { force: true });
      throw error;
    } finally {
      await file.close();
    }
  }

  /** Of what SQLite keeps beside the index while it is open. */
  #besideBytes(): number {
    return this.#size(`${this.#indexPath}-wal`) + this.#size(`${this.#indexPath}-shm`);
  }

  #size(path: string): number {
    return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  }

  /** What it has on disk; it may have holes. */
  #allocated(path: string): number {
    return (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * BLOCK_BYTES;
  }

  async #freeBytes(): Promise<number> {
    const { bavail, bsize } = await statfs(dirname(this.#path));
    return bavail * bsize;
  }
}
