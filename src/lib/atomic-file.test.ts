import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { syncFolder, writeFileAtomic } from './atomic-file.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-atomic-'));
});

afterEach(() => rm(folder, { recursive: true }));

test('a file is replaced whole, with the mode asked for, and nothing else is left', async () => {
  const path = join(folder, 'state');
  await writeFile(path, 'old and longer');
  await writeFileAtomic(path, 'new', 0o600);
  expect(await readFile(path, 'utf8')).toBe('new');
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect(await readdir(folder)).toEqual(['state']);
});

test('when it cannot be replaced, what was there stays, and nothing else is left', async () => {
  await expect(writeFileAtomic(join(folder, 'no', 'state'), 'x')).rejects.toMatchObject({ code: 'ENOENT' });
  await expect(writeFileAtomic(folder, 'x')).rejects.toMatchObject({ code: 'EISDIR' });
  expect(await readdir(folder)).toEqual([]);
});

test('a folder that is not there cannot be synced', async () => {
  await syncFolder(folder);
  await expect(syncFolder(join(folder, 'no'))).rejects.toMatchObject({ code: 'ENOENT' });
});
