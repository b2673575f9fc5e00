// The tables of an index in PostgreSQL, copied from and to one in SQLite.
import { join } from 'node:path';
import { afterAll, beforeAll, describe } from 'vitest';
import type { Lease } from '../../src/lib/lease.ts';
import { leaseOf } from '../../src/lib/lease.suite.ts';
import { silentLog } from '../../src/lib/log.ts';
import { type CopiedSide, copiesSayTheSame } from '../../src/metadata/model/copy.fixture.ts';
import { PostgresSides } from '../../src/metadata/model/postgres-side.fixture.ts';
import { openSqliteSide } from '../../src/metadata/model/side.fixture.ts';
import { openPostgresSource, openPostgresTarget } from '../../src/metadata/postgres-index-tables.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { openSqliteSource, openSqliteTarget } from '../../src/metadata/sqlite-index-tables.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import { HAS_POSTGRES, Postgres } from '../support/postgres.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

describe.skipIf(!HAS_POSTGRES)('the tables of an index in PostgreSQL', () => {
  let postgres: Postgres;
  let settings: PostgresSettings;
  let folder: string;
  let empty: string;
  let sides: PostgresSides;
  let opened = 0;

  beforeAll(async () => {
    postgres = await Postgres.start();
    settings = postgres.settings();
    folder = await makeTempFolder('tables');
    empty = join(folder, 'empty.db');
    await (await openSqliteMetadataStore(empty, { log: silentLog })).close();
    sides = await PostgresSides.open(settings, folder);
  });

  afterAll(async () => {
    await sides.close();
    await postgres.remove();
    await removeFolder(folder);
  });

  async function inDatabase<Tables>(
    tables: (at: PostgresSettings, lease: Lease) => Tables,
  ): Promise<CopiedSide<Tables>> {
    const side = await sides.openSide();
    return { side, tables: tables(settings, await leaseOf(side.stores[0], 'a copy')) };
  }

  async function inFile<Tables>(
    tables: (path: string, lease: Lease) => Promise<Tables>,
  ): Promise<CopiedSide<Tables>> {
    opened += 1;
    const own = join(folder, String(opened));
    const side = await openSqliteSide(own, empty);
    return { side, tables: await tables(join(own, 'index.db'), await leaseOf(side.stores[0], 'a copy')) };
  }

  describe('copied from SQLite', () => {
    copiesSayTheSame(
      () => inFile(openSqliteSource),
      () => inDatabase(openPostgresTarget),
      3,
    );
  });

  describe('copied to SQLite', () => {
    copiesSayTheSame(
      () => inDatabase(openPostgresSource),
      () => inFile(openSqliteTarget),
      3,
    );
  });
});
