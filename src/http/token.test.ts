import { afterEach, expect, it } from 'vitest';
import { OciError } from '../oci/errors.ts';
import { connect, KeptLog, MemorySource, startServer, testResolver, until } from './server.fixture.ts';
import type { Deed } from './front.ts';
import type { RegistryServer } from './server.ts';
import { tokenHandler } from './token.ts';

let server: RegistryServer | undefined;

afterEach(() => server?.close(0));

const nobody = {
  login: async () => {
    throw new OciError('UNAUTHORIZED');
  },
};

it('a client that disconnects within its form causes no error', async () => {
  const log = new KeptLog();
  const deeds: Deed[] = [];
  const token = tokenHandler(nobody, testResolver);
  const started = await startServer(new MemorySource(), { log, token, recordDeed: deed => deeds.push(deed) });
  server = started;
  const { socket, closed, received } = connect(started.port);
  socket.write(
    'POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n',
  );
  await until(() => received().includes('100 Continue'));
  socket.write('grant_type=');
  socket.destroy();
  await closed;
  await until(() => deeds.length === 1);
  expect(deeds).toMatchObject([{ action: 'login', outcome: 'refused' }]);
  expect(log.lines.filter(({ level }) => level === 'error')).toEqual([]);
});

it('a client that never finishes its forms does not prevent others from logging in', async () => {
  const token = tokenHandler(nobody, testResolver);
  const started = await startServer(new MemorySource(), { token, trustedProxies: ['127.0.0.1'] });
  server = started;
  const post = (source: string, body: string): ReturnType<typeof connect> => {
    const connection = connect(started.port);
    const head = `POST /token HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: ${source}\r\nExpect: 100-continue\r\n`;
    connection.socket.write(`${head}Transfer-Encoding: chunked\r\n\r\n${body}`);
    return connection;
  };
  // What one holder may have of the budget by default, and all whom he may have waiting.
  const stalled = Array.from({ length: 8 * 32 + 64 }, () => post('192.0.2.1', ''));
  await until(() => stalled.every(({ received }) => received() !== ''));
  const form = 'grant_type=password&username=a&password=b';
  const own = post('192.0.2.2', `${form.length.toString(16)}\r\n${form}\r\n0\r\n\r\n`);
  await until(() => /HTTP\/1.1 [2-5]/.test(own.received()));
  expect(own.received()).toMatch('HTTP/1.1 401');
  for (const { socket } of stalled) socket.destroy();
});
