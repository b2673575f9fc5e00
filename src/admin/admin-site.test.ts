import http from 'node:http';
import { afterEach, expect, it } from 'vitest';
import { Presence } from '../lib/lease.ts';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { AdminAccess } from './admin-access.ts';
import { type AdminRequest, AdminSite } from './admin-site.ts';
import type { AdminOperationId } from './operations.ts';

let close: (() => Promise<void>) | undefined;

afterEach(async () => {
  await close?.();
  close = undefined;
});

const HERE = { remote: '127.0.0.1', secure: false, loopback: true, proxied: false };

function originOf(req: http.IncomingMessage) {
  return req.headers['x-test-origin'] === 'socket' ? 'socket' : 'address';
}

/** A site whose stream only begins; the cluster lets whoever has `tokens` read, once it has judged. */
async function serve(
  tokens: ReadonlySet<string>,
  {
    judge = async () => {},
    failure,
    presence = () => new Presence(),
    handle = () => Promise.reject(failure),
  }: {
    /** Called when a token comes. */
    readonly judge?: () => Promise<unknown>;
    readonly failure?: unknown;
    readonly presence?: () => Presence;
    readonly handle?: (request: AdminRequest<AdminOperationId>) => Promise<unknown>;
  } = {},
) {
  const clock = new ManualClock();
  const site = new AdminSite({
    access: new AdminAccess({
      logins: [],
      onLoopback: 'read',
      kubernetes: async token => {
        await judge();
        return tokens.has(token) ? { name: 'a', rights: 'read' } : undefined;
      },
      addresses: { of: () => HERE },
      names: [],
      allowsPlainCredentials: false,
      onWrongLogin: () => {},
    }),
    // Whichever is called.
    handlers: new Proxy(Object.create(null), { get: () => handle }),
    events: { follow: (_req, res) => void res.writeHead(200).write('begin') },
    description: () => '{}',
    record: () => {},
    presence,
    clock,
    log: silentLog,
  });
  const server = http.createServer((req, res) => void site.serve(req, res, originOf(req)));
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  close = async () => {
    server.closeAllConnections();
    await new Promise(resolve => server.close(resolve));
  };
  const ask = (path: string, headers: http.OutgoingHttpHeaders = {}): Promise<http.IncomingMessage> =>
    new Promise((resolve, reject) => {
      http.get({ host: '127.0.0.1', port, path, headers, agent: false }, resolve).on('error', reject);
    });
  return { clock, ask };
}

it('ends a stream when its client may not read any more, and no other', async () => {
  const tokens = new Set(['leaving', 'staying']);
  const { clock, ask } = await serve(tokens);
  const path = '/admin/v1/events';
  const leaving = await ask(path, { authorization: 'Bearer leaving' });
  const staying = await ask(path, { authorization: 'Bearer staying' });
  const here = await ask(path);
  const ended = new Promise(resolve => leaving.resume().once('end', resolve));
  const others = [staying.resume(), here.resume()];
  await clock.advance(60_000);
  expect(leaving.readableEnded).toBe(false);
  tokens.delete('leaving');
  await clock.advance(15_000);
  await ended;
  await clock.advance(60_000);
  expect(others.map(({ readableEnded }) => readableEnded)).toEqual([false, false]);
});

it('takes a path literally, however a proxy might have read it', async () => {
  const { ask } = await serve(new Set());
  expect((await ask('/admin/v1/openapi.json')).resume().statusCode).toBe(200);
  for (const path of [
    '/admin/v1/x/../openapi.json',
    '/admin/v1/%2e/openapi.json',
    '/admin/v1/../../12345678/openapi.json',
  ]) {
    expect((await ask(path)).resume().statusCode).toBe(404);
  }
});

it('names the parameter that is missing or invalid', async () => {
  const { ask } = await serve(new Set());
  const messageFor = async (path: string): Promise<string> =>
    JSON.parse((await (await ask(path)).toArray()).join('')).error.message;
  expect(await messageFor('/admin/v1/explain')).toBe('parameter reference: missing');
  expect(await messageFor('/admin/v1/images?limit=many')).toBe('parameter limit: not a number');
});

it('answers clients that need no token review while the cluster reviews any number of made-up tokens', async () => {
  let judge: ((value?: unknown) => void) | undefined;
  const judging = new Promise(resolve => void (judge = resolve));
  const { ask } = await serve(new Set(), { judge: () => judging });
  const path = '/admin/v1/openapi.json';
  const madeUp = Array.from({ length: 100 }, (_, at) => ask(path, { authorization: `Bearer made-up-${at}` }));
  for (const headers of [{}, { 'x-test-origin': 'socket' }]) {
    expect((await ask(path, headers)).resume().statusCode).toBe(200);
  }
  judge?.();
  for (const answer of await Promise.all(madeUp)) expect(answer.resume().statusCode).toBe(401);
});

it('acts in the Presence in which the request arrived, however long the cluster reviews its token', async () => {
  const [before, after] = [new Presence(), new Presence()];
  let presence = before;
  const judge = async () => {
    presence = after;
  };
  const during: Presence[] = [];
  const { ask } = await serve(new Set(['reading']), {
    judge,
    presence: () => presence,
    handle: async request => void during.push(request.during),
  });
  await ask('/admin/v1/overview', { authorization: 'Bearer reading' });
  expect(during.map(one => one === before)).toEqual([true]);
});

it.each([
  [
    'ENOSPC',
    503,
    'the disk is full, so nothing can be changed: make room on it, or let upkeep do so (entrepot gc)',
  ],
  ['SQLITE_IOERR_READ', 503, 'the registry cannot access its storage at the moment: try again'],
  ['ERR_ASSERTION', 500, 'internal error: see the log'],
])('says what is wrong with the disk if it fails with %s', async (code, status, message) => {
  const failure = new Error('written for programmers', {
    cause: Object.assign(new Error('a cause'), { code }),
  });
  const { ask } = await serve(new Set(), { failure });
  const answer = await ask('/admin/v1/overview');
  expect(answer.statusCode).toBe(status);
  expect(JSON.parse((await answer.toArray()).join(''))).toMatchObject({ error: { message } });
});
