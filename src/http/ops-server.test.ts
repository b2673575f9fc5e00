import { afterEach, describe, expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { request } from './fixture.suite.ts';
import { createOpsServer, type OpsServer, type OpsServerOptions } from './ops-server.ts';

let server: OpsServer | undefined;

afterEach(async () => {
  await server?.close();
  server = undefined;
});

async function start(options: Partial<OpsServerOptions> = {}): Promise<number> {
  server = await createOpsServer({
    host: '127.0.0.1',
    port: 0,
    notReady: async () => undefined,
    metrics: async () => ({ contentType: 'text/plain; version=0.0.4', text: 'up 1\n' }),
    log: silentLog,
    ...options,
  });
  return server.port;
}

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
    let problem: string | undefined = 'cannot be followed now: 1';
    const port = await start({ problem: () => problem });
    const reply = await request(port, '/readyz');
    expect([reply.status, reply.body.toString()]).toEqual([200, 'ok\ncannot be followed now: 1\n']);
    problem = undefined;
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
});
