import { errorCode } from '../../lib/error-code.ts';
import { retryJittered } from '../../lib/jittered-retry.ts';
import { IndexLocked } from '../index-locked.ts';
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

/** Room for the inner pages of every index at a million blobs; in KiB, as SQLite takes it. */
const CACHE_KIB = 8 * 1024;

/**
 * One open index. Time-out 0: waiting inside SQLite would stop the event loop, so a lock that a rival holds is an
 * error at once, and waited for on a timer here.
 */
export class Connection {
  readonly #database: Database;

  private constructor(database: Database) {
    this.#database = database;
  }

  static async open(path: string): Promise<Connection> {
    const database = new Database(path, { timeout: 0 });
    const connection = new Connection(database);
    try {
      await connection.retrying('open the index', () => configure(database));
      return connection;
    } catch (error) {
      database.close();
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

  /** What is wrong first, when all pages are read and compared; `undefined` for a sound database. */
  firstFault(): string | undefined {
    const result = String(this.#database.pragma('integrity_check(1)', { simple: true }));
    return result === 'ok' ? undefined : result;
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
      gaveUp: cause => new IndexLocked(`cannot ${what}: another process keeps it locked`, { cause }),
    });
  }

  close(): void {
    this.#database.close();
  }
}

function configure(database: Database): void {
  // Takes effect in an empty file only; lets upkeep give space back in small steps.
  database.pragma('auto_vacuum = INCREMENTAL');
  database.pragma('journal_mode = WAL');
  // WAL's NORMAL may lose the last commits in a power loss; what was acknowledged must not be lost.
  database.pragma('synchronous = FULL');
  database.pragma('foreign_keys = ON');
  database.pragma(`wal_autocheckpoint = ${CHECKPOINT_PAGES}`);
  database.pragma(`journal_size_limit = ${WAL_LIMIT_BYTES}`);
  database.pragma(`cache_size = -${CACHE_KIB}`);
}

/** Whether another process holds the lock that was needed. */
export function isBusy(error: unknown): boolean {
  return errorCode(error)?.startsWith('SQLITE_BUSY') ?? false;
}
