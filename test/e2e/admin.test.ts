// The administration API of a built server, with one process and with several: what nodes are doing shows there, lasts over
// restarts, and is what commands print.
import http from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { FillsDocument } from '../../src/admin/documents/fills.ts';
import type { OverviewDocument } from '../../src/admin/documents/overview.ts';
import type { RefusalsDocument } from '../../src/admin/documents/refusals.ts';
import type { SessionDocument } from '../../src/admin/documents/session.ts';
import type { TaskDocument } from '../../src/admin/documents/tasks.ts';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const UPSTREAM = 'up.example';
const LAYER_BYTES = 1_000_000;
const layer = randomBlob(LAYER_BYTES, 'admin-e2e');

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('org/app', imageOf([layer]), '1');
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function start(more: EntrepotConfig = {}): Promise<void> {
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } }, ...more });
}

async function read<Document>(path: string): Promise<Document> {
  const response = await fetch(`${entrepot.ops}/admin/v1${path}`);
  expect(response.status).toBe(200);
  const document: Document = JSON.parse(await response.text());
  return document;
}

async function act<Document>(action: string, body: object): Promise<Document> {
  const { token } = await read<SessionDocument>('/session');
  const response = await fetch(`${entrepot.ops}/admin/v1/actions/${action}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Entrepot-Token': token },
    body: JSON.stringify(body),
  });
  expect(response.ok).toBe(true);
  const document: Document = JSON.parse(await response.text());
  return document;
}

const name = () => `${entrepot.url}/v2/${UPSTREAM}/org/app`;

/** The events of the stream until it is closed. */
function listen(): { readonly heard: () => string; readonly close: () => void } {
  let text = '';
  const request = http.get(`${entrepot.ops}/admin/v1/events`, { agent: false }, response => {
    response.setEncoding('utf8').on('data', (more: string) => (text += more));
    response.on('error', () => {});
  });
  request.on('error', () => {});
  return { heard: () => text, close: () => request.destroy() };
}

describe.each([1, 2])('with %i serving processes', processes => {
  it('shows a download once from its beginning to its end, with all its readers', async () => {
    await start({ server: { processes } });
    const events = listen();
    await until('the stream', 20_000, async () => events.heard().includes('event: reset'));
    expect((await get(`${name()}/manifests/1`)).status).toBe(200);
    const release = upstream.misbehave({ kind: 'blob', hangAtByte: 600_000 });
    const readers = [1, 2, 3, 4].map(() => get(`${name()}/blobs/${layer.digest}`).catch(() => undefined));
    await until('the download', 60_000, async () => {
      const { entries } = await read<FillsDocument>('/fills');
      return entries.length === 1 && entries[0]?.bytes === 600_000 && entries[0].readers === 4;
    });
    expect((await read<FillsDocument>('/fills')).entries).toMatchObject([
      { repository: `${UPSTREAM}/org/app`, upstream: UPSTREAM, size: LAYER_BYTES, requesters: ['anonymous'] },
    ]);
    await until('the event', 20_000, async () => events.heard().includes('"bytes":600000'));
    release();
    await entrepot.kill();
    await Promise.all(readers);
    events.close();
  });

  it('tells what clients were refused, whichever process did it', async () => {
    await start({ server: { processes } });
    for (let at = 0; at < 6; at += 1) expect((await get(`${name()}/manifests/none`)).status).toBe(404);
    await until('all to be told', 20_000, async () => {
      const { entries } = await read<RefusalsDocument>('/refusals');
      return entries.length === 1 && entries[0]?.times === 6;
    });
    const { entries } = await read<RefusalsDocument>('/refusals');
    expect(entries[0]).toMatchObject({ repository: `${UPSTREAM}/org/app`, reference: 'none', status: 404 });
  });

  it('keeps what was pulled each day over a restart, with what was pulled ahead', async () => {
    await start({ server: { processes } });
    const { id } = await act<TaskDocument>('pull', { image: `${UPSTREAM}/org/app:1` });
    await until('the pull', 60_000, async () => (await read<TaskDocument>(`/tasks/${id}`)).state === 'done');
    expect((await get(`${name()}/manifests/1`)).status).toBe(200);
    expect((await get(`${name()}/blobs/${layer.digest}`)).status).toBe(200);
    const today = async () => (await read<OverviewDocument>('/overview')).days.at(-1);
    await until('it to be counted', 20_000, async () => (await today())?.hits === 2);
    const before = await today();
    expect(before).toMatchObject({ pulls: 1, hits: 2, misses: 0 });
    expect(before?.sentBytes).toBeGreaterThan(LAYER_BYTES);
    expect(before?.fetchedBytes).toBeGreaterThan(LAYER_BYTES);
    await entrepot.stop();
    entrepot = await entrepot.startAgain();
    expect(await today()).toEqual(before);
  });
});

it('says where somebody may push, and reports changes of that', async () => {
  const hosted = { prefixes: ['tools'], anonymous: 'pull' };
  await start({ hosted, server: { serverNames: ['registry.example:5000'] } });
  expect(await read('/overview')).toMatchObject({ canLogIn: false, push: null });
  const events = listen();
  await until('the stream', 20_000, async () => events.heard().includes('event: reset'));
  expect((await entrepot.command('tenant', 'add', 'team-a')).code).toBe(0);
  const push = { prefix: 'team-a', needsLogin: true };
  await until('the event', 20_000, async () => events.heard().includes(`"push":${JSON.stringify(push)}`));
  events.close();
  expect(await read('/overview')).toMatchObject({ canLogIn: true, push });
  await entrepot.stop();
  entrepot = await entrepot.startAgain({ hosted: { ...hosted, readOnly: true } });
  expect(await read('/overview')).toMatchObject({ canLogIn: true, push: null });
});

it('names no place to push to if all its ports are those of upstreams', async () => {
  const server = { listen: [{ address: '127.0.0.1:0', upstream: UPSTREAM }] };
  await start({ hosted: { prefixes: ['tools'], anonymous: 'push' }, server });
  expect(await read('/overview')).toMatchObject({ push: null });
});

it('says what the commands say', async () => {
  await start({ tenants: [{ name: 'team-a' }] });
  await act<TaskDocument>('pull', { image: `${UPSTREAM}/org/app:1` });
  await until('the image', 60_000, async () => {
    const { entries } = await read<{ entries: { missingBytes: number }[] }>('/images');
    return entries.length === 1 && entries[0]?.missingBytes === 0;
  });
  const printed = async (...command: string[]) => {
    const { code, stdout } = await entrepot.command(...command, '--json');
    expect(code).toBe(0);
    return JSON.parse(stdout);
  };
  const reference = `${UPSTREAM}/org/app:1`;
  const { next: _next, examined: _examined, entries } = await read<Record<string, unknown[]>>('/images');
  expect(entries).toEqual([await printed('images')]);
  const inspected = await read<object>(`/inspect?reference=${reference}`);
  expect(inspected).toMatchObject(await printed('inspect', reference));
  const explained = await read<object>(`/explain?reference=${reference}&tenant=team-a`);
  expect(explained).toMatchObject(await printed('explain', reference, '--tenant', 'team-a'));
  const { tenants } = await printed('tenants');
  expect((await read<Record<string, unknown>>('/tenants'))['entries']).toEqual(tenants);
});
