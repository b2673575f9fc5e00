import { chmod, mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { KeptLog } from '../http/server.fixture.ts';
import { openPrivateFolder } from './private-folder.ts';

const CONTENTS = { database: 'index.db', folders: ['blobs', 'ingest'] };

let folder: string;
let path: string;
let log: KeptLog;

beforeEach(async () => {
  folder = await makeTempFolder('private');
  path = join(folder, 'store');
  log = new KeptLog();
});

afterEach(() => removeFolder(folder));

const modeOf = async (name: string): Promise<string> =>
  ((await stat(join(path, name))).mode & 0o7777).toString(8);

async function makeOpenStore(): Promise<void> {
  await mkdir(path);
  await chmod(path, 0o2755);
  for (const name of CONTENTS.folders) await mkdir(join(path, name), { mode: 0o755 });
  for (const suffix of ['', '-wal', '-shm'])
    await writeFile(join(path, `index.db${suffix}`), '', { mode: 0o644 });
}

it('creates a folder and an empty database for their owner only, without logging', async () => {
  await openPrivateFolder(path, CONTENTS, log);
  expect([await modeOf('.'), await modeOf('index.db')]).toEqual(['700', '600']);
  expect(log.lines).toEqual([]);
});

it('closes what was accessible to others, logs that once, and keeps the other mode bits', async () => {
  await makeOpenStore();
  await openPrivateFolder(path, CONTENTS, log);
  expect(await Promise.all(['.', 'blobs', 'ingest'].map(modeOf))).toEqual(['2700', '2700', '2700']);
  expect(await Promise.all(['index.db', 'index.db-wal', 'index.db-shm'].map(modeOf))).toEqual([
    '600',
    '600',
    '600',
  ]);
  await openPrivateFolder(path, CONTENTS, log);
  expect(log.lines.map(({ level }) => level)).toEqual(['warn']);
  expect(log.lines[0]?.fields).toMatchObject({ paths: expect.arrayContaining([path]) });
});

it('leaves a folder with other contents as it is, and closes what is in it', async () => {
  await makeOpenStore();
  await writeFile(join(path, 'of-somebody-else'), '');
  await openPrivateFolder(path, CONTENTS, log);
  expect([await modeOf('.'), await modeOf('blobs'), await modeOf('index.db')]).toEqual([
    '2755',
    '2700',
    '600',
  ]);
});

it('ignores what a file system creates in its root', async () => {
  await makeOpenStore();
  await mkdir(join(path, 'lost+found'));
  await openPrivateFolder(path, CONTENTS, log);
  expect(await modeOf('.')).toBe('2700');
  expect(await readdir(path)).toContain('lost+found');
});
