import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Daemon, until } from './programs.ts';
import { canPreload } from './preload-library.ts';
import { type Fault, SyscallShim } from './syscall-shim.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

let folder: string;

beforeEach(async () => {
  folder = await makeTempFolder('shim');
});

afterEach(() => removeFolder(folder));

/** Writes twice to `new`, syncs it and moves it to `old`, beneath the faults; an error goes to standard output. */
async function start(...faults: Fault[]): Promise<{ daemon: Daemon; shim: SyscallShim }> {
  const shim = await SyscallShim.open(join(folder, 'shim'));
  await shim.set(...faults);
  const script = `
    const { open, rename } = require('node:fs/promises');
    (async () => {
      const file = await open('new', 'w+');
      const first = await file.writev([Buffer.from('one '), Buffer.from('two ')], 0);
      await file.write(Buffer.from('three'), 0, 5, first.bytesWritten);
      await file.sync();
      await rename('new', 'old');
    })().catch(error => console.log(error.code));`;
  const isReady = async (): Promise<boolean> => true;
  const args = ['--eval', script];
  const daemon = await Daemon.start({ program: process.execPath, args, cwd: folder, env: shim.env, isReady });
  return { daemon, shim };
}

async function textOf(daemon: Daemon): Promise<string> {
  await until('the program to end', 30_000, async () => !daemon.isRunning);
  return daemon.logs() || readFile(join(folder, 'old'), 'utf8');
}

describe.skipIf(!canPreload)('the shim between a program and the kernel (gcc)', () => {
  it('changes nothing without a fault', async () => {
    const { daemon, shim } = await start();
    expect(await textOf(daemon)).toBe('one two three');
    expect(await shim.met()).toEqual([]);
  });

  it('stops the process before a call, until it is told to continue', async () => {
    const { daemon, shim } = await start({
      id: 'before-move',
      call: 'rename',
      path: 'new -> old',
      action: 'stop',
    });
    expect(await shim.untilMet('before-move')).toMatchObject({ call: 'rename', pid: daemon.pid });
    await until('the process to stand still', 10_000, async () => isStopped(daemon.pid));
    expect(await readFile(join(folder, 'new'), 'utf8')).toBe('one two three');
    process.kill(daemon.pid, 'SIGCONT');
    expect(await textOf(daemon)).toBe('one two three');
  });

  it('fails the call with the given number, and only that one', async () => {
    const { daemon } = await start({
      id: 'full',
      call: 'write',
      path: '/new',
      nth: 2,
      action: { fail: 'ENOSPC' },
    });
    expect(await textOf(daemon)).toBe('ENOSPC\n');
    expect(await readFile(join(folder, 'new'), 'utf8')).toBe('one two ');
  });

  it('makes a write incomplete, which the program notices when the rest fails', async () => {
    const write = { call: 'write', path: '/new' } as const;
    const { daemon } = await start(
      { ...write, id: 'torn', nth: 1, action: { tearBytes: 5 } },
      { ...write, id: 'broken', nth: 2, action: { fail: 'EIO' } },
    );
    expect(await textOf(daemon)).toBe('one tthree');
  });

  it('kills the process after a call', async () => {
    const { daemon } = await start({ id: 'end', call: 'sync', path: '/new', action: 'kill', phase: 'after' });
    await until('the process to end', 30_000, async () => !daemon.isRunning);
    expect(await readFile(join(folder, 'new'), 'utf8')).toBe('one two three');
  });
});

function isStopped(pid: number): boolean {
  return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.startsWith('T') === true;
}
