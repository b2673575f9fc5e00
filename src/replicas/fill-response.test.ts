import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { Agent, createServer, get, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';
import { listen } from '../http/listen.ts';
import { sendFill } from './fill-response.ts';

afterEach(() => void vi.useRealTimers());

test('a replica that takes nothing any more, as one that is suspended, does not keep a Fill open', async () => {
  let [sentBytes, isClosed] = [0, false];
  const fill = {
    size: undefined,
    length: 0,
    repositories: [],
    begun: async () => {},
    read: async (buffer: Uint8Array) => {
      sentBytes += buffer.byteLength;
      return buffer.byteLength;
    },
    close: () => void (isClosed = true),
  };
  let sending: Promise<unknown> = Promise.resolve();
  const server = createServer((req, res) => {
    sending = sendFill(fill, 0, { req, res }).catch((error: unknown) => error);
  });
  const port = await listen(server, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const suspended = connect(port, '127.0.0.1').pause();
  suspended.write('GET / HTTP/1.1\r\nHost: replica\r\n\r\n');
  await once(server, 'request');
  // Until the network accepts no more.
  for (let before = -1, rounds = 0; rounds < 1_000; rounds = sentBytes === before ? rounds + 1 : 0) {
    before = sentBytes;
    await setImmediate();
  }
  expect(isClosed).toBe(false);
  await vi.advanceTimersByTimeAsync(90_000);
  expect(await sending).toMatchObject({ message: expect.stringContaining('nothing was taken') });
  expect(isClosed).toBe(true);
  suspended.destroy();
  server.closeAllConnections();
  server.close();
});

/** A Fill of these bytes, which returns them in parts, and then fails if given a failure. */
function fillOf(bytes: Buffer, failure?: Error) {
  return {
    size: bytes.length,
    length: 0,
    repositories: ['up.example/app'],
    begun: async () => {},
    read: async (buffer: Buffer, position: number) => {
      if (position === bytes.length && failure !== undefined) throw failure;
      return bytes.copy(buffer, 0, position, position + 100_000);
    },
    close: () => {},
  };
}

async function responseTo(port: number, agent: Agent): Promise<IncomingMessage> {
  const [response] = await once(get({ port, host: '127.0.0.1', agent }), 'response');
  return response;
}

test('any HTTP client can read a Fill to its end, and then use the connection again', async () => {
  const bytes = randomBytes(450_000);
  const server = createServer((req, res) => void sendFill(fillOf(bytes), 7, { req, res }));
  let connections = 0;
  server.on('connection', () => (connections += 1));
  const port = await listen(server, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  for (let time = 0; time < 2; time += 1) {
    const response = await responseTo(port, agent);
    expect(Buffer.concat(await response.toArray()).equals(bytes.subarray(7))).toBe(true);
    await setImmediate();
  }
  expect(connections).toBe(1);
  agent.destroy();
  server.close();
});

test('a Fill that fails breaks off the response', async () => {
  const fill = fillOf(randomBytes(300_000), new Error('upstream is gone'));
  const server = createServer((req, res) => {
    sendFill(fill, 0, { req, res }).catch(() => res.destroy());
  });
  const port = await listen(server, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
  const agent = new Agent();
  const response = await responseTo(port, agent);
  await expect(response.toArray()).rejects.toMatchObject({ code: 'ECONNRESET' });
  agent.destroy();
  server.close();
});

test('a replica that has left before its Fill was found does not keep it open', async () => {
  let isClosed = false;
  const fill = {
    size: undefined,
    length: 0,
    repositories: [],
    begun: async (signal: AbortSignal) => {
      signal.throwIfAborted();
      await once(signal, 'abort');
    },
    read: async () => 0,
    close: () => void (isClosed = true),
  };
  const server = createServer();
  const sent = new Promise<unknown>(resolve =>
    server.once('request', (req, res) => {
      const send = () => sendFill(fill, 0, { req, res }).catch((error: unknown) => error);
      res.once('close', () => void setImmediate().then(send).then(resolve));
    }),
  );
  const port = await listen(server, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
  const leaving = connect(port, '127.0.0.1');
  leaving.write('GET / HTTP/1.1\r\nHost: replica\r\n\r\n');
  await once(server, 'request');
  leaving.destroy();
  expect(await sent).toMatchObject({ message: 'the other replica has left' });
  expect(isClosed).toBe(true);
  server.close();
});
