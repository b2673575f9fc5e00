import { writeFile } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { silentLog } from '../lib/log.ts';
import { askInFolder } from '../lib/socket-folder.ts';
import { createOpsServer, type OpsServer, type OpsServerOptions } from './ops-server.ts';
import { connect, KeptLog, request, until } from './server.fixture.ts';

let folder: string;
let server: OpsServer | undefined;

beforeEach(async () => {
  folder = await makeTempFolder('ops');
});

afterEach(async () => {
  await server?.close();
  server = undefined;
  await removeFolder(folder);
});

async function start(options: Partial<OpsServerOptions> = {}): Promise<number> {
  server = await createOpsServer({
    address: { host: '127.0.0.1', port: 0 },
    socketFolder: join(folder, 'sockets'),
    notReady: async () => undefined,
    metrics: async () => ({ contentType: 'text/plain; version=0.0.4', text: 'up 1\n' }),
    log: silentLog,
    ...options,
  });
  return server.port ?? 0;
}

/** Sends a request on each of these connections, and waits until all have that many answers. */
async function askOn(connections: readonly ReturnType<typeof connect>[], answers = 1): Promise<void> {
  for (const { socket } of connections) socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n');
  await until(() => connections.every(({ received }) => received().split('ok\n').length > answers));
}

/** Idle connections, a few hundred at a time: the system refuses more that are not accepted yet. */
async function openIdle(port: number, count: number): Promise<ReturnType<typeof connect>[]> {
  const idle: ReturnType<typeof connect>[] = [];
  while (idle.length < count) {
    const some = Array.from({ length: Math.min(256, count - idle.length) }, () => connect(port));
    await askOn(some);
    idle.push(...some);
  }
  return idle;
}

const extra = async (path: string) => (path === '/debug/tenants' ? { tenants: [] } : undefined);

describe('the ops port', () => {
  it('disconnects a client that sends requests without waiting for the answers', async () => {
    const port = await start({ notReady: () => new Promise(() => {}) });
    const probe = 'GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n';
    const client = connect(port);
    client.socket.write(probe.repeat(3));
    expect(await client.closed).toBe('');
  });

  it('reports that the process lives, is ready, and its metrics', async () => {
    const port = await start();
    expect((await request(port, '/livez')).status).toBe(200);
    expect((await request(port, '/readyz')).status).toBe(200);
    const metrics = await request(port, '/metrics');
    expect([metrics.body.toString(), metrics.headers['content-type']]).toEqual([
      'up 1\n',
      'text/plain; version=0.0.4',
    ]);
    expect((await request(port, '/v2/')).status).toBe(404);
    expect((await request(port, '/livez', { method: 'POST' })).status).toBe(405);
  });

  it('makes the metrics once for all concurrent requests', async () => {
    let made = 0;
    const metrics = async () => {
      await sleep(20);
      return { contentType: 'text/plain', text: `made ${++made}\n` };
    };
    const port = await start({ metrics });
    const replies = await Promise.all(Array.from({ length: 50 }, () => request(port, '/metrics')));
    expect(replies.every(({ status }) => status === 200)).toBe(true);
    expect(made).toBeLessThan(10);
    expect((await request(port, '/metrics')).body.toString()).toBe(`made ${made}\n`);
  });

  it('closes a connection on which very many requests are sent before the first response', async () => {
    const { socket, closed } = connect(await start());
    socket.write('GET /livez HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(1_000));
    expect((await closed).match(/^HTTP\/1\.1 200/gm)?.length ?? 0).toBeLessThan(1_000);
  });

  it('answers a new connection however many idle ones there are, and closes that of the oldest answer', async () => {
    const port = await start({ keepAliveMs: 60_000 });
    const first = connect(port);
    await askOn([first]);
    const second = connect(port);
    await askOn([second]);
    const others = await openIdle(port, 1_022);
    await askOn([first], 2);
    expect((await request(port, '/livez')).status).toBe(200);
    await second.closed;
    expect([first, ...others].filter(({ socket }) => socket.closed)).toEqual([]);
    for (const { socket } of [first, ...others]) socket.destroy();
  });

  it('answers what it was asked first, however many idle connections are opened meanwhile', async () => {
    let answer: (() => void) | undefined;
    const metrics = () =>
      new Promise<{ contentType: string; text: string }>(resolve => {
        answer = () => resolve({ contentType: 'text/plain', text: 'up 1\n' });
      });
    const port = await start({ metrics });
    const scraped = request(port, '/metrics').catch((error: unknown) => ({ status: error }));
    await until(() => answer !== undefined);
    const idle = await openIdle(port, 1_024);
    answer?.();
    expect((await scraped).status).toBe(200);
    for (const { socket } of idle) socket.destroy();
  });

  it('keeps a connection without requests for a few seconds only', async () => {
    const agent = new http.Agent({ keepAlive: true });
    const { headers } = await request(await start(), '/livez', { agent });
    agent.destroy();
    expect(headers['keep-alive']).toBe('timeout=5');
  });

  it('is not ready, with a reason, while it still lives', async () => {
    const port = await start({ notReady: async () => 'the store is broken' });
    const reply = await request(port, '/readyz');
    expect([reply.status, reply.body.toString()]).toEqual([503, 'the store is broken\n']);
    expect((await request(port, '/livez')).status).toBe(200);
  });

  it('is ready although there are problems, which it lists', async () => {
    let problems = ['the disk is full', 'parts of the cluster that cannot be watched at the moment: 1'];
    const port = await start({ problems: async () => problems });
    const reply = await request(port, '/readyz');
    expect([reply.status, reply.body.toString()]).toEqual([
      200,
      'ok\nthe disk is full\nparts of the cluster that cannot be watched at the moment: 1\n',
    ]);
    problems = [];
    expect((await request(port, '/readyz')).body.toString()).toBe('ok\n');
  });

  it.each([
    { why: 'disk gone', problems: () => Promise.reject<readonly string[]>(new Error('disk gone')) },
    { why: 'no answer within 900 ms', problems: () => new Promise<readonly string[]>(() => {}) },
  ])('is ready although its problems cannot be listed: $why', async ({ why, problems }) => {
    const reply = await request(await start({ problems }), '/readyz');
    expect([reply.status, reply.body.toString()]).toEqual([
      200,
      `ok\nthe problems cannot be listed: ${why}\n`,
    ]);
  });

  it('is not ready if the check throws or hangs', async () => {
    const throwing = await start({
      notReady: async () => {
        throw new Error('disk gone');
      },
    });
    expect((await request(throwing, '/readyz')).body.toString()).toBe('broken: disk gone\n');
    await server?.close();
    const hanging = await start({ notReady: () => new Promise(() => {}) });
    expect((await request(hanging, '/readyz')).status).toBe(503);
  });

  it('serves what is for everybody, and nothing else, even on loopback', async () => {
    const port = await start({ extra });
    for (const path of ['/debug/tenants', '/debug/other']) {
      expect((await request(port, path, { headers: { host: 'localhost:5001' } })).status).toBe(404);
    }
    for (const path of ['/livez', '/readyz', '/metrics']) {
      expect((await request(port, path, { headers: { host: 'rebound.example' } })).status).toBe(200);
    }
  });

  it('serves everything on a socket in the folder, even without a port, and 404 for anything unknown', async () => {
    await start({
      address: undefined,
      extra: async (path, query) => (path === '/debug/tenants' ? { asked: query.get('name') } : undefined),
    });
    expect(server?.port).toBeUndefined();
    const told = await askInFolder(join(folder, 'sockets'), async socketPath => [
      (await request(0, '/debug/tenants?name=a', { socketPath })).body.toString(),
      (await request(0, '/debug/other', { socketPath })).status,
      (await request(0, '/livez', { socketPath })).status,
    ]);
    expect(told).toEqual(['{"asked":"a"}', 404, 200]);
  });

  it('works without a socket if none can be created', async () => {
    await writeFile(join(folder, 'sockets'), 'a file');
    const log = new KeptLog();
    const port = await start({ extra, log });
    expect((await request(port, '/livez')).status).toBe(200);
    expect(log.lines.map(({ level }) => level)).toEqual(['warn']);
  });
});
