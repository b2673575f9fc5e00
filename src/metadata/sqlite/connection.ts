import { errorCode } from '../../lib/error-code.ts';
import { retryJittered } from '../../lib/jittered-retry.ts';
import { IndexLocked } from '../index-locked.ts';
import type { Reserve } from '../reserve.ts';
import { Database, type Statement } from './driver.ts';

export type { Statement } from './driver.ts';

/** The longest pause is about one commit of a rival, the shortest lets the event loop turn. */
const MIN_RETRY_MS = 1;
const MAX_RETRY_MS = 20;

/** A node gives up after 30 s without headers and we answer within 20: a write that could not start by then is no use. */
const BUSY_DEADLINE_MS = 10_000;

/** SQLite's own default: with 4 KiB pages a log of 4 MiB, moved into the database by whichever commit crosses it. */
const CHECKPOINT_PAGES = 1000;

/** What the log's file is cut back to after a burst. */
const WAL_LIMIT_BYTES = 16 * 1024 * 1024;

/** What `PRAGMA auto_vacuum` answers for it. */
const INCREMENTAL = 2;

/** More than any one transaction of upkeep writes; once as log and once as pages. */
const ROOM_BYTES = 768 * 1024;

/** Room for the inner pages of every index at a million blobs; in KiB, as SQLite takes it. */
const CACHE_KIB = 8 * 1024;

/**
 * One open index. Time-out 0: waiting inside SQLite would stop the event loop, so a lock that a rival holds is an
 * error at once, and waited for on a timer here.
 */
export class Connection {
  readonly #database: Database;
  #syncsCommits = true;
  readonly #reserve: Reserve | undefined;

  private constructor(database: Database, reserve?: Reserve) {
    this.#database = database;
    this.#reserve = reserve;
  }

  /** `reserve`: what the index can have on a full disk. */
  static async open(path: string, reserve?: Reserve): Promise<Connection> {
    await reserve?.giveUpToOpen();
    const connection = new Connection(new Database(path, { timeout: 0 }), reserve);
    try {
      await connection.retrying('open the index', () => configure(connection.#database));
      return connection;
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  /** Only reads: for whoever walks through everything. The index must be there. */
  static async openReadOnly(path: string): Promise<Connection> {
    return new Connection(new Database(path, { timeout: 0, readonly: true, fileMustExist: true }));
  }

  /** Compiles `sql`; once per connection, at start. Whoever writes the statement states the types of its row. */
  prepare<Parameters extends unknown[], Row = unknown>(sql: string): Statement<Parameters, Row> {
    return this.#database.prepare<Parameters, Row>(sql);
  }

  /** Runs statements that give no rows. */
  execute(sql: string): void {
    this.#database.exec(sql);
  }

  /** A pragma that is a number, or is set to one. */
  pragma(source: string): number {
    return Number(this.#database.pragma(source, { simple: true }));
  }

  /**
   * Moves what the log holds into the database, so that the next write begins the log anew and needs no new room for it. As
   * far as nobody reads older pages, and the disk has room for those that the database has not.
   */
  checkpoint(): void {
    this.#database.pragma('wal_checkpoint(PASSIVE)');
  }

  /** Gives up some of the reserve for the files of the index. False when there is none. */
  giveUpReserve(): boolean {
    if (this.#reserve?.giveUp() !== true) return false;
    this.takeRoom();
    return true;
  }

  /**
   * Lets the index have room for its log, and for pages of new rows, while the disk has some: whoever fills the disk would
   * have it at once. So long a row is written that needs as much, and taken away again: files and free pages stay. Takes
   * what there is; nothing when another process writes, which has the room then.
   */
  takeRoom(): void {
    try {
      this.checkpoint();
      this.execute(`
        INSERT OR REPLACE INTO settings (name, value) VALUES ('room', printf('%.*c', ${ROOM_BYTES}, 'x'))`);
      this.checkpoint();
      this.execute(`DELETE FROM settings WHERE name = 'room'`);
    } catch (error) {
      if (!isFull(error) && !isBusy(error)) throw error;
    }
  }

  /** What is wrong first, when all pages are read and compared; `undefined` for a sound database. */
  firstFault(): string | undefined {
    const result = String(this.#database.pragma('integrity_check(1)', { simple: true }));
    return result === 'ok' ? undefined : result;
  }

  /**
   * Whether a commit is on the disk when it returns; true at first. Without, a power failure may take the last commits, and
   * no process sees anything else: a later one that is synced takes them to the disk too. Not within a transaction.
   */
  set syncsCommits(wanted: boolean) {
    if (this.#syncsCommits === wanted) return;
    this.#database.pragma(`synchronous = ${wanted ? 'FULL' : 'NORMAL'}`);
    this.#syncsCommits = wanted;
  }

  get isInTransaction(): boolean {
    return this.#database.inTransaction;
  }

  /** Reads; the first attempt is synchronous. In WAL mode only recovery after a crash makes a reader wait. */
  async read<T>(work: () => T): Promise<T> {
    try {
      return work();
    } catch (error) {
      if (!isBusy(error)) {
        throw error;
      }
    }
    return this.retrying('read the index', work);
  }

  /**
   * Calls `work` again while another process holds the lock that it needs, for 10 s since `sinceMs` (of
   * `performance.now()`), once at least; then rejects with IndexLocked.
   */
  retrying<T>(what: string, work: () => T, sinceMs = performance.now()): Promise<T> {
    return retryJittered(work, {
      isRetryable: isBusy,
      minDelayMs: MIN_RETRY_MS,
      maxDelayMs: MAX_RETRY_MS,
      deadlineMs: Math.max(0, sinceMs + BUSY_DEADLINE_MS - performance.now()),
      gaveUp: cause => new IndexLocked(`cannot ${what}: another process has it locked`, { cause }),
    });
  }

  close(): void {
    const close = () => void this.#database.close();
    if (this.#reserve === undefined) close();
    else this.#reserve.keepAfter(close);
  }
}

function configure(database: Database): void {
  // Takes effect in an empty file only, and writes to any: lets upkeep give space back in small steps.
  if (database.pragma('auto_vacuum', { simple: true }) !== INCREMENTAL) {
    database.pragma('auto_vacuum = INCREMENTAL');
  }
  database.pragma('journal_mode = WAL');
  // WAL's NORMAL may lose the last commits in a power loss; what was acknowledged must not be lost.
  database.pragma('synchronous = FULL');
  database.pragma('foreign_keys = ON');
  database.pragma(`wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
  database.pragma(`journal_size_limit = ${WAL_LIMIT_BYTES}`);
  database.pragma(`cache_size = -${CACHE_KIB}`);
  // What undoes one write of a transaction would be a file in /tmp, which may be on the same full disk.
  database.pragma('temp_store = MEMORY');
}

/** Whether the disk had no room for what was to be written: the index, its log, or the file through which processes share it. */
export function isFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'SQLITE_FULL' || code === 'SQLITE_IOERR_SHMSIZE';
}

/** Whether another process holds the lock that was needed. */
export function isBusy(error: unknown): boolean {
  return errorCode(error)?.startsWith('SQLITE_BUSY') ?? false;
}
