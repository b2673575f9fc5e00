import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, rmSync } from 'node:fs';
import { chmod, mkdir, readdir, stat, utimes } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { askInFolder, type FolderSocket, listenInFolder, socketFoldersHere } from './socket-folder.ts';

let base: string;
let folder: string;
let sockets: FolderSocket[];

beforeEach(async () => {
  base = await makeTempFolder('sockets');
  folder = join(base, 'sockets');
  sockets = [];
});

afterEach(async () => {
  for (const socket of sockets) await socket.close();
  await removeFolder(base);
});

async function open(server: Server = createServer(client => client.destroy())): Promise<FolderSocket> {
  const socket = await listenInFolder(server, folder);
  sockets.push(socket);
  return socket;
}

/** The name of the socket that is asked. */
const found = async (): Promise<string | undefined> => askInFolder(folder, async path => basename(path));

/** Leaves a socket that nobody listens on, as a process that was killed does. */
async function leaveStale(): Promise<string> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const name = '0123456789abcdef.sock';
  const code = `require('net').createServer().listen(${JSON.stringify(name)}, () => process.kill(process.pid, 'SIGKILL'))`;
  await once(spawn(process.execPath, ['-e', code], { cwd: folder }), 'exit');
  return name;
}

it('a socket is accessible to its owner only, can be found, and is removed with its server', async () => {
  const socket = await open();
  const [name = ''] = await readdir(folder);
  expect((await stat(folder)).mode & 0o777).toBe(0o700);
  expect((await stat(join(folder, name))).mode & 0o777).toBe(0o600);
  expect(await found()).toBe(name);
  expect(await socketFoldersHere()).toContain(folder);
  await socket.close();
  expect(await socketFoldersHere()).not.toContain(folder);
  expect([await readdir(folder), await found()]).toEqual([[], undefined]);
});

it('the owner of a socket is returned unless others could have put it there', async () => {
  await open();
  const owner = () => askInFolder(folder, async (_path, uid) => ({ uid }));
  expect(await owner()).toEqual({ uid: process.getuid?.() });
  await chmod(folder, 0o770);
  expect(await owner()).toEqual({ uid: undefined });
});

it('no server is found if the folder does not exist', async () => {
  expect(await found()).toBeUndefined();
});

it('of two servers the latest is asked, and then the one that is left', async () => {
  await open();
  const [first = ''] = await readdir(folder);
  await utimes(join(folder, first), 1, 1);
  const second = await open();
  expect(await found()).not.toBe(first);
  await second.close();
  expect(await found()).toBe(first);
});

it('what a killed process left is skipped, and removed by the next server', async () => {
  const stale = await leaveStale();
  expect([await readdir(folder), await found()]).toEqual([[stale], undefined]);
  await open();
  // A moment ago it might have been made by a process that is about to listen.
  expect(await readdir(folder)).toContain(stale);
  await utimes(join(folder, stale), 1, 1);
  await open();
  expect(await readdir(folder)).not.toContain(stale);
  expect(await found()).toBeDefined();
});

it('a server does not listen on if its socket cannot be protected', async () => {
  const server = createServer();
  server.once('listening', () => {
    for (const name of readdirSync(folder)) rmSync(join(folder, name));
  });
  await expect(listenInFolder(server, folder)).rejects.toMatchObject({ code: 'ENOENT', syscall: 'chmod' });
  expect(server.listening).toBe(false);
});

it.skipIf(process.platform !== 'linux')('a path that is too long for a socket works, too', async () => {
  folder = join(base, 'long'.repeat(40), 'sockets');
  const socket = await open();
  const [name = ''] = await readdir(folder);
  expect((await stat(join(folder, name))).isSocket()).toBe(true);
  expect(await found()).toBe(name);
  await socket.close();
  expect(await readdir(folder)).toEqual([]);
});
