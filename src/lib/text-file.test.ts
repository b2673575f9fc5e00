import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readTextFile, UnreadableFile } from './text-file.ts';

const folder = mkdtempSync(join(tmpdir(), 'entrepot-text-'));
afterAll(() => rmSync(folder, { recursive: true }));

const file = (name: string) => join(folder, name);

test('a file is read completely, up to the limit and through links; a missing one is undefined', async () => {
  writeFileSync(file('text'), 'grüße');
  symlinkSync('text', file('link'));
  symlinkSync('nowhere', file('dangling'));
  expect(await readTextFile(file('text'), 7)).toBe('grüße');
  expect(await readTextFile(file('link'), 100)).toBe('grüße');
  expect(await readTextFile(file('dangling'), 100)).toBeUndefined();
  writeFileSync(file('empty'), '');
  expect(await readTextFile(file('empty'), 100)).toBe('');
});

test('a file that is too large, or not a regular file, is refused without being read', async () => {
  execFileSync('mkfifo', [file('pipe')]);
  for (const [path, why] of [
    [file('text'), 'is larger than 6 bytes'],
    [file('pipe'), 'is not a file'],
    ['/dev/zero', 'is not a file'],
    [folder, 'is not a file'],
  ] as const) {
    await expect(readTextFile(path, 6)).rejects.toThrow(UnreadableFile);
    await expect(readTextFile(path, 6)).rejects.toThrow(why);
  }
});
