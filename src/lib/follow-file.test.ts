import { appendFile, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { followFile } from './follow-file.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-follow-'));
});

afterEach(() => rm(folder, { recursive: true }));

test('a growing file is read as far as it is written, even after it was moved', async () => {
  const path = join(folder, 'growing');
  await writeFile(path, 'one');
  const file = await followFile(path);
  const buffer = Buffer.alloc(10);
  expect(await file?.read(buffer, 0)).toBe(3);
  expect(await file?.read(buffer, 3)).toBe(0);
  await rename(path, `${path}-moved`);
  await appendFile(`${path}-moved`, 'two');
  expect(await file?.length()).toBe(6);
  expect(await file?.read(buffer, 3)).toBe(3);
  expect(buffer.toString('utf8', 0, 3)).toBe('two');
  await file?.close();
});

test('a missing file is undefined', async () => {
  expect(await followFile(join(folder, 'no'))).toBeUndefined();
});
