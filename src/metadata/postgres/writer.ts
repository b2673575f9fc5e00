import { errorCode } from '../../lib/error-code.ts';
import { CommitOutcomes, NAME_RUN, type SentCommit, TRANSACTION } from './commit-outcomes.ts';
import { type Database, type AttemptOutcome, WRITE_WITHIN_MS } from './database.ts';
import { type LockedDigests, lockSpace, takeLocks } from './digest-locks.ts';
import type { Client } from './driver.ts';
import { isAway } from './failures.ts';
import { PostgresSession } from './session.ts';

/** No statement of a write takes as long, unless it waits for a lock. */
const STATEMENT_TIMEOUT_MS = 10_000;
/** Then others, who wait behind this one, come first: it is repeated. */
const LOCK_TIMEOUT_MS = 3_000;
/** A process that was suspended in the middle of a write gives its locks back after this time. */
const IDLE_TIMEOUT_MS = 5_000;

/** Of each transaction. */
const SETTINGS: readonly (readonly [name: string, value: string])[] = [
  ['statement_timeout', String(STATEMENT_TIMEOUT_MS)],
  ['lock_timeout', String(LOCK_TIMEOUT_MS)],
  ['idle_in_transaction_session_timeout', String(IDLE_TIMEOUT_MS)],
  // Compiling the conditions of a removal takes longer than 20 rows.
  ['jit', 'off'],
];

/** How many rows count the version of the index, so that writes do not wait for each other. */
export const VERSION_SLOTS = 16;

export interface WriteOptions extends LockedDigests {
  /** False for a write that means nothing after the database crashed: its commit is not waited for. Default true. */
  readonly outlivesPower?: boolean;
  /** False for a write of what no pull is answered from. Default true. */
  readonly bearsOnPulls?: boolean;
}

/** A transaction that is being committed, with what it has led to if it is. */
type Committing<T> = SentCommit & AttemptOutcome<T>;

/**
 * The only way to write: short transactions in READ COMMITTED. What a transaction decides about is locked before it reads
 * anything: content by its digest, a repository by its row, a Lease by its row. So each statement sees what others have
 * committed before, and nothing of that changes until the end.
 *
 * Every transaction may be repeated. If the connection is lost while it commits, the server is asked what became of it.
 */
export class Writer {
  readonly #database: Database;
  readonly #outcomes: CommitOutcomes;
  readonly #space: number;

  constructor(database: Database) {
    this.#database = database;
    this.#outcomes = new CommitOutcomes(database);
    this.#space = lockSpace(database.schema.name, 'digests');
  }

  /**
   * Resolves with the result of `work` when it is durable. If `work` rejects, its changes are undone and this rejects.
   * `work` may be called again after its changes were undone, so whatever else it does must be repeatable.
   */
  write<T>(work: (session: PostgresSession) => Promise<T>, options: WriteOptions = {}): Promise<T> {
    let committing: Committing<T> | undefined;
    return this.#database.retrying(
      'writes',
      client => {
        committing = undefined;
        return this.#transact(client, work, { ...options, onCommit: begun => (committing = begun) });
      },
      () => this.#outcomeOf(committing),
    );
  }

  /** The same, once, even if the database was away for a while, and before other work. `run`: as in `SentCommit`. */
  writeFirst<T>(
    work: (session: PostgresSession, run: string) => Promise<T>,
    options: WriteOptions,
  ): Promise<T> {
    return this.#database.trying(client => this.#transact(client, work, options));
  }

  /** Takes further locks in a transaction that has none yet. */
  async lock(session: PostgresSession, digests: LockedDigests): Promise<void> {
    const statement = takeLocks(this.#space, digests);
    if (statement !== '') await session.rows(statement);
  }

  /** `onCommit` is called before the commit, of which it may never be answered what became. */
  async #transact<T>(
    client: Client,
    work: (session: PostgresSession, run: string) => Promise<T>,
    { onCommit, ...options }: WriteOptions & { readonly onCommit?: (committing: Committing<T>) => void },
  ): Promise<T> {
    const session = new PostgresSession(client, this.#database.schema, WRITE_WITHIN_MS);
    try {
      const begun = await this.#begin(client, options);
      const result = await work(session, begun.run);
      onCommit?.({ ...begun, result });
      await this.#commit(client, options);
      return result;
    } catch (error) {
      await rollBack(client, error);
      throw error;
    }
  }

  /** What a write has led to whose connection was lost. `undefined`: it was undone. */
  async #outcomeOf<T>(committing: Committing<T> | undefined): Promise<AttemptOutcome<T> | undefined> {
    if (committing === undefined) return undefined;
    return (await this.#outcomes.isCommitted(committing)) ? { result: committing.result } : undefined;
  }

  async #begin(client: Client, options: WriteOptions): Promise<SentCommit> {
    for (;;) {
      const { id, run } = await this.#beginNow(client, options);
      if (run !== null) return { id, run };
      await client.query('ROLLBACK');
      await client.query(this.#database.schema.text(NAME_RUN));
    }
  }

  async #beginNow(client: Client, { outlivesPower = true, ...digests }: WriteOptions) {
    const settings = outlivesPower ? SETTINGS : [...SETTINGS, ['synchronous_commit', 'off'] as const];
    // One statement, since the server takes as long for each of several as for the transaction's own.
    const set = settings.map(([name, value]) => `set_config('${name}', '${value}', true)`);
    const begin = this.#database.schema.text(`
      BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
      SELECT ${TRANSACTION}, ${set.join(', ')};`);
    const results = await client.query<{ id: string; run: string | null }>(
      `${begin} ${takeLocks(this.#space, digests)}`,
    );
    const [begun] = [results].flat().flatMap(({ rows }) => rows);
    if (begun === undefined) throw new Error('internal error: a transaction without an id');
    return begun;
  }

  async #commit(client: Client, { bearsOnPulls = true }: WriteOptions): Promise<void> {
    const raise = `
      UPDATE @versions SET version = version + 1
      WHERE slot = (pg_current_xact_id()::text::bigint % ${VERSION_SLOTS});`;
    const results = await client.query(this.#database.schema.text(`${bearsOnPulls ? raise : ''} COMMIT`));
    const { command } = lastOf(results);
    if (command !== 'COMMIT') throw new Error(`the index has answered a commit by ${command}`);
  }
}

/** A connection that is lost has nothing to undo. */
async function rollBack(client: Client, error: unknown): Promise<void> {
  if (isAway(error) || errorCode(error) === '25P03') return;
  await client.query('ROLLBACK');
}

/** Of several statements in one message. */
function lastOf<Result>(results: Result | readonly Result[]): Result {
  const last = Array.isArray(results) ? results.at(-1) : results;
  if (last === undefined) throw new Error('internal error: a message without a statement');
  return last;
}
