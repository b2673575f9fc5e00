import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { silentLog } from '../../lib/log.ts';
import { openSqliteMetadataStore } from '../sqlite-metadata-store.ts';
import { Connection } from './connection.ts';
import * as reachability from './reachability.ts';

interface PlanRow {
  readonly parent: number;
  readonly detail: string;
}

const {
  isPinnedIn,
  isNamedIn,
  isMaimed,
  isUnknownObject,
  importingSinceMs,
  linksTo: _,
  ...byDigest
} = reachability;
const CONDITIONS = {
  ...Object.fromEntries(
    Object.entries(byDigest).map(([name, condition]) => [name, condition('given.digest')]),
  ),
  isPinnedIn: isPinnedIn('given.repository_id', 'given.digest'),
  isNamedIn: isNamedIn('given.repository_id', 'given.digest'),
  isMaimed: isMaimed('given.repository_id'),
  isUnknownObject: isUnknownObject('given.digest', 'given.media_type'),
  importingSinceMs,
};
/** Tables of a few rows, and those of a recursion. */
const MAY_BE_SCANNED = /^SCAN (c|p|pins|above|CONSTANT ROW)\b/;

let folder: string;
let connection: Connection;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-reachability-'));
  const path = join(folder, 'index.db');
  await (await openSqliteMetadataStore(path, { log: silentLog })).close();
  connection = await Connection.openReadOnly(path);
});

afterAll(async () => {
  connection.close();
  await rm(folder, { recursive: true });
});

test.each(Object.entries(CONDITIONS))('%s never reads all rows of a repository or a table', (_name, sql) => {
  const plan = connection.prepare<[{ sinceMs: number }], PlanRow>(
    `EXPLAIN QUERY PLAN SELECT ${sql} AS condition FROM links given WHERE given.created_at_ms > @sinceMs`,
  );
  const steps = plan.all({ sinceMs: 0 }).map(({ detail }) => detail);
  const inCondition = steps.slice(1);
  expect(inCondition.length).toBeGreaterThan(0);
  const slow = inCondition.filter(
    detail =>
      (detail.startsWith('SCAN ') && !MAY_BE_SCANNED.test(detail)) ||
      detail.endsWith('PRIMARY KEY (repository_id=?)'),
  );
  expect(slow).toEqual([]);
});

test('whether a Link keeps a manifest is found out without reading a row of links', () => {
  const plan = connection.prepare<[], PlanRow>(
    `EXPLAIN QUERY PLAN SELECT ${reachability.isKeptManifest('given.digest')} AS condition FROM manifests given`,
  );
  const looked = plan.all().filter(({ detail }) => detail.startsWith('SEARCH l '));
  expect(looked.map(({ detail }) => detail)).toEqual([
    'SEARCH l USING COVERING INDEX links_by_content (digest=? AND kind=?)',
  ]);
});
