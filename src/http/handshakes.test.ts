import { readFileSync } from 'node:fs';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach, expect, it, vi } from 'vitest';
import { type Log, silentLog } from '../lib/log.ts';
import { distrust } from '../../test/support/distrustful-client.ts';
import { freePort } from '../../test/support/programs.ts';
import { connect, MemorySource, startServer, until } from './server.fixture.ts';
import type { RegistryServer } from './server.ts';

const pem = (name: string): string =>
  readFileSync(fileURLToPath(new URL(`../../test/support/tls/${name}`, import.meta.url)), 'utf8');
const tls = { cert: pem('server.pem'), key: pem('server.key') };

let server: (RegistryServer & { readonly port: number }) | undefined;

afterEach(async () => {
  await server?.close(0);
  server = undefined;
});

async function start(headersTimeoutMs: number): Promise<RegistryServer & { readonly port: number }> {
  const listeners = [{ host: '127.0.0.1', port: 0, tls }];
  server = await startServer(new MemorySource(), { listeners, limits: { headersTimeoutMs } });
  return server;
}

it.each([
  ['nothing', ''],
  ['the beginning of a handshake', '\x16\x03\x01'],
])('a socket that sends %s is closed when a head would have been', async (_what, bytes) => {
  const { port } = await start(50);
  const { socket, closed } = connect(port);
  socket.write(bytes);
  expect(await closed).toBe('');
});

it('a server that closes waits for no handshake, and counts them until then', async () => {
  const started = await start(60_000);
  const { closed } = connect(started.port);
  await until(() => started.connections === 1);
  await started.close(60_000);
  expect([await closed, started.connections]).toEqual(['', 0]);
});

/** The server's end of a handshake comes after that of the client, and before its answer. */
async function answered(socket: Socket): Promise<void> {
  socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n');
  await once(socket, 'data');
}

it('a socket that has finished its handshake stays, and is counted once', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const started = await start(60_000);
    const socket = connectTls({ port: started.port, host: '127.0.0.1', rejectUnauthorized: false });
    await answered(socket);
    const { closed } = connect(started.port);
    await vi.waitUntil(() => started.connections === 2, 20_000);
    vi.advanceTimersByTime(60_000);
    expect(await closed).toBe('');
    expect(started.connections).toBe(1);
    expect(socket.closed).toBe(false);
    socket.destroy();
  } finally {
    vi.useRealTimers();
  }
});

it.each([
  ['another listener', ['127.0.0.1', '127.0.0.1'], '127.0.0.1'],
  ['another address of the same listener', ['0.0.0.0'], '127.0.0.2'],
])('a handshake from the same port with %s does not lift its limit', async (_, hosts, otherHost) => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const listeners = hosts.map(host => ({ host, port: 0, tls }));
    const limits = { headersTimeoutMs: 60_000 };
    const started = await startServer(new MemorySource(), { listeners, limits });
    server = started;
    const [silent = 0, other = silent] = started.addresses.map(({ port }) => port);
    const from = { localAddress: '127.0.0.1', localPort: await freePort() };
    const first = connectTcp({ port: silent, host: '127.0.0.1', ...from });
    await once(first, 'connect');
    const closed = once(first.resume(), 'close');
    const socket = connectTcp({ port: other, host: otherHost, ...from });
    await answered(connectTls({ socket, rejectUnauthorized: false }));
    await vi.waitUntil(() => started.connections === 2, 20_000);
    vi.advanceTimersByTime(60_000);
    await closed;
    expect(started.connections).toBe(1);
    socket.destroy();
  } finally {
    vi.useRealTimers();
  }
});

/** Lines of the log at level warn. */
function recordingLog(): { readonly log: Log; readonly warnings: object[] } {
  const warnings: object[] = [];
  const log: Log = { ...silentLog, warn: fields => void warnings.push(fields) };
  return { log, warnings };
}

async function startLogged() {
  const { log, warnings } = recordingLog();
  const listeners = [{ host: '127.0.0.1', port: 0, tls }];
  server = await startServer(new MemorySource(), { listeners, log });
  return { port: server.port, warnings };
}

it('a client that speaks plain HTTP gets a 400 with a hint, and is logged', async () => {
  const { port, warnings } = await startLogged();
  const answer = await fetch(`http://127.0.0.1:${port}/v2/`, { headers: { connection: 'close' } });
  expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining('https://')]);
  await until(() => warnings.length > 0);
  expect(warnings).toEqual([{ reason: 'the client spoke plain HTTP', remotes: ['127.0.0.1'], count: 1 }]);
});

it('the reason of a failed handshake is logged, also if the client disconnects in the middle', async () => {
  const { port, warnings } = await startLogged();
  const old = connectTls({
    port,
    host: '127.0.0.1',
    maxVersion: 'TLSv1.1',
    minVersion: 'TLSv1',
    ciphers: 'ALL@SECLEVEL=0',
  });
  await once(old, 'error');
  await distrust(port);
  await distrust(port, { silently: true });
  await until(() => warnings.length > 2);
  expect(warnings).toEqual([
    { reason: expect.stringMatching(/version|protocol/), remotes: ['127.0.0.1'], count: 1 },
    {
      reason: expect.stringMatching(/^the client does not trust the certificate \(.*unknown ca\)$/),
      remotes: ['127.0.0.1'],
      count: 1,
    },
    {
      reason: expect.stringMatching(/^the client disconnected: it may not/),
      remotes: ['127.0.0.1'],
      count: 1,
    },
  ]);
});

it('a connection that only checks whether the port is open causes no warning', async () => {
  const { port, warnings } = await startLogged();
  const { socket, closed } = connect(port);
  socket.destroy();
  await closed;
  await until(() => server?.connections === 0);
  expect(warnings).toEqual([]);
});

it('clients that are gone before their connections are accepted are no failed handshakes', async () => {
  const { log, warnings } = recordingLog();
  const listeners = [{ host: '127.0.0.1', port: 0, tls }];
  server = await startServer(new MemorySource(), { listeners, log, limits: { headersTimeoutMs: 50 } });
  const { port } = server;
  const gone = Array.from({ length: 20 }, async () => {
    const socket = connectTcp(port, '127.0.0.1', () => socket.write('x', () => socket.resetAndDestroy()));
    await once(socket, 'close');
  });
  await Promise.all(gone);
  // Its limit is over later than theirs.
  const { closed } = connect(port);
  await closed;
  const reason = 'not completed within 50 ms';
  const late = () => warnings.filter(warning => 'reason' in warning && warning.reason === reason);
  await until(() => late().length > 0);
  expect(late()).toEqual([{ reason, remotes: ['127.0.0.1'], count: 1 }]);
});
