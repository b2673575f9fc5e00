import { mkdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { makeFolder } from './make-folder.ts';

let folder: string;

beforeEach(async () => {
  folder = await makeTempFolder('make-folder');
});

afterEach(() => removeFolder(folder));

describe('makeFolder', () => {
  it('makes the folder and those above it with the permissions', async () => {
    await makeFolder(join(folder, 'a', 'b'), 0o700);
    expect((await stat(join(folder, 'a'))).mode & 0o777).toBe(0o700);
    expect((await stat(join(folder, 'a', 'b'))).mode & 0o777).toBe(0o700);
  });

  it('leaves one that is there as it is', async () => {
    await mkdir(join(folder, 'open'), { mode: 0o755 });
    await makeFolder(join(folder, 'open'), 0o700);
    expect((await stat(join(folder, 'open'))).mode & 0o777).toBe(0o755);
  });

  it('rejects where a file is in the way', async () => {
    await writeFile(join(folder, 'file'), '');
    await expect(makeFolder(join(folder, 'file'))).rejects.toMatchObject({ code: 'EEXIST' });
    await expect(makeFolder(join(folder, 'file', 'a'))).rejects.toMatchObject({ code: 'ENOTDIR' });
  });

  it.runIf(process.platform === 'linux')('rejects where the file system makes no folders', () =>
    expect(makeFolder('/proc/entrepot/store')).rejects.toMatchObject({ code: 'ENOENT' }),
  );
});
