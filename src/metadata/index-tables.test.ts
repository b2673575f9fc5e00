import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LeaseLost } from '../lib/lease.ts';
import { leaseOf } from '../lib/lease.suite.ts';
import { silentLog } from '../lib/log.ts';
import { SETTINGS, TABLES } from './index-tables.ts';
import { copiesSayTheSame } from './model/copy.fixture.ts';
import { openSqliteSide } from './model/side.fixture.ts';
import { openSqliteSource, openSqliteTarget } from './sqlite-index-tables.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';
import { Connection } from './sqlite/connection.ts';

let folder: string;
let empty: string;
let opened = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-tables-'));
  empty = join(folder, 'empty.db');
  await (await openSqliteMetadataStore(empty, { log: silentLog })).close();
});

afterAll(() => rm(folder, { recursive: true }));

async function openSide() {
  opened += 1;
  const own = join(folder, String(opened));
  return { side: await openSqliteSide(own, empty), path: join(own, 'index.db') };
}

/** Of the place where a store is, or counted anew. */
const LEFT_BEHIND = [
  'announcements.topic',
  'announcements.version',
  'blobs.key',
  'documents.name',
  'ended_rights.ends',
  'ended_rights.process_id',
  'ended_rights.slot',
  'leases.epoch',
  'leases.key',
  'leases.process_id',
  'links.is_unproved',
  'manifests.id',
  'objects.digest',
  'objects.epoch',
  'objects.key',
  'objects.since_ms',
  'objects.upload_id',
  'owners.bytes',
  'owners.name',
  'owners.repositories',
  'owners.uncollected_bytes',
  'processes.address',
  'processes.heartbeat',
  'processes.id',
  'repositories.bytes',
  'repositories.entries',
  'repositories.tags',
  'totals.blob_bytes',
  'totals.blobs',
  'totals.id',
  'totals.manifest_bytes',
  'totals.manifests',
  'totals.repositories',
  'unrecorded.change',
  'unrecorded.digest',
  'unrecorded.repository',
  'uploads.id',
  'uploads.name',
  'uploads.requester',
  'uploads.started_at_ms',
  'uploads.touched_at_ms',
  'uploads.upstream',
];

test('every column of the index moves, or is known to stay behind', async () => {
  const connection = await Connection.openReadOnly(empty);
  const columns = connection
    .prepare<[], { name: string }>(
      `SELECT t.name || '.' || c.name AS name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
      WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%'`,
    )
    .all()
    .map(({ name }) => name);
  connection.close();
  const moved = TABLES.flatMap(({ name, columns: of }) => Object.keys(of).map(column => `${name}.${column}`));
  expect(columns.filter(name => !moved.includes(name)).toSorted()).toEqual(LEFT_BEHIND);
  // SQLite has it in the name of the document.
  expect(moved.filter(name => !columns.includes(name))).toEqual(['documents.subject']);
});

describe('the tables of an index in SQLite', () => {
  test('are no longer filled once another process has the Lease', async () => {
    const { side, path } = await openSide();
    const [store, other] = side.stores;
    const lease = await leaseOf(store, 'migration');
    const target = await openSqliteTarget(path, lease);
    const add = (value: string) => target.add(SETTINGS, [{ name: 'key', value }]);
    await add('before');
    await store.setAside(lease);
    await leaseOf(other, 'migration');
    for (const write of [() => add('after'), () => target.clear()])
      await expect(write()).rejects.toBeInstanceOf(LeaseLost);
    expect(await other.readSetting('key')).toBe('before');
    await target.close();
    await side.close();
  });

  copiesSayTheSame(
    async () => {
      const { side, path } = await openSide();
      return { side, tables: await openSqliteSource(path) };
    },
    async () => {
      const { side, path } = await openSide();
      return { side, tables: await openSqliteTarget(path, await leaseOf(side.stores[0], 'migration')) };
    },
    20,
  );
});
