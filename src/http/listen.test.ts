import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { expect, test } from 'vitest';
import { listen } from './listen.ts';

test('a port stays open when a connection could not be accepted', async () => {
  const server = createServer(socket => socket.end('served'));
  const port = await listen(server, { host: '127.0.0.1', port: 0, setting: 'server.listen' });
  // As Node does if accept(2) fails.
  server.emit('error', Object.assign(new Error('accept EMFILE'), { code: 'EMFILE' }));
  const client = connect(port, '127.0.0.1');
  const [text] = await once(client, 'data');
  expect(String(text)).toBe('served');
  client.destroy();
  server.close();
});
