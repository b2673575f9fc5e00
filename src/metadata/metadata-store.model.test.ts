import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { comparisonWithModel } from './model/comparison.fixture.ts';
import { openSqliteSide } from './model/side.fixture.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';

let folder: string;
let empty: string;
let opened = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-model-'));
  empty = join(folder, 'empty.db');
  await (await openSqliteMetadataStore(empty, { log: silentLog })).close();
});

afterAll(() => rm(folder, { recursive: true }));

describe('whatever happens to an index in SQLite', () => {
  comparisonWithModel(() => {
    opened += 1;
    return openSqliteSide(join(folder, String(opened)), empty);
  }, 40);
});
