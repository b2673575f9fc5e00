import { setTimeout as delay } from 'node:timers/promises';
import { errorCode } from '../../lib/error-code.ts';
import { FairSlots } from '../../lib/fair-slots.ts';
import { FreshFlight } from '../../lib/fresh-flight.ts';
import { IndexAway } from '../index-away.ts';
import { IndexLocked } from '../index-locked.ts';
import { type Client, integral, openPool, type Pool } from './driver.ts';
import { isAway, isConflict, wasSilent } from './failures.ts';
import type { PostgresSettings } from './postgres-settings.ts';
import { type Rows, Schema, PostgresSession } from './session.ts';

/** For how long something is repeated: longer than a server restarts, and less than clients are answered within (20 s). */
const RETRY_FOR_MS = 10_000;
const MIN_RETRY_MS = 5;
const MAX_RETRY_MS = 200;

/**
 * A database that was away for this long is not waited for: whoever asks gets the error at once, until somebody has
 * reached it again. The heartbeat tries each second.
 */
const GIVEN_UP_AFTER_MS = 5_000;

const DISK_FULL = '53100';

/** Errors that name a client or a certificate: of TLS, and of `pg_hba.conf`. */
const TELLS_ADDRESSES = /^(?:ERR_TLS_.*|28000)$/;

/** When a connection is considered dead: no question of a request takes as long, and no write, which may wait for locks. */
export const READ_WITHIN_MS = 5_000;
export const WRITE_WITHIN_MS = 15_000;
/** Pages of a survey look at thousands of rows. */
const SURVEY_WITHIN_MS = 120_000;

/** Kinds of work that do not take all connections from each other. */
export type Work = 'reads' | 'writes';

/** What an attempt has led to. */
export interface AttemptOutcome<T> {
  readonly result: T;
}

export interface DatabaseOptions {
  /** Whether it is asked for whole tables, a page at a time. */
  readonly isForSurvey?: boolean;
}

/** The connections of this process to the database, which may go away and come back. */
export class Database implements Rows {
  readonly schema: Schema;
  readonly #pool: Pool;
  readonly #slots: FairSlots;
  readonly #readWithinMs: number;
  readonly #isForSurvey: boolean;
  /** Questions by their text and parameters: many nodes that pull an image at once ask the same ones. */
  readonly #asking = new FreshFlight<readonly unknown[]>();
  /** For the operator. */
  readonly #place: string;
  #awaySinceMs: number | undefined;
  #lastError: unknown;
  #isClosed = false;
  readonly #closing = new AbortController();

  constructor(settings: PostgresSettings, { isForSurvey = false }: DatabaseOptions = {}) {
    const { poolSize } = settings;
    this.schema = new Schema(settings.schema);
    this.#place = `${settings.database} at ${settings.host}:${settings.port}, as ${settings.user}`;
    this.#isForSurvey = isForSurvey;
    this.#readWithinMs = isForSurvey ? SURVEY_WITHIN_MS : READ_WITHIN_MS;
    // One more for those who do not wait for their turn.
    this.#pool = openPool(settings, { max: poolSize + 1, answerWithinMs: WRITE_WITHIN_MS });
    this.#slots = new FairSlots({
      max: poolSize,
      maxPerAsker: Math.max(1, poolSize - Math.ceil(poolSize / 4)),
      maxWaitingPerAsker: Number.POSITIVE_INFINITY,
    });
  }

  /** Why it cannot be reached; `undefined` if it answered, or was not asked for a while. */
  get away(): IndexAway | undefined {
    return this.#awaySinceMs === undefined ? undefined : this.#awayError();
  }

  /** Those who ask the same at the same time share the rows, which are as of a moment after each has asked. */
  rows<Row>(sql: string, parameters: readonly unknown[] = []): Promise<readonly Row[]> {
    const ask = () => this.read(session => session.rows<Row>(sql, parameters));
    const rows = this.#asking.run(questionKey(sql, parameters), ask);
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- equal statements have equal columns
    return rows as Promise<readonly Row[]>;
  }

  async row<Row>(sql: string, parameters: readonly unknown[] = []): Promise<Row | undefined> {
    return (await this.rows<Row>(sql, parameters))[0];
  }

  /** What `work` returns, which only reads: it is repeated on another connection if one is lost. */
  read<T>(work: (session: PostgresSession) => Promise<T>): Promise<T> {
    return this.retrying('reads', async client => {
      const session = new PostgresSession(client, this.schema, this.#readWithinMs);
      if (!this.#isForSurvey) return work(session);
      // Compiling the conditions of a page takes longer than its rows.
      await client.query(
        `BEGIN READ ONLY; SET LOCAL jit = off; SET LOCAL statement_timeout = ${SURVEY_WITHIN_MS}`,
      );
      try {
        return await work(session);
      } finally {
        await client.query('COMMIT');
      }
    });
  }

  /**
   * Calls `attempt` with a connection, again after a conflict or on a dead connection, for some seconds. Rejects with
   * IndexLocked if the last was a conflict, and with IndexAway if the database cannot be reached, at once if that has been so
   * for a while. After a suspension in the middle of an attempt, there is another one, however long it took. `outcome` is called
   * when a connection was lost, and returns what the attempt has led to nevertheless; `undefined` if nothing.
   */
  retrying<T>(
    kind: Work,
    attempt: (client: Client) => Promise<T>,
    outcome: () => Promise<AttemptOutcome<T> | undefined> = async () => undefined,
  ): Promise<T> {
    if (this.#isClosed) return Promise.reject(new Error('the metadata store is closed'));
    return this.#slots.run(kind, () => this.#retrying(attempt, outcome));
  }

  /** The same, once, however long the database has been away, and before all others. */
  trying<T>(attempt: (client: Client) => Promise<T>): Promise<T> {
    return this.#with(attempt);
  }

  /** Waits for what is being done. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#closing.abort();
    await this.#pool.end();
  }

  async #retrying<T>(
    attempt: (client: Client) => Promise<T>,
    outcome: () => Promise<AttemptOutcome<T> | undefined>,
  ): Promise<T> {
    const endMs = performance.now() + RETRY_FOR_MS;
    let wasSuspended = false;
    for (let pauseMs = MIN_RETRY_MS; ; pauseMs = Math.min(2 * pauseMs, MAX_RETRY_MS)) {
      if (this.#isGivenUp()) throw this.#awayError();
      try {
        return await this.#with(attempt);
      } catch (error) {
        const isOver = performance.now() > endMs;
        if (isAway(error)) {
          const known = await outcome();
          if (known !== undefined) return known.result;
          // However long that took, it is tried once more: if others have considered this process dead, the attempt says so.
          const isFinal: boolean = isOver && (wasSuspended || !wasSilent(error));
          wasSuspended ||= wasSilent(error);
          if (isFinal || this.#closing.signal.aborted) throw this.#awayError();
        } else if (!isConflict(error)) {
          throw error;
        } else if (isOver) {
          throw lockedError(error);
        }
      }
      await delay(pauseMs * (0.5 + Math.random()));
    }
  }

  async #with<T>(attempt: (client: Client) => Promise<T>): Promise<T> {
    let client: Client | undefined;
    let fault: unknown;
    try {
      client = await this.#pool.connect();
      const result = await attempt(client);
      this.#awaySinceMs = undefined;
      return result;
    } catch (error) {
      fault = error;
      if (errorCode(error) === DISK_FULL) throw asStorageFull(error);
      if (isAway(error)) {
        this.#awaySinceMs ??= performance.now();
        this.#lastError = error;
      } else {
        this.#awaySinceMs = undefined;
      }
      throw error;
    } finally {
      client?.release(isAway(fault));
    }
  }

  #isGivenUp(): boolean {
    // A survey has no heartbeat that would find out that the database is back.
    if (this.#isForSurvey || this.#awaySinceMs === undefined) return false;
    return performance.now() - this.#awaySinceMs > GIVEN_UP_AFTER_MS;
  }

  #awayError(): IndexAway {
    const cause = this.#lastError;
    if (!(cause instanceof Error))
      return new IndexAway('the database of the index cannot be reached', { cause });
    return new IndexAway(`the database of the index cannot be reached: ${reasonOf(cause)}`, {
      cause,
      // Of a name with several addresses, the error has no message of its own.
      operatorText: `the database of the index (${this.#place}) cannot be reached: ${cause.message || reasonOf(cause)}`,
    });
  }
}

/** Equal for equal questions only. */
function questionKey(sql: string, parameters: readonly unknown[]): string {
  return `${sql}
${JSON.stringify(parameters.map(integral))}`;
}

/** The same error for a full disk, wherever it occurs. */
function asStorageFull(cause: unknown): Error {
  return Object.assign(new Error("the disk of the index's database is full", { cause }), { code: 'ENOSPC' });
}

/** `cause`: the last conflict. The server says where it was, if not about a lock that has no row. */
function lockedError(cause: Error): IndexLocked {
  const where = 'where' in cause && typeof cause.where === 'string' ? ` (${cause.where})` : '';
  const message = `others have kept the index locked for ${RETRY_FOR_MS / 1000} s: ${cause.message}${where}`;
  return new IndexLocked(message, { cause });
}

/** Without addresses, since `/readyz` shows it to anybody; the log has the cause. */
function reasonOf(error: Error): string {
  const code = errorCode(error);
  if (code === undefined) return error.message;
  if ('syscall' in error) return `${String(error.syscall)} ${code}`;
  return TELLS_ADDRESSES.test(code) || error.message === '' ? code : error.message;
}
