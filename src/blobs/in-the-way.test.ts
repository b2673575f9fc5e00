import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { moveFolderAside } from './in-the-way.ts';

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-way-'));
  path = join(folder, 'blob');
});

afterEach(() => rm(folder, { recursive: true }));

test('a folder is moved aside with what is in it', async () => {
  await mkdir(path);
  await writeFile(join(path, 'kept'), 'x');
  await moveFolderAside(path);
  const [name = '', ...others] = await readdir(folder);
  expect(others).toEqual([]);
  expect(name).toMatch(/^blob\.folder-/);
  expect(await readdir(join(folder, name))).toEqual(['kept']);
});

test('a blob that another process has put in its place stays', async () => {
  await writeFile(path, 'blob');
  await moveFolderAside(path);
  expect(await readdir(folder)).toEqual(['blob']);
  expect(await readFile(path, 'utf8')).toBe('blob');
});

test('a link to a folder stays, and so does an empty place', async () => {
  await moveFolderAside(path);
  await symlink('/', path);
  await moveFolderAside(path);
  expect(await readdir(folder)).toEqual(['blob']);
});
