import { errorCode } from '../../lib/error-code.ts';
import { IndexUnusable } from '../index-unusable.ts';
import type { Connection } from './connection.ts';
import { SCHEMA_1 } from './schema-1.ts';
import { SCHEMA_10 } from './schema-10.ts';
import { SCHEMA_11 } from './schema-11.ts';
import { SCHEMA_12 } from './schema-12.ts';
import { SCHEMA_13 } from './schema-13.ts';
import { SCHEMA_14 } from './schema-14.ts';
import { SCHEMA_15 } from './schema-15.ts';
import { SCHEMA_16 } from './schema-16.ts';
import { SCHEMA_17 } from './schema-17.ts';
import { SCHEMA_18 } from './schema-18.ts';
import { SCHEMA_19 } from './schema-19.ts';
import { SCHEMA_2 } from './schema-2.ts';
import { SCHEMA_20 } from './schema-20.ts';
import { SCHEMA_3 } from './schema-3.ts';
import { SCHEMA_4 } from './schema-4.ts';
import { SCHEMA_5 } from './schema-5.ts';
import { SCHEMA_6 } from './schema-6.ts';
import { SCHEMA_7 } from './schema-7.ts';
import { SCHEMA_8 } from './schema-8.ts';
import { SCHEMA_9 } from './schema-9.ts';

/** Migration n leads from version n - 1 to n. A released one is never changed. */
export const MIGRATIONS: readonly string[] = [
  SCHEMA_1,
  SCHEMA_2,
  SCHEMA_3,
  SCHEMA_4,
  SCHEMA_5,
  SCHEMA_6,
  SCHEMA_7,
  SCHEMA_8,
  SCHEMA_9,
  SCHEMA_10,
  SCHEMA_11,
  SCHEMA_12,
  SCHEMA_13,
  SCHEMA_14,
  SCHEMA_15,
  SCHEMA_16,
  SCHEMA_17,
  SCHEMA_18,
  SCHEMA_19,
  SCHEMA_20,
];

/** 'entp': distinguishes our index from other SQLite files. */
const APPLICATION_ID = 0x656e7470;

/**
 * Migrates the index to the newest version, each step in a transaction of its own. Several processes may do this at
 * once.
 */
export async function migrate(
  connection: Connection,
  migrations: readonly string[] = MIGRATIONS,
): Promise<void> {
  let isDone = false;
  while (!isDone) {
    isDone = await connection.retrying('open the index', () => step(connection, migrations));
  }
}

/** Runs the next migration; true if there is none left. The version is read under the write lock. */
function step(connection: Connection, migrations: readonly string[]): boolean {
  connection.execute('BEGIN IMMEDIATE');
  try {
    const version = recognise(connection, migrations.length);
    const migration = migrations[version];
    if (migration !== undefined) {
      advance(connection, migration, version);
      connection.execute(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${version + 1}`);
    }
    connection.execute('COMMIT');
    return migration === undefined;
  } catch (error) {
    if (connection.isInTransaction) {
      connection.execute('ROLLBACK');
    }
    throw error;
  }
}

/** Runs one migration. Throws IndexUnusable if the tables are not those of `version`. */
function advance(connection: Connection, migration: string, version: number): void {
  try {
    connection.execute(migration);
  } catch (error) {
    if (!(error instanceof Error) || errorCode(error) !== 'SQLITE_ERROR') throw error;
    throw new IndexUnusable(
      `the index declares schema version ${version}, but its tables do not match (${error.message}): its ` +
        'header was damaged or changed. Restore a backup (entrepot restore), or create a new index (entrepot rebuild)',
      { cause: error, isDamaged: true },
    );
  }
}

/** The version of the index; 0 if it is empty. Throws if this program cannot use it. */
function recognise(connection: Connection, newest: number): number {
  const version = connection.pragma('user_version');
  const isOurs = connection.pragma('application_id') === APPLICATION_ID;
  const isEmpty = connection.prepare('SELECT 1 FROM sqlite_schema LIMIT 1').get() === undefined;
  if (!isOurs && !isEmpty) {
    throw new IndexUnusable('the index is a SQLite file of another program');
  }
  if (version > newest) {
    throw new IndexUnusable(
      `the index has schema version ${version}, and this version supports only ${newest}: ` +
        'it was written by a newer version of Entrepot; use that version',
    );
  }
  return version;
}
