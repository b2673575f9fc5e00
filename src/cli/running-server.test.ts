import { createServer } from 'node:http';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { type FolderSocket, listenInFolder, SOCKET_FOLDER } from '../lib/socket-folder.ts';
import { serversOn } from './running-server.ts';

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

async function answering(text: string): Promise<void> {
  const server = createServer((_, response) => response.end(text));
  sockets.push(await listenInFolder(server, join(store, SOCKET_FOLDER)));
}

it('lists the servers on a store even if one of them answers incorrectly', async () => {
  const document = { pid: 17, addresses: ['127.0.0.1:5000'], config: {} };
  for (const text of ['no JSON', JSON.stringify(document), 'null']) await answering(text);
  expect(await serversOn(store)).toEqual([document]);
});
