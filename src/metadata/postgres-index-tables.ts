import type { Lease } from '../lib/lease.ts';
import {
  BLOBS,
  FILLED,
  type IndexReading,
  type IndexRow,
  type IndexSource,
  type IndexTable,
  type IndexTarget,
  SETTINGS,
} from './index-tables.ts';
import { Database } from './postgres/database.ts';
import { requireNotTaken } from './postgres/leases.ts';
import type { PostgresSettings } from './postgres/postgres-settings.ts';
import { PostgresSession, type Rows } from './postgres/session.ts';
import { Writer } from './postgres/writer.ts';

const TYPES = { text: 'text', number: 'bigint', boolean: 'boolean', bytes: 'bytea' } as const;

/** A page is read within seconds. */
const PAGE_WITHIN_MS = 120_000;

/** Those whose ids the database assigns. It must continue after the largest one. */
const NUMBERED: readonly (readonly [table: string, column: string])[] = [
  ['repositories', 'id'],
  ['readings', 'id'],
  ['outbox', 'position'],
];

/** The index in a database, on a connection of its own. */
export function openPostgresSource(settings: PostgresSettings): IndexSource {
  const database = new Database({ ...settings, poolSize: 1 });
  return {
    ...readingOf(database),
    read: work =>
      database.trying(async client => {
        // It is idle while what was read is written elsewhere.
        await client.query(
          'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0',
        );
        try {
          return await work(readingOf(new PostgresSession(client, database.schema, PAGE_WITHIN_MS)));
        } finally {
          // A connection that is lost has nothing to end.
          await client.query('ROLLBACK').catch(() => {});
        }
      }),
    close: () => database.close(),
  };
}

function readingOf(on: Rows): IndexReading {
  return {
    rows: async function* ({ name, key, columns, rowsPerPage }) {
      const keys = key.join(', ');
      const given = key.map((column, at) => `$${at + 1}::${TYPES[columns[column] ?? 'text']}`).join(', ');
      const select = `SELECT ${Object.keys(columns).join(', ')} FROM @${name}
        WHERE (${keys}) > (${given}) ORDER BY ${keys} LIMIT ${rowsPerPage}`;
      let after: IndexRow | undefined;
      for (;;) {
        const from = key.map(column => after?.[column] ?? (columns[column] === 'number' ? -1 : ''));
        const page = await on.rows<IndexRow>(select, from);
        if (page.length > 0) yield page;
        if (page.length < rowsPerPage) return;
        after = page.at(-1);
      }
    },
  };
}

/** The index in an existing database, on a connection of its own. `lease`: the one under which it is filled. */
export function openPostgresTarget(settings: PostgresSettings, lease: Lease): IndexTarget {
  const database = new Database({ ...settings, poolSize: 1 });
  const writer = new Writer(database);
  const write = (work: (session: PostgresSession) => Promise<void>) =>
    writer.write(async session => {
      await requireNotTaken(session, lease);
      await work(session);
    });
  return {
    ...readingOf(database),
    clear: () =>
      write(async session => {
        await session.rows(`TRUNCATE ${[...FILLED.map(({ name }) => `@${name}`), '@owners'].join(', ')}`);
        await session.rows('UPDATE @totals SET repositories = 0, manifests = 0, manifest_bytes = 0');
      }),
    add: (table, rows) =>
      write(async session => {
        const values = Object.keys(table.columns).map(column => rows.map(row => row[column]));
        await session.rows(insertInto(table), values);
      }),
    finish: () =>
      write(async session => {
        for (const [name, column] of NUMBERED) {
          await session.rows(
            `SELECT setval(pg_get_serial_sequence($1, '${column}'), max(${column})) FROM @${name}`,
            [database.schema.text(`@${name}`)],
          );
        }
      }),
    close: () => database.close(),
  };
}

/** Each column's values are an array. */
function insertInto(table: IndexTable): string {
  const { name, columns } = table;
  const names = Object.keys(columns).join(', ');
  const given = Object.values(columns).map((type, at) => `$${at + 1}::${TYPES[type]}[]`);
  const rows = `unnest(${given.join(', ')}) AS given (${names})`;
  if (table === BLOBS) {
    return `UPDATE @blobs b SET created_at_ms = given.created_at_ms, used_at_ms = given.used_at_ms FROM ${rows}
      WHERE b.digest = given.digest`;
  }
  const replacing = table === SETTINGS ? 'ON CONFLICT (name) DO UPDATE SET value = excluded.value' : '';
  return `INSERT INTO @${name} (${names}) OVERRIDING SYSTEM VALUE SELECT ${names} FROM ${rows} ${replacing}`;
}
