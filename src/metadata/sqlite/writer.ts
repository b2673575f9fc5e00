import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Connection, isBusy, isFull, type Statement } from './connection.ts';

/**
 * Writes of one turn of the event loop share a commit and its sync; at most this many, since the event loop is blocked
 * meanwhile.
 */
const MAX_WRITES_PER_COMMIT = 20;

interface Write {
  /**
   * Runs inside the transaction, perhaps of several attempts; returns a function that settles the caller's promise once
   * the transaction is durable.
   */
  readonly run: () => () => void;
  readonly reject: (error: unknown) => void;
  /** By `performance.now()`. */
  readonly askedAtMs: number;
  readonly outlivesPower: boolean;
  readonly bearsOnPulls: boolean;
}

export interface WriteOptions {
  /**
   * False for a write that means nothing after a power failure, when no process is left: it is committed without a
   * sync, unless it shares the commit with others. Default true.
   */
  readonly outlivesPower?: boolean;
  /** False for a write of what no pull is answered from. Default true. */
  readonly bearsOnPulls?: boolean;
}

/**
 * The only way to write: short IMMEDIATE transactions, one after the other. IMMEDIATE takes the write lock first, so
 * that a transaction that has begun cannot fail because of another process. Each write is done completely or not at
 * all, whatever happens to the others: if one of them throws, all are undone, and each is done in a transaction of its
 * own. That is rare, and savepoints would make SQLite copy each page that any write changes.
 */
export class Writer {
  readonly #connection: Connection;
  readonly #begin: Statement<[]>;
  readonly #commit: Statement<[]>;
  readonly #rollback: Statement<[]>;
  readonly #waiting: Write[] = [];
  #draining: Promise<void> | undefined;
  #lockedOutSinceMs: number | undefined;
  readonly #refusal: () => Error | undefined;
  #changes = 0;
  #isClosed = false;

  /** `refusal` returns the reason for which nothing may be written, if there is one; called before each transaction. */
  constructor(connection: Connection, refusal: () => Error | undefined = () => undefined) {
    this.#connection = connection;
    this.#refusal = refusal;
    this.#begin = connection.prepare('BEGIN IMMEDIATE');
    this.#commit = connection.prepare('COMMIT');
    this.#rollback = connection.prepare('ROLLBACK');
  }

  /**
   * Resolves with the result of `work` when it is durable. If `work` throws, its changes are undone and this rejects.
   * `work` may be called again after its changes were undone, so whatever else it does must be repeatable.
   */
  write<T>(work: () => T, { outlivesPower = true, bearsOnPulls = true }: WriteOptions = {}): Promise<T> {
    if (this.#isClosed) {
      return Promise.reject(new Error('the metadata store is closed'));
    }
    return new Promise((resolve, reject) => {
      const run = () => {
        const value = work();
        return () => resolve(value);
      };
      this.#waiting.push({ run, reject, askedAtMs: performance.now(), outlivesPower, bearsOnPulls });
      this.#draining ??= this.#drain();
    });
  }

  /** Refuses further writes; resolves when the pending ones are done. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#draining;
  }

  /** Counts the transactions of this process that bear on pulls. */
  get changes(): number {
    return this.#changes;
  }

  /** For how long the lock of another process has blocked all writes; 0 if none is waiting. */
  get lockedOutForMs(): number {
    return this.#lockedOutSinceMs === undefined ? 0 : performance.now() - this.#lockedOutSinceMs;
  }

  async #drain(): Promise<void> {
    while (this.#waiting.length > 0) {
      await nextTurn();
      const batch = this.#waiting.splice(0, MAX_WRITES_PER_COMMIT);
      if (await this.#settle(batch)) continue;
      for (const write of batch) {
        await nextTurn();
        await this.#settle([write]);
      }
    }
    this.#draining = undefined;
  }

  /** Does the writes in one transaction. False if one of several has thrown: then nothing is done or settled. */
  async #settle(batch: readonly Write[]): Promise<boolean> {
    this.#lockedOutSinceMs ??= performance.now();
    try {
      const transact = () => this.#makingRoom(() => this.#transact(batch));
      const sinceMs = batch[0]?.askedAtMs;
      const settle = await this.#connection.retrying('write to the index', transact, sinceMs);
      this.#lockedOutSinceMs = undefined;
      settle();
      return true;
    } catch (error) {
      const isLockedOut = error instanceof Error && isBusy(error.cause);
      if (!isLockedOut) this.#lockedOutSinceMs = undefined;
      // For a full disk or a lock, they have all been waiting long enough.
      if (batch.length > 1 && !isLockedOut && !isFull(error)) return false;
      const reason = asStorageFull(error);
      batch.forEach(write => write.reject(reason));
      return true;
    }
  }

  /** On a full disk, uses the index's own free space and then the reserve. Fails only if that is not enough. */
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

  /** Runs one transaction; returns a function that settles the promises of its callers. */
  #transact(batch: readonly Write[]): () => void {
    const refusal = this.#refusal();
    if (refusal !== undefined) throw refusal;
    this.#connection.syncsCommits = batch.some(({ outlivesPower }) => outlivesPower);
    this.#begin.run();
    // Also if the commit fails: then nothing is known to be unchanged.
    if (batch.some(({ bearsOnPulls }) => bearsOnPulls)) this.#changes += 1;
    try {
      const outcomes = batch.map(write => write.run());
      this.#commit.run();
      return () => outcomes.forEach(settle => settle());
    } catch (error) {
      if (this.#connection.isInTransaction) {
        this.#rollback.run();
      }
      throw error;
    }
  }
}

/** The same error for a full disk, wherever it occurs. */
function asStorageFull(error: unknown): unknown {
  if (!isFull(error)) {
    return error;
  }
  return Object.assign(new Error('the disk is full: the index cannot grow', { cause: error }), {
    code: 'ENOSPC',
  });
}
