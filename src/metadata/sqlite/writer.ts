import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Connection, isBusy, isFull, type Statement } from './connection.ts';

/** Writes that came in one turn of the event loop share a commit, and its sync; so many at most, as all stop the loop. */
const MAX_WRITES_PER_COMMIT = 20;

interface Write {
  /** Runs inside the transaction; returns what settles the caller's promise once it is durable. */
  readonly run: () => () => void;
  readonly reject: (error: unknown) => void;
  /** On `performance.now()`'s clock. */
  readonly askedAtMs: number;
  readonly outlivesPower: boolean;
}

export interface WriteOptions {
  /**
   * False for what means nothing after a power failure, when no process is left: it is committed without a sync, unless
   * others are committed with it. Default true.
   */
  readonly outlivesPower?: boolean;
}

/**
 * The one way to write: short IMMEDIATE transactions, one after the other. IMMEDIATE takes the write lock first, so
 * that a transaction that began cannot fail for a rival's sake. Each write is a savepoint: it happens wholly or not
 * at all, whatever its neighbours do.
 */
export class Writer {
  readonly #connection: Connection;
  readonly #begin: Statement<[]>;
  readonly #commit: Statement<[]>;
  readonly #rollback: Statement<[]>;
  readonly #savepoint: Statement<[]>;
  readonly #rollbackToSavepoint: Statement<[]>;
  readonly #releaseSavepoint: Statement<[]>;
  readonly #waiting: Write[] = [];
  #draining: Promise<void> | undefined;
  #lockedOutSinceMs: number | undefined;
  readonly #refusal: () => Error | undefined;
  #isClosed = false;

  /** `refusal`: why nothing may be written now; asked before each transaction. */
  constructor(connection: Connection, refusal: () => Error | undefined = () => undefined) {
    this.#connection = connection;
    this.#refusal = refusal;
    this.#begin = connection.prepare('BEGIN IMMEDIATE');
    this.#commit = connection.prepare('COMMIT');
    this.#rollback = connection.prepare('ROLLBACK');
    this.#savepoint = connection.prepare('SAVEPOINT one_write');
    this.#rollbackToSavepoint = connection.prepare('ROLLBACK TO one_write');
    this.#releaseSavepoint = connection.prepare('RELEASE one_write');
  }

  /** Resolves with what `work` returned when it is durable. What `work` throws undoes it and rejects. */
  write<T>(work: () => T, { outlivesPower = true }: WriteOptions = {}): Promise<T> {
    if (this.#isClosed) {
      return Promise.reject(new Error('the metadata store is closed'));
    }
    return new Promise((resolve, reject) => {
      const run = () => {
        const value = work();
        return () => resolve(value);
      };
      this.#waiting.push({ run, reject, askedAtMs: performance.now(), outlivesPower });
      this.#draining ??= this.#drain();
    });
  }

  /** Takes no more writes; resolves when those that wait are done. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#draining;
  }

  /** For how long a rival's lock has let no write through; 0 when none waits for it. */
  get lockedOutForMs(): number {
    return this.#lockedOutSinceMs === undefined ? 0 : performance.now() - this.#lockedOutSinceMs;
  }

  async #drain(): Promise<void> {
    while (this.#waiting.length > 0) {
      await nextTurn();
      const batch = this.#waiting.splice(0, MAX_WRITES_PER_COMMIT);
      this.#lockedOutSinceMs ??= performance.now();
      try {
        const transact = () => this.#makingRoom(() => this.#transact(batch));
        const sinceMs = batch[0]?.askedAtMs;
        const settle = await this.#connection.retrying('write to the index', transact, sinceMs);
        this.#lockedOutSinceMs = undefined;
        settle();
      } catch (error) {
        if (!(error instanceof Error && isBusy(error.cause))) this.#lockedOutSinceMs = undefined;
        const reason = asStorageFull(error);
        batch.forEach(write => write.reject(reason));
      }
    }
    this.#draining = undefined;
  }

  /** On a full disk, what the index has itself is used anew, and what is in reserve; only then is the disk full for it. */
  #makingRoom<T>(work: () => T): T {
    try {
      return work();
    } catch (full) {
      if (!isFull(full)) throw full;
      for (const makeRoom of [() => this.#beginLogAnew(), () => this.#connection.giveUpReserve()]) {
        try {
          if (makeRoom()) return work();
        } catch (error) {
          if (!isFull(error)) throw error;
        }
      }
      throw full;
    }
  }

  #beginLogAnew(): boolean {
    this.#connection.checkpoint();
    return true;
  }

  /** One transaction; returns what tells its callers. */
  #transact(batch: readonly Write[]): () => void {
    const refusal = this.#refusal();
    if (refusal !== undefined) throw refusal;
    this.#connection.syncsCommits = batch.some(({ outlivesPower }) => outlivesPower);
    this.#begin.run();
    try {
      const outcomes = batch.map(write => this.#attempt(write));
      this.#commit.run();
      return () => outcomes.forEach(settle => settle());
    } catch (error) {
      if (this.#connection.isInTransaction) {
        this.#rollback.run();
      }
      throw error;
    }
  }

  #attempt(write: Write): () => void {
    this.#savepoint.run();
    try {
      const settle = write.run();
      this.#releaseSavepoint.run();
      return settle;
    } catch (error) {
      if (!this.#connection.isInTransaction) {
        // A full disk or a broken one ends the whole transaction, with what the neighbours wrote.
        throw error;
      }
      this.#rollbackToSavepoint.run();
      this.#releaseSavepoint.run();
      return () => write.reject(error);
    }
  }
}

/** One code for a full disk, whoever meets it. */
function asStorageFull(error: unknown): unknown {
  if (!isFull(error)) {
    return error;
  }
  return Object.assign(new Error('the disk is full: the index cannot grow', { cause: error }), {
    code: 'ENOSPC',
  });
}
