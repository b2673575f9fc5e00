import { setTimeout as delay } from 'node:timers/promises';
import { IndexAway } from '../index-away.ts';
import { type Database, READ_WITHIN_MS } from './database.ts';
import { isAway } from './failures.ts';
import { PostgresSession } from './session.ts';

/** A transaction whose commit was sent. */
export interface SentCommit {
  readonly id: string;
  /** The run of the server in which it began: after a crash, another transaction may get the same id. */
  readonly run: string;
}

/** Columns that name the transaction in which they are selected. `run` is `null` until `NAME_RUN`. */
export const TRANSACTION = `
  pg_current_xact_id()::text AS id, (SELECT id::text FROM @server_runs) AS run`;

const NOW_MS = '(extract(epoch FROM clock_timestamp()) * 1000)::bigint';

/**
 * Names this run of the server, before any transaction in it, so that others see the name while that commits. A standby that has
 * taken over may lack the last writes, and would give the next ones the same versions. So versions jump to the time in
 * milliseconds, which they cannot have reached: processes may still remember answers under the lost ones.
 */
export const NAME_RUN = `
  BEGIN READ WRITE;
  INSERT INTO @server_runs DEFAULT VALUES ON CONFLICT DO NOTHING;
  UPDATE @versions SET version = greatest(version, ${NOW_MS}) WHERE slot = 0;
  UPDATE @announcements SET version = greatest(version, ${NOW_MS});
  COMMIT`;

/** A commit of which nothing is known yet is asked for at most this often, and for this long. */
const PAUSE_MS = 100;
const ASK_FOR_MS = 5_000;

interface Fate {
  /** `null` if no transaction with that id, or a later one, has ended yet. */
  readonly status: string | null;
  readonly isSameRun: boolean;
}

/** Asks, on other connections, what became of transactions whose commit was not answered. */
export class CommitOutcomes {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** False if it was undone. Rejects with IndexAway if that cannot be found out. */
  async isCommitted(sent: SentCommit): Promise<boolean> {
    const endMs = performance.now() + ASK_FOR_MS;
    for (;;) {
      const { status, isSameRun } = (await this.#fateOf(sent)) ?? { status: null, isSameRun: true };
      if (status === 'aborted') return false;
      if (status === 'committed' && !isSameRun) throw unknown('the database of the index has crashed');
      if (status === 'committed') return true;
      // A crash has ended it; whoever has its id now is another.
      if (!isSameRun) return false;
      if (performance.now() > endMs) throw unknown('the database of the index cannot be reached');
      await delay(PAUSE_MS);
    }
  }

  /** `undefined` if the database cannot be reached. */
  async #fateOf({ id, run }: SentCommit): Promise<Fate | undefined> {
    try {
      return await this.#database.trying(client =>
        new PostgresSession(client, this.#database.schema, READ_WITHIN_MS).row<Fate>(
          // Of an id that was not given out yet, which a crash can undo, the status is an error.
          `SELECT CASE WHEN $1::xid8 < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status($1::xid8) END AS status,
            EXISTS (SELECT 1 FROM @server_runs WHERE id::text = $2) AS "isSameRun"`,
          [id, run],
        ),
      );
    } catch (error) {
      if (isAway(error)) return undefined;
      throw error;
    }
  }
}

function unknown(why: string): IndexAway {
  return new IndexAway(`${why}: it is not known whether it has committed a write`);
}
