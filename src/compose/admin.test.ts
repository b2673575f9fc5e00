import { readFile, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { imageOf, indexOf, randomBlob } from '../../test/support/content.ts';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { freePort } from '../../test/support/programs.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import type { AuditDocument } from '../admin/documents/audit.ts';
import { problemSchema } from '../admin/documents/problem.ts';
import type { SessionDocument } from '../admin/documents/session.ts';
import type { TaskDocument } from '../admin/documents/tasks.ts';
import {
  ADMIN_OPERATIONS,
  ADMIN_PATH,
  type AdminOperation,
  type AdminOperationId,
} from '../admin/operations.ts';
import { loadConfig } from '../config/load.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { createAudit } from '../ops/audit.ts';
import { createMetrics } from '../ops/metrics.ts';
import { type RunningServer, startServer } from './server.ts';

const UPSTREAM = 'up.example';
const READER = basic('reader', 'may look');
const BOSS = basic('boss', 'may: change');

let folder: string;
let upstream: FakeUpstream;
/** Where everybody needs a login. */
let closed: RunningServer;
/** Where everybody on this machine may do everything. */
let open: RunningServer;
/** A login of a tenant, and a token of the registry API that it got with it. */
let tenantLogin: string;
let registryToken: string;

function basic(name: string, password: string): string {
  return `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`;
}

async function start(name: string, server: object, log: Log = silentLog): Promise<RunningServer> {
  const metrics = createMetrics();
  const audit = { output: 'file' as const, auditFile: join(folder, `${name}.audit`) };
  const config = await loadConfig({
    env: {},
    folder,
    overrides: {
      storage: { path: join(folder, name) },
      server: {
        listen: `127.0.0.1:${await freePort()}`,
        opsListen: `127.0.0.1:${await freePort()}`,
        ...server,
      },
      upstreams: { [UPSTREAM]: { url: upstream.url } },
      prepull: { images: [`${UPSTREAM}/app:1`, `${UPSTREAM}/app:2`], schedule: false },
      upkeep: { gcInterval: false, scrubInterval: false },
      tenants: [{ name: 'team-a' }],
      // Nobody is there.
      notifications: { endpoints: [{ name: 'ci', url: 'http://127.0.0.1:1/', events: ['push'] }] },
      audit,
    },
  });
  return startServer(config, { log, meter: metrics.meter, metrics, audit: createAudit(audit) });
}

beforeAll(async () => {
  folder = await makeTempFolder('admin');
  upstream = await FakeUpstream.start();
  upstream.add('app', imageOf([randomBlob(100_000, 'admin')]), '1');
  await writeFile(join(folder, 'reader'), 'may look\n');
  await writeFile(join(folder, 'boss'), 'may: change');
  closed = await start('closed', {
    loopbackAdmin: 'none',
    admins: [
      { name: 'reader', passwordFile: join(folder, 'reader'), rights: 'read' },
      { name: 'boss', passwordFile: join(folder, 'boss') },
    ],
  });
  open = await start('open', {});
  const { username, password } = await closed.parts.issuer.issue({
    tenant: 'team-a',
    server: registryOf(closed),
    readOnly: false,
  });
  tenantLogin = basic(username, password);
  await closed.parts.tenants.reload?.();
  const token = await ask(registryOf(closed), 'GET', '/token?service=x', { authorization: tenantLogin });
  registryToken = `Bearer ${JSON.parse(token.text).token}`;
});

afterAll(async () => {
  await closed?.close(0);
  await open?.close(0);
  await upstream?.stop();
  await removeFolder(folder);
});

const registryOf = (server: RunningServer) => server.addresses[0]?.address ?? '';
const opsOf = (server: RunningServer) => server.opsAddress ?? '';

interface Reply {
  readonly status: number;
  readonly text: string;
  readonly headers: http.IncomingHttpHeaders;
}

/** With any headers, which `fetch` does not allow. */
function ask(
  address: string,
  method: string,
  path: string,
  headers: http.OutgoingHttpHeaders = {},
  body?: object,
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const [host, port] = address.split(':');
    const sent = body === undefined ? undefined : JSON.stringify(body);
    const content =
      sent === undefined ? {} : { 'content-type': 'application/json', 'content-length': sent.length };
    const request = http.request({
      host,
      port,
      method,
      path,
      headers: { ...content, ...headers },
      agent: false,
    });
    request.on('error', reject);
    request.on('response', response => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => void chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          text: Buffer.concat(chunks).toString(),
          headers: response.headers,
        }),
      );
    });
    request.end(sent);
  });
}

async function tokenOf(server: RunningServer, authorization?: string): Promise<string> {
  const headers = authorization === undefined ? {} : { authorization };
  const { text } = await ask(opsOf(server), 'GET', `${ADMIN_PATH}/session`, headers);
  const session: SessionDocument = JSON.parse(text);
  if (session.token === undefined) throw new Error(text);
  return session.token;
}

/** What makes sense to send to an operation. */
const SENT: Readonly<Partial<Record<AdminOperationId, object>>> = {
  pull: { image: `${UPSTREAM}/app:1` },
  refresh: { reference: `${UPSTREAM}/app:1` },
  pin: { reference: `${UPSTREAM}/app:1` },
  unpin: { reference: `${UPSTREAM}/app:1` },
  rm: { reference: `${UPSTREAM}/app:3` },
  gc: { dryRun: true, gracePeriod: '1h' },
  scrub: { dryRun: true, rate: '1GiB' },
  notificationTest: { endpoint: 'ci' },
  notificationSkip: { endpoint: 'ci', event: 'all' },
  tenantAdd: { tenant: 'team-b' },
  tenantRotate: { tenant: 'team-a', server: 'registry.example', overlap: '1h' },
  tenantRevoke: { tenant: 'team-a' },
  tenantAdopt: { tenant: 'team-a' },
};

const QUERIES: Readonly<Partial<Record<AdminOperationId, string>>> = {
  inspect: `?reference=${UPSTREAM}/app:1`,
  explain: `?reference=${UPSTREAM}/app:1&tenant=team-a`,
  images: '?q=app&source=mirror&platform=linux/amd64&damaged=false&limit=5',
};

const OPERATIONS = Object.entries<AdminOperation>(ADMIN_OPERATIONS);

function pathOf(id: string, { path }: AdminOperation): string {
  const named = path.replace('{id}', 'unknown');
  return ADMIN_PATH + named + (Object.entries(QUERIES).find(([name]) => name === id)?.[1] ?? '');
}

function bodyOf(id: string): object | undefined {
  return Object.entries(SENT).find(([name]) => name === id)?.[1];
}

describe('/admin/v1 where everybody needs a login', () => {
  const WHO = {
    nobody: () => undefined,
    'a wrong password': () => basic('boss', 'guessed'),
    'an unknown name': () => basic('nobody', 'may: change'),
    'the login of a tenant': () => tenantLogin,
    'a token of the registry': () => registryToken,
    'no known scheme': () => 'Digest x',
  } as const;

  it.each(OPERATIONS)('%s is for those that the configuration names', async (id, operation) => {
    const { method } = operation;
    const path = pathOf(id, operation);
    for (const [who, authorizationOf] of Object.entries(WHO)) {
      const authorization = authorizationOf();
      const headers = {
        'x-entrepot-token': await tokenOf(closed, BOSS),
        ...(authorization && { authorization }),
      };
      const reply = await ask(opsOf(closed), method, path, headers, bodyOf(id));
      expect(`${who}: ${reply.status}`).toBe(`${who}: 401`);
      expect(reply.headers['www-authenticate']).toContain('Basic realm=');
    }
    // By the method rather than by the table of operations, which may give too much.
    const isChange = method !== 'GET';
    const readerToken = await tokenOf(closed, READER);
    const reader = { authorization: READER, 'x-entrepot-token': readerToken };
    const seen = await ask(opsOf(closed), method, path, reader, bodyOf(id));
    const isRefused = [401, 403].includes(seen.status);
    expect(isRefused).toBe(isChange);
    if (!isChange) return;
    for (const token of [undefined, 'wrong', readerToken]) {
      const headers = { authorization: BOSS, ...(token !== undefined && { 'x-entrepot-token': token }) };
      const reply = await ask(opsOf(closed), method, path, headers, bodyOf(id));
      expect(`${reply.status} ${JSON.parse(reply.text).error.code}`).toBe('403 foreign');
    }
    const boss = { authorization: BOSS, 'x-entrepot-token': await tokenOf(closed, BOSS) };
    const done = await ask(opsOf(closed), method, path, boss, bodyOf(id));
    expect([401, 403]).not.toContain(done.status);
  });

  it.each(['/events', '/openapi.json', '/unknown', ''])('%s is, too', async path => {
    const reply = await ask(opsOf(closed), 'GET', ADMIN_PATH + path);
    expect(reply.status).toBe(401);
  });

  it('records every change and every attempt, with who made it', async () => {
    const boss = { authorization: BOSS, 'x-entrepot-token': await tokenOf(closed, BOSS) };
    const reader = { authorization: READER };
    const body = { reference: `${UPSTREAM}/none:1` };
    await ask(opsOf(closed), 'POST', `${ADMIN_PATH}/actions/unpin`, boss, body);
    await ask(opsOf(closed), 'POST', `${ADMIN_PATH}/actions/unpin`, reader, body);
    const { text } = await ask(opsOf(closed), 'GET', `${ADMIN_PATH}/audit?limit=50`, reader);
    const { entries, covers }: AuditDocument = JSON.parse(text);
    expect(covers).toBe('requests');
    // Tasks that were begun before may end now.
    expect(entries.filter(({ action }) => !action.endsWith(' ended')).slice(0, 2)).toMatchObject([
      { who: 'reader', action: 'admin unpin', outcome: 'refused', remote: '127.0.0.1' },
      { who: 'boss', action: 'admin unpin', outcome: 'allowed', subject: `${UPSTREAM}/none:1` },
    ]);
    const file = await readFile(join(folder, 'closed.audit'), 'utf8');
    expect(file).not.toContain('may: change');
  });
});

it('wrong logins are logged with their addresses once a minute, whatever they asked for', async () => {
  const told: unknown[] = [];
  const log: Log = { ...silentLog, warn: (fields, message) => void told.push({ ...fields, message }) };
  const admins = [{ name: 'boss', passwordFile: join(folder, 'boss') }];
  const proxied = await start('proxied', { admins, trustedProxies: ['127.0.0.1'] }, log);
  const via = { 'x-forwarded-for': '192.0.2.7', 'x-forwarded-proto': 'https' };
  for (const path of [`${ADMIN_PATH}/status`, '/ui/', `${ADMIN_PATH}/queue`]) {
    const headers = { ...via, authorization: basic('boss', `guess of ${path}`) };
    expect((await ask(opsOf(proxied), 'GET', path, headers)).status).toBe(401);
    expect((await ask(opsOf(proxied), 'GET', path, { ...via, authorization: BOSS })).status).not.toBe(401);
  }
  await proxied.close(0);
  const wrong = { remotes: ['192.0.2.7'], message: 'wrong logins for the administration API' };
  expect(told.filter(line => JSON.stringify(line).includes('login'))).toEqual([
    { ...wrong, count: 1 },
    { ...wrong, count: 2 },
  ]);
});

describe('/admin/v1 on the registry port', () => {
  it.each(OPERATIONS)('does not have %s', async (id, operation) => {
    const token = await tokenOf(open);
    for (const authorization of [undefined, BOSS, tenantLogin]) {
      const headers = { 'x-entrepot-token': token, ...(authorization && { authorization }) };
      const reply = await ask(registryOf(open), operation.method, pathOf(id, operation), headers, bodyOf(id));
      expect(reply.text).toContain('NAME_UNKNOWN');
      expect(reply.status).toBe(404);
    }
  });
});

describe('/admin/v1 for everybody on this machine', () => {
  it.each([
    ['a name that leads here', page('evil.example')],
    ['a name that begins like ours', page('localhost.evil.example')],
    ['a page of another site', page('localhost', { origin: 'http://evil.example' })],
    ['a page of another port', page('localhost:1', { origin: 'http://localhost:2' })],
    ['a picture in another page', page('localhost', { 'sec-fetch-site': 'cross-site' })],
    ['a page on a neighbouring site', page('localhost', { 'sec-fetch-site': 'same-site' })],
    ['a page without an origin', page('localhost', { origin: 'null' })],
  ])('is not for %s', async (_, headers) => {
    const token = await tokenOf(open);
    for (const [id, operation] of OPERATIONS) {
      const sent = { ...headers, 'x-entrepot-token': token };
      const reply = await ask(opsOf(open), operation.method, pathOf(id, operation), sent, bodyOf(id));
      expect(`${reply.status} ${JSON.parse(reply.text).error.code}`).toBe('403 foreign');
    }
    expect((await ask(opsOf(open), 'GET', `${ADMIN_PATH}/events`, headers)).status).toBe(403);
  });

  it('is not for clients that come through a proxy', async () => {
    for (const header of ['x-forwarded-for', 'forwarded']) {
      const reply = await ask(opsOf(open), 'GET', `${ADMIN_PATH}/status`, { [header]: 'for=192.0.2.1' });
      expect(reply.status).toBe(403);
      expect(reply.text).toContain('server.admins');
    }
  });

  it('answers every operation as it is described', async () => {
    const description = JSON.parse((await ask(opsOf(open), 'GET', `${ADMIN_PATH}/openapi.json`)).text);
    expect(description.openapi).toBe('3.1.0');
    const headers = { 'x-entrepot-token': await tokenOf(open) };
    await fetchImage();
    const tasks: string[] = [];
    for (const [id, operation] of OPERATIONS.filter(([, { path }]) => !path.includes('{id}'))) {
      const { method, status: usual = 200 } = operation;
      const reply = await ask(opsOf(open), method, pathOf(id, operation), headers, bodyOf(id));
      // There is no cluster, and nobody at the endpoint.
      const status = ['tenantAdopt', 'notificationTest'].includes(id) ? 409 : usual;
      expect(`${id} ${reply.status} ${reply.status === status ? '' : reply.text}`).toBe(`${id} ${status} `);
      const document: unknown = JSON.parse(reply.text);
      const { responses } = description.paths[operation.path][method.toLowerCase()];
      const described =
        status === usual
          ? responses[status].content['application/json'].schema
          : description.components.schemas.Problem;
      expect(z.fromJSONSchema(described).safeParse(document).error).toBeUndefined();
      // Members that are not described would be dropped.
      const schema = status === usual ? operation.answer : problemSchema;
      expect(schema.parse(document)).toEqual(document);
      if (status === 202) tasks.push(ADMIN_OPERATIONS.task.answer.parse(document).id);
    }
    expect(tasks).toHaveLength(4);
    for (const id of tasks) {
      await expect.poll(async () => (await taskOf(id)).state).not.toBe('running');
      const document = await taskOf(id);
      expect(ADMIN_OPERATIONS.task.answer.parse(document)).toEqual(document);
      const cancelled = await ask(opsOf(open), 'DELETE', `${ADMIN_PATH}/tasks/${id}`, headers);
      expect(JSON.parse(cancelled.text)).toEqual(document);
    }
  });

  it('shows an image that was pulled, and what was refused', async () => {
    await fetchImage();
    const images = await read('/images');
    expect(images.entries).toMatchObject([
      {
        image: `${UPSTREAM}/app:1`,
        source: 'mirror',
        pinned: expect.any(Boolean),
        missingBytes: expect.any(Number),
      },
    ]);
    const missing = await ask(registryOf(open), 'GET', `/v2/${UPSTREAM}/app/manifests/none`);
    expect(missing.status).toBe(404);
    await ask(registryOf(open), 'GET', `/v2/${UPSTREAM}/app/manifests/none`);
    const refusals = await read('/refusals?q=app');
    expect(refusals.entries[0]).toMatchObject({
      repository: `${UPSTREAM}/app`,
      reference: 'none',
      status: 404,
      code: 'MANIFEST_UNKNOWN',
      requester: 'anonymous',
      times: 2,
    });
    const backoffs = await read('/backoffs');
    expect(backoffs.entries).toMatchObject([{ upstream: UPSTREAM, reference: 'none', kind: 'unknown' }]);
    const overview = await read('/overview');
    expect(overview.now.backoffs).toBe(1);
    expect(overview.days.at(-1)).toMatchObject({ day: new Date().toISOString().slice(0, 10) });
    expect(overview.days.at(-1).pulls).toBeGreaterThan(0);
  });

  it.each([
    ['the usual platform', {}, ['linux/amd64']],
    ['the platforms that are asked for', { platforms: ['linux/arm64'] }, ['linux/arm64']],
    ['all platforms', { platforms: 'all' }, ['linux/amd64', 'linux/arm64']],
  ])('pulls an image of several platforms for %s', async (name, options, expected) => {
    const repository = name.replaceAll(' ', '-');
    const layers = [randomBlob(1_000, name)];
    const platforms = ['amd64', 'arm64'].map(architecture => ({ os: 'linux', architecture }));
    upstream.add(repository, indexOf(platforms.map(platform => imageOf(layers, { platform }))), '1');
    const reference = `${UPSTREAM}/${repository}:1`;
    const headers = { 'x-entrepot-token': await tokenOf(open) };
    const body = { image: reference, ...options };
    const { text } = await ask(opsOf(open), 'POST', `${ADMIN_PATH}/actions/pull`, headers, body);
    const { id } = ADMIN_OPERATIONS.pull.answer.parse(JSON.parse(text));
    await expect.poll(async () => (await taskOf(id)).state).toBe('done');
    expect(await taskOf(id)).toMatchObject({ result: { blobs: expected.length + 1, heldBlobs: 0 } });
    const { entries } = await read(`/images?q=${repository}`);
    const complete = entries[0].platforms.filter((each: { complete: boolean }) => each.complete);
    expect(complete.map((each: { platform: string }) => each.platform)).toEqual(expected);
  });

  it.each([
    ['a body that is not JSON', 'text/plain', '{}', 'Content-Type: application/json'],
    ['broken JSON', 'application/json', '{', 'not a JSON object'],
    ['an unknown member', 'application/json', '{"reference":"a","x":1}', '"x"'],
    ['no reference', 'application/json', '{}', 'member reference'],
    ['a bad reference', 'application/json', '{"reference":"A A"}', 'A A'],
    ['a large body', 'application/json', `{"reference":"${'a'.repeat(70_000)}"}`, 'longer than'],
  ])('refuses %s', async (_, type, body, said) => {
    const reply = await fetch(`http://${opsOf(open)}${ADMIN_PATH}/actions/pin`, {
      method: 'POST',
      headers: { 'Content-Type': type, 'X-Entrepot-Token': await tokenOf(open) },
      body,
    });
    const { error } = JSON.parse(await reply.text());
    expect(`${reply.status} ${error.code}`).toBe('400 invalid');
    expect(error.message).toContain(said);
  });

  it.each([
    ['/fills?limit=0', 400],
    ['/fills?limit=501', 400],
    ['/fills?limit=1&limit=2', 400],
    ['/fills?unknown=1', 400],
    ['/status?after=x', 400],
    ['/fills?after=!', 400],
    ['/images?after=e30', 400],
    ['/audit?after=LTE', 400],
    ['/inspect?reference=up.example/none', 404],
    ['/explain?reference=up.example/app&tenant=nobody', 404],
    ['/tasks/none', 404],
    ['/tasks/../status', 404],
    ['/nothing', 404],
  ])('answers %s with %d', async (path, status) => {
    const reply = await ask(opsOf(open), 'GET', ADMIN_PATH + path);
    expect(reply.status).toBe(status);
    const text = status >= 400 ? reply.text : '{"error":{"code":"","message":""}}';
    expect(JSON.parse(text)).toEqual({ error: { code: expect.any(String), message: expect.any(String) } });
  });

  it('names the methods of a path', async () => {
    const reply = await ask(opsOf(open), 'PUT', `${ADMIN_PATH}/tasks/none`);
    expect(reply.status).toBe(405);
    expect(reply.headers['allow']).toBe('GET, DELETE');
  });

  it('may be restricted to reading', async () => {
    const shy = await start('shy', { loopbackAdmin: 'read' });
    try {
      const token = await tokenOf(shy);
      expect((await ask(opsOf(shy), 'GET', `${ADMIN_PATH}/status`)).status).toBe(200);
      const body = { reference: `${UPSTREAM}/app:1` };
      const reply = await ask(
        opsOf(shy),
        'POST',
        `${ADMIN_PATH}/actions/unpin`,
        { 'x-entrepot-token': token },
        body,
      );
      expect(JSON.parse(reply.text).error.code).toBe('forbidden');
    } finally {
      await shy.close(0);
    }
  });
});

/** The headers that a browser sends, as far as they matter. */
function page(host: string, more: http.OutgoingHttpHeaders = {}): http.OutgoingHttpHeaders {
  return { host, ...more };
}

async function read(path: string) {
  return JSON.parse((await ask(opsOf(open), 'GET', ADMIN_PATH + path)).text);
}

async function taskOf(id: string): Promise<TaskDocument> {
  return read(`/tasks/${id}`);
}

/** As a node does, so that the image is stored. */
async function fetchImage(): Promise<void> {
  const name = `/v2/${UPSTREAM}/app`;
  const manifest = await ask(registryOf(open), 'GET', `${name}/manifests/1`);
  const { config, layers } = JSON.parse(manifest.text);
  for (const { digest } of [config, ...layers]) await ask(registryOf(open), 'GET', `${name}/blobs/${digest}`);
}
