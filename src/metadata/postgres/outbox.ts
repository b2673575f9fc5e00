import type { Lease } from '../../lib/lease.ts';
import {
  DROPPED_AT_ONCE,
  MAX_WAITING,
  MAX_WAITING_MINOR,
  type Outbox,
  type OutboxMessage,
  type OutboxState,
  type WaitingMessage,
} from '../outbox.ts';
import type { Database } from './database.ts';
import type { PostgresSession } from './session.ts';
import type { Writer } from './writer.ts';

/** The outbox. Its messages and counts are kept by the same writes. */
export class PostgresOutbox implements Outbox {
  readonly #database: Database;
  readonly #writer: Writer;
  readonly #require: (session: PostgresSession, lease: Lease) => Promise<void>;

  /** `require` rejects with LeaseLost, within a write, unless this process holds the Lease. */
  constructor(
    database: Database,
    writer: Writer,
    require: (session: PostgresSession, lease: Lease) => Promise<void>,
  ) {
    this.#database = database;
    this.#writer = writer;
    this.#require = require;
  }

  put(messages: readonly OutboxMessage[]): Promise<void> {
    return this.#write(session => putMessages(session, messages));
  }

  listNext(endpoint: string, limit: number): Promise<readonly WaitingMessage[]> {
    return this.#database.rows<WaitingMessage>(
      'SELECT position, body FROM @outbox WHERE endpoint = $1 ORDER BY position LIMIT $2',
      [endpoint, limit],
    );
  }

  remove(endpoint: string, position: number, lease: Lease): Promise<void> {
    return this.#write(async session => {
      await this.#require(session, lease);
      const removed = await session.changes('DELETE FROM @outbox WHERE endpoint = $1 AND position <= $2', [
        endpoint,
        position,
      ]);
      await count(session, endpoint, -removed, 0);
    });
  }

  skip(endpoint: string, { from, to }: { readonly from: number; readonly to: number }): Promise<number> {
    return this.#write(async session => {
      const skipped = await session.changes(
        `DELETE FROM @outbox WHERE position IN (
          SELECT position FROM @outbox WHERE endpoint = $1 AND position BETWEEN $2 AND $3
          ORDER BY position LIMIT ${DROPPED_AT_ONCE})`,
        [endpoint, from, to],
      );
      if (skipped > 0) await count(session, endpoint, -skipped, 0);
      return skipped;
    });
  }

  async readState(endpoint: string): Promise<OutboxState> {
    const row = await this.#database.row<{
      waiting: number | null;
      dropped: number | null;
      at_ms: number | null;
    }>(
      `SELECT e.waiting, e.dropped, (
        SELECT at_ms FROM @outbox WHERE endpoint = $1 ORDER BY position LIMIT 1) AS at_ms
      FROM (SELECT 1) one LEFT JOIN @outbox_endpoints e ON e.endpoint = $1`,
      [endpoint],
    );
    return {
      waiting: row?.waiting ?? 0,
      oldestAtMs: row?.at_ms ?? undefined,
      dropped: row?.dropped ?? 0,
    };
  }

  dropBefore(beforeMs: number): Promise<number> {
    return this.#write(async session => {
      const rows = await session.rows<{ endpoint: string }>(
        `DELETE FROM @outbox
        WHERE position IN (SELECT position FROM @outbox ORDER BY position LIMIT ${DROPPED_AT_ONCE}) AND at_ms < $1
        RETURNING endpoint`,
        [beforeMs],
      );
      const endpoints = rows.map(({ endpoint }) => endpoint).toSorted();
      for (const endpoint of new Set(endpoints)) {
        const dropped = endpoints.filter(one => one === endpoint).length;
        await count(session, endpoint, -dropped, dropped);
      }
      return rows.length;
    });
  }

  /** A message says nothing about content. Lost in a crash, it is sent once more, or never was acknowledged. */
  #write<T>(work: (session: PostgresSession) => Promise<T>): Promise<T> {
    return this.#writer.write(work, { outlivesPower: false, bearsOnPulls: false });
  }
}

/**
 * Call at the end of a write, and with all its messages: adds them to what it writes. Until it is committed, no other write
 * adds messages for the same endpoint, so that positions are in the order of commits.
 */
export async function putMessages(on: PostgresSession, messages: readonly OutboxMessage[]): Promise<void> {
  const endpoints = new Set(messages.map(({ endpoint }) => endpoint).toSorted());
  for (const endpoint of endpoints) {
    const own = messages.filter(message => message.endpoint === endpoint);
    const before = await lockEndpoint(on, endpoint);
    const added: OutboxMessage[] = [];
    for (const message of own) {
      const room = message.isMinor === true ? MAX_WAITING_MINOR : MAX_WAITING;
      if (before + added.length < room) added.push(message);
    }
    await on.changes(
      `INSERT INTO @outbox (endpoint, at_ms, body)
      SELECT $1, m.at_ms, m.body
      FROM unnest($2::bigint[], $3::text[]) WITH ORDINALITY AS m (at_ms, body, number) ORDER BY m.number`,
      [endpoint, added.map(({ atMs }) => Math.round(atMs)), added.map(({ body }) => body)],
    );
    await count(on, endpoint, added.length, own.length - added.length);
  }
}

/** Returns how many messages wait. */
async function lockEndpoint(on: PostgresSession, endpoint: string): Promise<number> {
  const row = await on.row<{ waiting: number }>(
    `INSERT INTO @outbox_endpoints AS e (endpoint, waiting, dropped) VALUES ($1, 0, 0)
    ON CONFLICT (endpoint) DO UPDATE SET waiting = e.waiting RETURNING waiting`,
    [endpoint],
  );
  return row?.waiting ?? 0;
}

async function count(
  on: PostgresSession,
  endpoint: string,
  moreWaiting: number,
  moreDropped: number,
): Promise<void> {
  await on.changes(
    'UPDATE @outbox_endpoints SET waiting = waiting + $2, dropped = dropped + $3 WHERE endpoint = $1',
    [endpoint, moreWaiting, moreDropped],
  );
}
