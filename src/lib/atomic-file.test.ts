import { execFileSync, spawnSync } from 'node:child_process';
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openFilesIn } from '../../test/support/open-files.ts';
import { syncFolder, writeFileAtomic } from './atomic-file.ts';

let folder: string;

async function* breaking(): AsyncGenerator<Buffer> {
  yield Buffer.from('new');
  await Promise.reject(new Error('broken'));
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-atomic-'));
});

afterEach(() => rm(folder, { recursive: true }));

test('a file is replaced completely, and nothing else is left', async () => {
  const path = join(folder, 'state');
  await writeFile(path, 'old and longer');
  await writeFileAtomic(path, [Buffer.from('ne'), Buffer.from('w')]);
  expect(await readFile(path, 'utf8')).toBe('new');
  expect(await readdir(folder)).toEqual(['state']);
});

test('a written file is accessible to its owner only, even if it replaces one that was not', async () => {
  const path = join(folder, 'state');
  await writeFile(path, 'old', { mode: 0o644 });
  await writeFileAtomic(path, [Buffer.from('new')]);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
});

test('a written file has the permissions that are asked for, whatever the umask', async () => {
  const path = join(folder, 'state');
  const umask = process.umask(0o077);
  try {
    await writeFileAtomic(path, [Buffer.from('new')], { mode: 0o644 });
  } finally {
    process.umask(umask);
  }
  expect((await stat(path)).mode & 0o777).toBe(0o644);
});

test('behind a link the file is replaced, and the link stays', async () => {
  await mkdir(join(folder, 'elsewhere'));
  await writeFile(join(folder, 'elsewhere', 'state'), 'old');
  await symlink('elsewhere/state', join(folder, 'state'));
  await writeFileAtomic(join(folder, 'state'), [Buffer.from('new')]);
  expect(await readlink(join(folder, 'state'))).toBe('elsewhere/state');
  expect(await readFile(join(folder, 'elsewhere', 'state'), 'utf8')).toBe('new');
  expect(await readdir(join(folder, 'elsewhere'))).toEqual(['state']);
});

test('behind a link without a target the target is created, and the link stays', async () => {
  await mkdir(join(folder, 'elsewhere'));
  await symlink('elsewhere/state', join(folder, 'link'));
  await symlink(join(folder, 'link'), join(folder, 'state'));
  await writeFileAtomic(join(folder, 'state'), [Buffer.from('new')]);
  expect(await readlink(join(folder, 'link'))).toBe('elsewhere/state');
  expect(await readFile(join(folder, 'elsewhere', 'state'), 'utf8')).toBe('new');
  expect((await readdir(folder)).sort()).toEqual(['elsewhere', 'link', 'state']);
});

test('what a killed process left half-written under the name is removed, and what another one is writing is not', async () => {
  const path = join(folder, 'state');
  const dead = spawnSync('true').pid;
  const others = [
    `state.${hostname()}.${process.ppid}.0123abcd.partial`,
    `state.${hostname()}.${process.ppid}.0123abcd.partial-wal`,
    'state.another-machine.4711.0123abcd.partial',
    `other.${hostname()}.${dead}.0123abcd.partial`,
    'state.partial',
  ];
  const left = [
    'state.another-machine.4712.0123abcd.partial',
    ...['', '-wal', '-shm', '-journal'].map(end => `state.${hostname()}.${dead}.0123abcd.partial${end}`),
  ];
  for (const name of [...others, ...left]) await writeFile(join(folder, name), 'half');
  const longAgo = new Date(Date.now() - 2 * 24 * 3_600_000);
  await utimes(join(folder, left[0] ?? ''), longAgo, longAgo);
  await writeFileAtomic(path, [Buffer.from('new')]);
  expect((await readdir(folder)).sort()).toEqual(['state', ...others].sort());
});

test('the name of a half-written file tells its writer', async () => {
  const seen: string[] = [];
  const looking = async function* () {
    yield Buffer.from('half');
    while (seen.length === 0) seen.push(...(await readdir(folder)));
  };
  await writeFileAtomic(join(folder, 'state'), looking());
  expect(seen).toEqual([expect.stringContaining(`state.${hostname()}.${process.pid}.`)]);
});

test('two files that are written concurrently under one name are each complete', async () => {
  const path = join(folder, 'state');
  const around = async function* () {
    yield Buffer.from('long');
    await writeFileAtomic(path, [Buffer.from('short')]);
    expect(await readFile(path, 'utf8')).toBe('short');
    yield Buffer.from(' and longer');
  };
  await writeFileAtomic(path, around());
  expect(await readFile(path, 'utf8')).toBe('long and longer');
  expect(await readdir(folder)).toEqual(['state']);
});

test('if it cannot be replaced, the old file stays, and nothing else is left', async () => {
  const path = join(folder, 'state');
  await writeFile(path, 'old');
  await expect(writeFileAtomic(path, breaking())).rejects.toThrow('broken');
  expect(await readFile(path, 'utf8')).toBe('old');
  const text = [Buffer.from('x')];
  await expect(writeFileAtomic(join(folder, 'no', 'state'), text)).rejects.toMatchObject({ code: 'ENOENT' });
  await expect(writeFileAtomic(folder, text)).rejects.toMatchObject({ code: 'EISDIR' });
  expect(await readdir(folder)).toEqual(['state']);
});

test('no file stays open if its permissions cannot be set', async () => {
  const path = join(folder, 'state');
  const written = writeFileAtomic(path, [Buffer.from('x')], { mode: 2 ** 40 });
  await expect(written).rejects.toMatchObject({ code: 'ERR_OUT_OF_RANGE' });
  expect(await openFilesIn(folder)).toEqual([]);
  expect(await readdir(folder)).toEqual([]);
});

test('without the folder, the error names both', async () => {
  const path = join(folder, 'absent', 'file');
  await expect(writeFileAtomic(path, [Buffer.from('x')])).rejects.toThrow(
    `${path} cannot be written: there is no folder ${join(folder, 'absent')}`,
  );
});

test('the error for a folder, and for a full disk, names what cannot be written', async () => {
  await expect(writeFileAtomic(folder, [Buffer.from('x')])).rejects.toThrow(
    `${folder} cannot be written: it is a folder`,
  );
  const busy = join(folder, 'x'.repeat(250));
  await expect(writeFileAtomic(busy, [Buffer.from('x')])).rejects.toMatchObject({
    code: 'ENAMETOOLONG',
    message: expect.stringMatching(/x{250} cannot be written: /),
  });
  const full = writeFileAtomic('/dev/full', [Buffer.from('x')]);
  await expect(full).rejects.toMatchObject({
    code: 'ENOSPC',
    message: '/dev/full cannot be written: the disk is full (ENOSPC)',
  });
});

test('an error of what is written is not one of the file', async () => {
  const failure = Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO', syscall: 'read' });
  const unreadable = async function* () {
    yield Buffer.from('x');
    throw failure;
  };
  for (const path of [join(folder, 'file'), '/dev/null'])
    await expect(writeFileAtomic(path, unreadable())).rejects.toBe(failure);
  expect(await readdir(folder)).toEqual([]);
});

test('a named pipe is written to, and stays a pipe', async () => {
  const path = join(folder, 'pipe');
  execFileSync('mkfifo', [path]);
  const [read] = await Promise.all([readFile(path, 'utf8'), writeFileAtomic(path, [Buffer.from('new')])]);
  expect(read).toBe('new');
  expect((await stat(path)).isFIFO()).toBe(true);
  expect(await readdir(folder)).toEqual(['pipe']);
});

test('the signal ends waiting for a reader of a named pipe', async () => {
  const path = join(folder, 'pipe');
  execFileSync('mkfifo', [path]);
  const stopping = new AbortController();
  const writing = writeFileAtomic(path, [Buffer.from('new')], { signal: stopping.signal });
  setImmediate(() => stopping.abort());
  await expect(writing).rejects.toThrow('aborted');
});

test('syncing a folder that does not exist rejects', async () => {
  await syncFolder(folder);
  await expect(syncFolder(join(folder, 'no'))).rejects.toMatchObject({ code: 'ENOENT' });
});
