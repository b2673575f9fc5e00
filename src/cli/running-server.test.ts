import { createServer } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { type FolderSocket, listenInFolder, SOCKET_FOLDER } from '../lib/socket-folder.ts';
import { askAdmin, serversOn } from './running-server.ts';

let store: string;
let sockets: FolderSocket[];

beforeEach(async () => {
  store = await makeTempFolder('servers');
  sockets = [];
});

afterEach(async () => {
  for (const socket of sockets) await socket.close();
  await removeFolder(store);
});

async function answering(text: string, status = 200): Promise<void> {
  const server = createServer((_, response) => response.writeHead(status).end(text));
  sockets.push(await listenInFolder(server, join(store, SOCKET_FOLDER)));
}

it('lists the servers on a store even if one of them answers incorrectly', async () => {
  const document = { pid: 17, addresses: ['127.0.0.1:5000'], config: {} };
  for (const text of ['no JSON', JSON.stringify(document), 'null']) await answering(text);
  expect(await serversOn(store)).toEqual([document]);
});

it('tells what the server says is wrong in its own words, with the status if it is not the request', async () => {
  await answering(JSON.stringify({ error: { code: 'unavailable', message: 'the database is away' } }), 503);
  await expect(askAdmin(store, '/status')).rejects.toThrow(
    /^the running server answered 503: the database is away$/,
  );
});
