import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canPreload } from './preload-library.ts';
import { run } from './programs.ts';
import { SyncedCopy } from './synced-copy.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

let folder: string;

beforeEach(async () => {
  folder = await makeTempFolder('synced');
});

afterEach(() => removeFolder(folder));

/** What a power loss leaves after these statements, which run in the folder: each file's text by its path. */
async function leftAfter(statements: string): Promise<Readonly<Record<string, string>>> {
  const watched = join(folder, 'watched');
  const copy = await SyncedCopy.of(watched, join(folder, 'kept'));
  const script = `
    const fs = require('node:fs');
    const write = (path, text) => fs.writeFileSync(path, text, { flag: 'a' });
    const sync = (path, how = fs.fsyncSync) => {
      const file = fs.openSync(path, 'r');
      how(file);
      fs.closeSync(file);
    };
    ${statements}`;
  await run(process.execPath, ['--eval', script], { cwd: watched, env: copy.env });
  const to = join(folder, 'left');
  await copy.copyTo(to);
  const entries = await readdir(to, { recursive: true, withFileTypes: true });
  const files = entries.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name));
  const texts = files.map(async file => [file.slice(to.length + 1), await readFile(file, 'utf8')] as const);
  return Object.fromEntries(await Promise.all(texts));
}

describe.skipIf(!canPreload)('what a power failure leaves (gcc)', () => {
  it('of a file is its content at the last sync, by either call', async () => {
    const left = await leftAfter(`
      write('one', '1'); sync('one'); write('one', '2'); sync('one', fs.fdatasyncSync); write('one', '3');
      write('two', '1'); sync('two'); fs.truncateSync('two'); sync('.');`);
    expect(left).toEqual({ one: '12', two: '1' });
  });

  it('of a folder is its content at its own last sync, under the names of that time', async () => {
    const left = await leftAfter(`
      write('kept', 'a'); sync('kept'); write('removed', 'b'); sync('removed'); write('unsynced', 'c'); sync('.');
      fs.renameSync('kept', 'moved'); fs.rmSync('removed'); write('late', 'd'); sync('late');`);
    expect(left).toEqual({ kept: 'a', removed: 'b', unsynced: '' });
  });

  it('of a nested folder is nothing before both are synced', async () => {
    const left = await leftAfter(`
      fs.mkdirSync('named'); fs.mkdirSync('whole'); fs.mkdirSync('whole/in'); sync('.');
      write('named/file', 'a'); sync('named/file');
      write('whole/in/file', 'b'); sync('whole/in/file'); sync('whole/in'); sync('whole');
      fs.mkdirSync('late'); write('late/file', 'c'); sync('late/file'); sync('late');`);
    expect(left).toEqual({ 'whole/in/file': 'b' });
  });

  it('does not include files elsewhere', async () => {
    expect(await leftAfter(`write('../beside', 'a'); sync('../beside'); sync('..');`)).toEqual({});
  });
});
