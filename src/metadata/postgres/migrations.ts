import { IndexUnusable } from '../index-unusable.ts';
import type { Database } from './database.ts';
import { lockSpace } from './digest-locks.ts';
import { type Client, statement } from './driver.ts';
import { SCHEMA_1 } from './schema-1.ts';
import { SCHEMA_3 } from './schema-3.ts';
import { SCHEMA_4 } from './schema-4.ts';
import { SCHEMA_5 } from './schema-5.ts';

/** A change of the schema. */
export interface Migration {
  readonly sql: string;
  /**
   * The oldest schema version whose programs can go on using the index: during a rolling upgrade two versions do. What only
   * adds something leaves that as it was.
   */
  readonly usableFrom: number;
}

/** Migration n leads from version n - 1 to n. A released one is never changed. */
export const MIGRATIONS: readonly Migration[] = [
  { sql: SCHEMA_1, usableFrom: 1 },
  // The address at which other replicas reach that of the process.
  { sql: 'ALTER TABLE @processes ADD COLUMN replica TEXT', usableFrom: 1 },
  { sql: SCHEMA_3, usableFrom: 1 },
  { sql: SCHEMA_4, usableFrom: 1 },
  { sql: SCHEMA_5, usableFrom: 1 },
  // When it was acquired, or left.
  {
    sql: 'ALTER TABLE @leases ADD COLUMN used_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()',
    usableFrom: 1,
  },
];

/** That of our triggers and functions. */
const OLDEST_SERVER = 130_000;

/** Building an index on a large table takes minutes, and others wait for it. */
const MIGRATED_WITHIN_MS = 3_600_000;

interface VersionRow {
  readonly version: number;
  readonly usable_from: number;
}

/**
 * Migrates the index to the newest version, all steps in one transaction. Several processes may do this at once: the
 * others wait. Rejects with IndexUnusable if this program cannot use it.
 */
export async function migrate(
  database: Database,
  migrations: readonly Migration[] = MIGRATIONS,
): Promise<void> {
  const isCurrent = await database.retrying('reads', async client => {
    await requireServer(client);
    return requireUsable(await readVersion(client, database), migrations) === migrations.length;
  });
  if (isCurrent) return;
  await database.retrying('writes', async client => {
    try {
      await run(
        client,
        `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
        SET LOCAL statement_timeout = 0;
        SET LOCAL lock_timeout = 0;
        SELECT pg_advisory_xact_lock(${lockSpace(database.schema.name, 'migrations')}, 0)`,
      );
      await advance(client, database, migrations);
      await client.query('COMMIT');
    } catch (error) {
      await client.query('ROLLBACK').catch(() => {});
      throw error;
    }
  });
}

/** Call within a transaction that has the lock. */
async function advance(client: Client, database: Database, migrations: readonly Migration[]): Promise<void> {
  const { schema } = database;
  const version = requireUsable(await readVersion(client, database), migrations);
  if (version === 0) {
    await requireEmpty(client, schema.name);
    await client.query(schema.text(CREATE_SCHEMA));
  }
  for (const [at, { sql, usableFrom }] of migrations.entries()) {
    if (at < version) continue;
    await run(client, schema.text(sql));
    await run(
      client,
      schema.text(`
        UPDATE @schema_version SET version = ${at + 1}, usable_from = greatest(usable_from, ${usableFrom})`),
    );
  }
}

/** Statements that may take long. */
async function run(client: Client, sql: string): Promise<void> {
  await client.query(statement(sql, [], MIGRATED_WITHIN_MS));
}

const CREATE_SCHEMA = `
  CREATE TABLE @schema_version (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    usable_from INTEGER NOT NULL
  );
  INSERT INTO @schema_version VALUES (1, 0, 0)`;

/** `undefined` if there is no index. */
async function readVersion(client: Client, { schema }: Database): Promise<VersionRow | undefined> {
  const table = schema.text('@schema_version');
  const found = await client.query('SELECT 1 FROM (SELECT to_regclass($1) AS t) s WHERE t IS NOT NULL', [
    table,
  ]);
  if (found.rowCount === 0) return undefined;
  const { rows } = await client.query<VersionRow>(`SELECT version, usable_from FROM ${table}`);
  return rows[0];
}

/** The version; 0 if there is no index. Throws IndexUnusable if this program is too old for it. */
function requireUsable(row: VersionRow | undefined, { length: newest }: readonly Migration[]): number {
  if (row !== undefined && row.usable_from > newest) {
    throw new IndexUnusable(
      `the index has schema version ${row.version}, which needs a program that knows version ${row.usable_from}, and ` +
        `this one knows only ${newest}: it was written by a newer version of Entrepot; use that version`,
    );
  }
  return row?.version ?? 0;
}

/** Creates the schema if there is none. */
async function requireEmpty(client: Client, schema: string): Promise<void> {
  const { rows } = await client.query<{ isThere: boolean; isUsed: boolean }>(
    `SELECT to_regnamespace(quote_ident($1)) IS NOT NULL AS "isThere",
      EXISTS (SELECT 1 FROM pg_class WHERE relnamespace = to_regnamespace(quote_ident($1))) AS "isUsed"`,
    [schema],
  );
  if (rows[0]?.isUsed === true) {
    throw new IndexUnusable(
      `the schema ${schema} has tables of another program: choose another one (index.postgres.schema)`,
    );
  }
  if (rows[0]?.isThere !== true) await client.query(`CREATE SCHEMA "${schema.replaceAll('"', '""')}"`);
}

async function requireServer(client: Client): Promise<void> {
  const { rows } = await client.query<{ number: number; encoding: string }>(
    `SELECT current_setting('server_version_num')::integer AS number,
      current_setting('server_encoding') AS encoding`,
  );
  const { number = 0, encoding = '' } = rows[0] ?? {};
  if (number < OLDEST_SERVER) {
    throw new IndexUnusable(`PostgreSQL ${OLDEST_SERVER / 10_000} or later is required`);
  }
  if (encoding !== 'UTF8') {
    throw new IndexUnusable(`the database must have the encoding UTF8, and has ${encoding}`);
  }
}
