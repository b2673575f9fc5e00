import { dirname } from 'node:path';
import { errorCode } from '../../lib/error-code.ts';
import { retryJittered } from '../../lib/jittered-retry.ts';
import { IndexLocked } from '../index-locked.ts';
import type { Reserve } from '../reserve.ts';
import { storageFault } from '../storage-probe.ts';
import { Database, type Statement } from './driver.ts';

export type { Statement } from './driver.ts';

/** The longest pause is about one commit of another process, the shortest lets the event loop run. */
const MIN_RETRY_MS = 1;
const MAX_RETRY_MS = 20;

/** A node gives up after 30 s, and clients are answered within 20: a write that has not started by then is useless. */
const BUSY_DEADLINE_MS = 10_000;

/** SQLite's default: with 4 KiB pages a log of 4 MiB, which the commit that exceeds it copies into the database. */
const CHECKPOINT_PAGES = 1000;

/** The size to which the log file is truncated after a burst. */
const WAL_LIMIT_BYTES = 16 * 1024 * 1024;

/** The value of `PRAGMA auto_vacuum` for it. */
const INCREMENTAL = 2;

/** More than any transaction of upkeep writes; needed once in the log and once as pages. */
const ROOM_BYTES = 768 * 1024;

/** Holds the inner pages of every index of tables with a million blobs; in KiB, as SQLite expects. */
const CACHE_KIB = 8 * 1024;

/**
 * A connection to the index. Its busy timeout is 0, since waiting inside SQLite would block the event loop: a lock that
 * another process holds is an error at once, and the operation is retried here on a timer.
 */
export class Connection {
  readonly #database: Database;
  #syncsCommits = true;
  readonly #reserve: Reserve | undefined;

  private constructor(database: Database, reserve?: Reserve) {
    this.#database = database;
    this.#reserve = reserve;
  }

  /** `reserve`: disk space for when the disk is full. Rejects at once if the file system has no locks. */
  static async open(path: string, reserve?: Reserve): Promise<Connection> {
    await reserve?.giveUpToOpen();
    const connection = new Connection(new Database(path, { timeout: 0 }), reserve);
    try {
      await connection.#configure(dirname(path));
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** A read-only connection, for scans. The index must exist. */
  static async openReadOnly(path: string): Promise<Connection> {
    return new Connection(new Database(path, { timeout: 0, readonly: true, fileMustExist: true }));
  }

  /** Prepares `sql`; once per connection, at startup. The caller declares the types of its rows. */
  prepare<Parameters extends unknown[], Row = unknown>(sql: string): Statement<Parameters, Row> {
    return this.#database.prepare<Parameters, Row>(sql);
  }

  /** Runs statements that return no rows. */
  execute(sql: string): void {
    this.#database.exec(sql);
  }

  /** The value of a numeric pragma, after setting it if `source` does. */
  pragma(source: string): number {
    return Number(this.#database.pragma(source, { simple: true }));
  }

  /**
   * Copies the log into the database, so that the next write starts the log from its beginning and needs no new space
   * for it. Only as far as nobody reads older pages and the disk has space for new ones.
   */
  checkpoint(): void {
    this.#database.pragma('wal_checkpoint(PASSIVE)');
  }

  /** Gives up some of the reserve for the files of the index. False if there is none left. */
  giveUpReserve(): boolean {
    if (this.#reserve?.giveUp() !== true) return false;
    this.takeRoom();
    return true;
  }

  /**
   * Makes the index allocate space for its log and for new pages while the disk has some, since other programs that
   * fill the disk would take it at once. Writes a row of that size and deletes it again: files and free pages stay
   * allocated. Takes what there is; nothing if another process is writing, which has the space then. A small row comes
   * first: with the first page in the log SQLite writes to all of its shared memory, which kills the process (SIGBUS)
   * if the log has taken the space for it. It is random, since SQLite does not write what is there already.
   */
  takeRoom(): void {
    try {
      this.checkpoint();
      this.execute(`INSERT OR REPLACE INTO settings (name, value) VALUES ('room', hex(randomblob(8)))`);
      this.execute(`
        INSERT OR REPLACE INTO settings (name, value) VALUES ('room', printf('%.*c', ${ROOM_BYTES}, 'x'))`);
      this.checkpoint();
      this.execute(`DELETE FROM settings WHERE name = 'room'`);
    } catch (error) {
      if (!isFull(error) && !isBusy(error)) throw error;
    }
  }

  /** The first error found when all pages are read and compared; `undefined` if the database is consistent. */
  firstFault(): string | undefined {
    const result = String(this.#database.pragma('integrity_check(1)', { simple: true }));
    return result === 'ok' ? undefined : result;
  }

  /**
   * Whether a commit is on disk when it returns; true initially. If not, a power failure may lose the last commits, but
   * nothing else differs, and the next synced commit writes them, too. Not to be set within a transaction.
   */
  set syncsCommits(wanted: boolean) {
    if (this.#syncsCommits === wanted) return;
    this.#database.pragma(`synchronous = ${wanted ? 'FULL' : 'NORMAL'}`);
    this.#syncsCommits = wanted;
  }

  get isInTransaction(): boolean {
    return this.#database.inTransaction;
  }

  /**
   * Runs `work`, which only reads; the first attempt is synchronous. In WAL mode a reader waits only for recovery after
   * a crash.
   */
  read<T>(work: () => T | Promise<T>): Promise<T> {
    try {
      return Promise.resolve(work());
    } catch (error) {
      return isBusy(error)
        ? this.retrying('read the index', work)
        : Promise.reject(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /**
   * Repeats `work` while another process holds the lock that it needs, until 10 s after `sinceMs` (of
   * `performance.now()`), at least once; then rejects with IndexLocked.
   */
  retrying<T>(what: string, work: () => T | Promise<T>, sinceMs = performance.now()): Promise<T> {
    return retryJittered(work, {
      isRetryable: isBusy,
      minDelayMs: MIN_RETRY_MS,
      maxDelayMs: MAX_RETRY_MS,
      deadlineMs: Math.max(0, sinceMs + BUSY_DEADLINE_MS - performance.now()),
      gaveUp: cause => new IndexLocked(`cannot ${what}: another process has it locked`, { cause }),
    });
  }

  async #configure(folder: string): Promise<void> {
    try {
      configure(this.#database);
    } catch (error) {
      if (!isBusy(error)) throw error;
      // SQLite reports a lock that the file system does not support like one that somebody else has.
      const fault = await storageFault(folder);
      if (fault !== undefined) throw fault;
      await this.retrying('open the index', () => configure(this.#database));
    }
  }

  close(): void {
    const close = () => void this.#database.close();
    if (this.#reserve === undefined) close();
    else this.#reserve.keepAfter(close);
  }
}

function configure(database: Database): void {
  // Has an effect only in an empty file, but writes to any. Lets upkeep free space in small steps.
  if (database.pragma('auto_vacuum', { simple: true }) !== INCREMENTAL) {
    database.pragma('auto_vacuum = INCREMENTAL');
  }
  database.pragma('journal_mode = WAL');
  // In WAL mode, NORMAL may lose the last commits in a power failure; what was acknowledged must not be lost.
  database.pragma('synchronous = FULL');
  database.pragma('foreign_keys = ON');
  database.pragma(`wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
  database.pragma(`journal_size_limit = ${WAL_LIMIT_BYTES}`);
  database.pragma(`cache_size = -${CACHE_KIB}`);
  // The statement journal would otherwise be a file in /tmp, which may be on the same full disk.
  database.pragma('temp_store = MEMORY');
}

/** Whether there was no disk space for the index, its log, or the file of shared memory. */
export function isFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'SQLITE_FULL' || code === 'SQLITE_IOERR_SHMSIZE';
}

/** Whether another process holds the lock that was needed. */
export function isBusy(error: unknown): boolean {
  return errorCode(error)?.startsWith('SQLITE_BUSY') ?? false;
}
