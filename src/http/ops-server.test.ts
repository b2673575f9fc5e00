import { writeFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { silentLog } from '../lib/log.ts';
import { askInFolder } from '../lib/socket-folder.ts';
import { KeptLog, request } from './fixture.suite.ts';
import { createOpsServer, type OpsServer, type OpsServerOptions } from './ops-server.ts';

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

const extra = async (path: string) => (path === '/debug/tenants' ? { tenants: [] } : undefined);

describe('the ops port', () => {
  it('says that the process lives, is ready, and what it counted', async () => {
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

  it('is not ready for a reason, and then still lives', async () => {
    const port = await start({ notReady: async () => 'the store is broken' });
    const reply = await request(port, '/readyz');
    expect([reply.status, reply.body.toString()]).toEqual([503, 'the store is broken\n']);
    expect((await request(port, '/livez')).status).toBe(200);
  });

  it('is ready with a word about what is wrong all the same', async () => {
    let problems = ['the disk is full', 'cannot be followed now: 1'];
    const port = await start({ problems: () => problems });
    const reply = await request(port, '/readyz');
    expect([reply.status, reply.body.toString()]).toEqual([
      200,
      'ok\nthe disk is full\ncannot be followed now: 1\n',
    ]);
    problems = [];
    expect((await request(port, '/readyz')).body.toString()).toBe('ok\n');
  });

  it('is not ready when the check throws or hangs', async () => {
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

  it('answers what is asked of the running server, and nothing that it does not know', async () => {
    const port = await start({
      extra: async (path, query) => (path === '/tenants' ? { asked: query.get('name') } : undefined),
    });
    expect((await request(port, '/tenants?name=a')).body.toString()).toBe('{"asked":"a"}');
    expect((await request(port, '/other')).status).toBe(404);
  });

  it.each([
    ['a foreign Host', { host: 'rebound.example:5001' }],
    ['an address of the network as Host', { host: '192.0.2.1:5001' }],
    ['a page of another site', { 'sec-fetch-site': 'cross-site' }],
    ['another origin of this machine', { origin: 'http://localhost:3000' }],
    ['a proxy on this machine', { 'x-forwarded-for': '192.0.2.7' }],
  ])('tells %s what is for everybody, and nothing else', async (_who, headers) => {
    const port = await start({ extra });
    for (const path of ['/debug/tenants', '/debug/other']) {
      expect((await request(port, path, { headers })).status).toBe(403);
    }
    for (const path of ['/livez', '/readyz', '/metrics']) {
      expect((await request(port, path, { headers })).status).toBe(200);
    }
  });

  it.each(['localhost:5001', '127.0.0.1', '[::1]:5001', 'LOCALHOST.'])(
    'tells who asks on the loopback for %s everything',
    async host => {
      const port = await start({ extra });
      expect((await request(port, '/debug/tenants', { headers: { host } })).status).toBe(200);
    },
  );

  const address = Object.values(networkInterfaces())
    .flatMap(list => list ?? [])
    .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

  it.skipIf(address === undefined)(
    'tells who comes from elsewhere only what is for everybody, whatever it calls us',
    async () => {
      const port = await start({ extra, address: { host: '0.0.0.0', port: 0 } });
      const ask = (path: string) =>
        request(port, path, { host: address ?? '', headers: { host: 'localhost:5001' } });
      expect((await ask('/debug/tenants')).status).toBe(403);
      expect((await ask('/metrics')).status).toBe(200);
    },
  );

  it('tells everything on a socket in the folder, also where there is no port', async () => {
    await start({ extra, address: undefined });
    expect(server?.port).toBeUndefined();
    const told = await askInFolder(join(folder, 'sockets'), async socketPath => {
      const reply = await request(0, '/debug/tenants', { socketPath });
      return reply.body.toString();
    });
    expect(told).toBe('{"tenants":[]}');
  });

  it('is there without a socket where none can be made', async () => {
    await writeFile(join(folder, 'sockets'), 'a file');
    const log = new KeptLog();
    const port = await start({ extra, log });
    expect((await request(port, '/debug/tenants')).status).toBe(200);
    expect(log.lines.map(({ level }) => level)).toEqual(['warn']);
  });
});
