// Notifications: what endpoints are told by a server, and by commands, with one process that serves and with several.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { stringify } from 'yaml';
import { Receiver, signatureOf } from '../../src/events/receiver.fixture.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { putManifest, pushImage } from '../support/push-client.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { basic, type Login, writeSecret } from '../support/tenants.ts';

/** As in the distribution format. */
interface Event {
  readonly action: string;
  readonly target: { readonly repository: string; readonly tag?: string; readonly digest?: string };
  readonly actor: { readonly name?: string };
  readonly request: { readonly method?: string };
  readonly entrepot?: Readonly<Record<string, unknown>>;
}

const image = imageOf([randomBlob(1_000, 'notified')]);
const { digest } = image.manifest;
const HOSTED = { prefixes: ['tools'], anonymous: 'push' };

let receiver: Receiver;
let entrepot: Entrepot | undefined;

beforeEach(async () => {
  receiver = await Receiver.start();
});

afterEach(async () => {
  await entrepot?.remove();
  entrepot = undefined;
  await receiver.close();
});

const events = (): readonly Event[] => receiver.received.flatMap(({ body }) => JSON.parse(body).events);
const told = () =>
  events().map(({ action, target }) => `${action} ${target.repository} ${target.tag ?? target.digest}`);

async function start(endpoint: object, config: object = {}): Promise<Entrepot> {
  const notifications = { endpoints: [{ name: 'ci', url: receiver.url, ...endpoint }] };
  entrepot = await Entrepot.start({ hosted: HOSTED, notifications, ...config });
  return entrepot;
}

describe.each([1, 2])('with %i serving processes', processes => {
  it('pushes, deletes and pulls arrive in order, with who did it', { timeout: 60_000 }, async () => {
    const { url } = await start({}, { server: { processes } });
    await pushImage(url, 'tools/app', 'v1', image);
    const path = `${url}/v2/tools/app/manifests`;
    expect((await get(`${path}/v1`)).status).toBe(200);
    await expect.poll(() => told()).toHaveLength(2);
    await putManifest(url, 'tools/app', `${digest}?tag=v2&tag=v3`, image.manifest);
    expect((await get(`${path}/v3`, { method: 'DELETE' })).status).toBe(202);
    expect((await get(`${path}/${digest}`, { method: 'DELETE' })).status).toBe(202);
    expect((await get(`${path}/${digest}`, { method: 'DELETE' })).status).toBe(404);
    await expect.poll(() => told()).toHaveLength(6);
    expect(told()).toEqual([
      'push tools/app v1',
      'pull tools/app v1',
      'push tools/app v2',
      'push tools/app v3',
      'delete tools/app v3',
      `delete tools/app ${digest}`,
    ]);
    expect(events().map(({ actor, request }) => `${request.method} ${actor.name}`)).toEqual([
      'PUT anonymous',
      'GET anonymous',
      'PUT anonymous',
      'PUT anonymous',
      'DELETE anonymous',
      'DELETE anonymous',
    ]);
  });
});

it('what is pushed while the endpoint is away arrives when it is back, also after a restart', async () => {
  const { port } = receiver;
  await receiver.close();
  const server = await start({ url: `http://127.0.0.1:${port}/hook` });
  await pushImage(server.url, 'tools/app', 'v1', image);
  await vi.waitFor(
    async () => {
      expect(await (await fetch(`${server.ops}/readyz`)).text()).toContain(
        'the endpoint ci of notifications fails: its events wait (see the log)',
      );
      const metrics = await server.metrics();
      expect(metrics).toContain('entrepot_notifications_waiting{endpoint="ci"} 1');
      expect(metrics).toMatch(/entrepot_notifications_oldest_seconds\{endpoint="ci"\} [\d.]+/);
      expect(metrics).toMatch(/entrepot_notification_failures_total\{endpoint="ci"\} [1-9]/);
    },
    { timeout: 10_000, interval: 100 },
  );
  await server.stop();
  receiver = await Receiver.start(port);
  entrepot = await server.startAgain();
  await expect.poll(() => told()).toEqual(['push tools/app v1']);
  const metrics = async () => entrepot?.metrics();
  await expect.poll(metrics).toContain('entrepot_notifications_sent_total{endpoint="ci"} 1');
  await expect.poll(metrics).toContain('entrepot_notifications_waiting{endpoint="ci"} 0');
});

it('a server that leaves sending to another one on the store says which', async () => {
  receiver.answer = () => 500;
  const server = await start({ events: ['push'] });
  await pushImage(server.url, 'tools/app', 'v1', image);
  const endpointOf = async ({ ops }: Entrepot) =>
    JSON.parse(await (await fetch(`${ops}/admin/v1/notifications`)).text()).entries[0];
  await expect.poll(async () => (await endpointOf(server)).reason, { timeout: 15_000 }).toContain('500');
  const notifications = { endpoints: [{ name: 'ci', url: receiver.url, events: ['push'] }] };
  const other = await Entrepot.start({ hosted: HOSTED, notifications }, { folder: server.folder });
  try {
    expect(await endpointOf(server)).toMatchObject({ sender: null, waiting: 1 });
    const sender = expect.stringMatching(/^process \d+ on /);
    expect(await endpointOf(other)).toMatchObject({ sender, reason: null, waiting: 1 });
    // The newer one is what commands ask.
    expect((await other.command('notify', 'ci', '--waiting')).stdout).toMatch(/^sent by process \d+ on /m);
  } finally {
    await other.stop();
  }
});

it('an event that the endpoint refuses is shown, and skipped when the operator says so', async () => {
  receiver.answer = ({ body }) => (body.includes('"tag":"refused"') ? 422 : 204);
  const accepted = () =>
    receiver.received
      .filter(({ body }) => !body.includes('"tag":"refused"'))
      .flatMap(({ body }) => JSON.parse(body).events)
      .map(({ target }) => target.tag);
  const server = await start({ events: ['push'] });
  for (const tag of ['v1', 'refused', 'v2']) await pushImage(server.url, 'tools/app', tag, image);
  const waiting = async () =>
    JSON.parse((await server.command('notify', 'ci', '--waiting', '--json')).stdout);
  await vi.waitFor(async () => expect((await waiting()).refused).not.toBeNull(), { timeout: 15_000 });
  const shown = await waiting();
  expect(shown).toMatchObject({
    name: 'ci',
    waiting: 2,
    reason: 'it answered 422 to push of tools/app:refused',
    first: [
      { event: 'push', subject: 'tools/app:refused' },
      { event: 'push', subject: 'tools/app:v2' },
    ],
  });
  expect(await (await fetch(`${server.ops}/readyz`)).text()).toContain('entrepot notify ci --waiting');
  const text = await server.command('notify', 'ci', '--waiting');
  expect(text.stdout).toContain(`${shown.refused} (refused)`);
  expect(await server.command('notify', 'ci', '--skip', 'unknown')).toMatchObject({ code: 1 });
  const skipped = await server.command('notify', 'ci', '--skip', shown.refused);
  expect(skipped.stdout).toBe('ci: 1 event skipped\n');
  await expect.poll(() => accepted()).toEqual(['v1', 'v2']);
  const audit = await (await fetch(`${server.ops}/admin/v1/audit`)).text();
  expect(JSON.parse(audit).entries[0]).toMatchObject({
    who: 'operator',
    action: 'admin notification-skip',
    subject: 'ci',
    outcome: 'allowed',
  });
});

it('a pull of a mirrored image is an event, and removals by commands are, too', async () => {
  const upstream = await FakeUpstream.start();
  upstream.add('app', image, '1');
  const server = await start({}, { upstreams: { 'up.example': { url: upstream.url, freshFor: 'forever' } } });
  const path = `${server.url}/v2/up.example/app/manifests/1`;
  for (let count = 0; count < 3; count += 1) expect((await get(path)).status).toBe(200);
  await expect.poll(() => told()).toEqual(['pull up.example/app 1']);
  expect(events()[0]?.entrepot).toEqual({ count: 3 });
  await pushImage(server.url, 'tools/app', 'v1', image);
  expect(await server.command('rm', 'tools/app:v1')).toMatchObject({ code: 0 });
  expect(await server.command('rm', `up.example/app@${digest}`)).toMatchObject({ code: 0 });
  const removals = ['push tools/app v1', 'delete tools/app v1', `delete up.example/app ${digest}`];
  await expect.poll(() => told().slice(1)).toEqual(removals);
  expect(events().at(-1)?.actor).toEqual({ name: 'operator' });
  await upstream.stop();
});

it('an endpoint gets only the events and repositories that it wants, with its headers, signed', async () => {
  const folder = await makeTempFolder('keys');
  await writeFile(join(folder, 'key'), 'secret\n');
  await writeFile(join(folder, 'headers'), 'Authorization: Bearer token\n');
  const server = await start({
    format: 'cloudevents',
    events: ['push'],
    repositories: ['tools/app*'],
    signingKeyFile: join(folder, 'key'),
    headersFile: join(folder, 'headers'),
  });
  for (const name of ['tools/other', 'tools/app-1', 'tools/app-2'])
    await pushImage(server.url, name, 'v1', image);
  expect((await get(`${server.url}/v2/tools/app-1/manifests/v1`)).status).toBe(200);
  await expect.poll(() => receiver.received).toHaveLength(2);
  const subjects = receiver.received.map(({ body }) => JSON.parse(body).subject);
  expect(subjects).toEqual(['tools/app-1:v1', 'tools/app-2:v1']);
  for (const request of receiver.received) {
    expect(request.headers.authorization).toBe('Bearer token');
    expect(request.headers['webhook-signature']).toBe(signatureOf(request, 'secret'));
  }
  expect(server.logs()).not.toMatch(/token|secret/);
  await removeFolder(folder);
});

it('a reload changes the endpoints; what waits for one that has gone stays until it is back', async () => {
  const other = await Receiver.start();
  const config = { hosted: HOSTED, server: { listen: `127.0.0.1:${await freePort()}` } };
  const withEndpoints = (...endpoints: readonly object[]) => ({ ...config, notifications: { endpoints } });
  const server = await Entrepot.start(config);
  entrepot = server;
  const reload = async (next: object): Promise<void> => {
    await writeFile(
      server.configFile,
      stringify({ ...next, storage: { path: join(server.folder, 'store') } }),
    );
    const before = server.logs().length;
    process.kill(server.pid, 'SIGHUP');
    await vi.waitFor(() => expect(server.logs().slice(before)).toContain('configuration reloaded'), {
      timeout: 10_000,
    });
  };
  await pushImage(server.url, 'tools/app', 'v1', image);
  await reload(withEndpoints({ name: 'ci', url: receiver.url }));
  await pushImage(server.url, 'tools/app', 'v2', image);
  await expect.poll(() => told()).toEqual(['push tools/app v2']);
  await reload(withEndpoints({ name: 'other', url: other.url }));
  await pushImage(server.url, 'tools/app', 'v3', image);
  await expect.poll(() => other.received).toHaveLength(1);
  expect(told()).toEqual(['push tools/app v2']);
  await other.close();
});

describe('what nobody has asked for', () => {
  const UPSTREAM = 'up.example';
  const of = (kind: string) => events().filter(({ action }) => action === kind);
  const waitFor = (assert: () => void) => vi.waitFor(assert, { timeout: 15_000 });

  it('downloads, failed downloads, evictions and the state of an upstream are events', async () => {
    const upstream = await FakeUpstream.start();
    const layers = Array.from({ length: 12 }, (_, number) => randomBlob(100_000, `told ${number}`));
    upstream.add('app', imageOf(layers), '1');
    const server = await start(
      { events: ['download', 'download-failed', 'evict', 'upstream'] },
      {
        storage: { maxBytes: '1MB' },
        upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
      },
    );
    const pathOf = (name: string) => `${server.url}/v2/${UPSTREAM}/app/${name}`;
    expect((await get(pathOf('manifests/1'))).status).toBe(200);
    const [broken, ...whole] = layers;
    if (broken === undefined) throw new Error('a dozen layers');
    upstream.misbehave({ kind: 'blob', reference: broken.digest, status: 500 });
    expect((await get(pathOf(`blobs/${broken.digest}`))).status).toBe(503);
    for (const layer of whole) await get(pathOf(`blobs/${layer.digest}`));
    const about = (content: Content | undefined) => ({
      target: expect.objectContaining({ repository: `${UPSTREAM}/app`, digest: content?.digest }),
      actor: { name: 'anonymous' },
    });
    await waitFor(() => expect(of('download')).toContainEqual(expect.objectContaining(about(whole[0]))));
    const entrepotSays = { reason: expect.stringContaining('500') };
    expect(of('download-failed')).toContainEqual(
      expect.objectContaining({ ...about(broken), entrepot: entrepotSays }),
    );
    expect(of('upstream').map(({ entrepot: more }) => [more?.['upstream'], more?.['state']])).toEqual([
      [UPSTREAM, 'unreachable'],
      [UPSTREAM, 'reachable'],
    ]);
    await server.command('gc', '--grace-period', '0s');
    const evicted = { target: expect.objectContaining({ size: 100_000 }), entrepot: { content: 'blob' } };
    await waitFor(() => expect(of('evict')).toContainEqual(expect.objectContaining(evicted)));
    await upstream.stop();
  });

  it('pushes that exceed a quota, and the state of a Secret, are events', async () => {
    const folder = await makeTempFolder('secrets');
    const file = join(folder, 'team-a.yaml');
    const host = `127.0.0.1:${await freePort()}`;
    const login: Login = ['team-a', 'password-of-team-a'];
    await writeSecret(file, { [host]: login });
    const server = await start(
      { events: ['quota', 'secret'] },
      {
        server: { listen: host, serverNames: [host] },
        tenants: [{ name: 'team-a', secrets: file, quotaBytes: '8KiB' }],
      },
    );
    const blob = randomBlob(100_000, 'too much');
    const url = `${server.url}/v2/team-a/app/blobs/uploads/?digest=${blob.digest}`;
    const push = { method: 'POST', headers: basic(login), body: bytesOf(blob) };
    expect((await get(url, push)).status).toBe(403);
    await waitFor(() => expect(of('quota')).toHaveLength(1));
    expect(of('quota')[0]).toMatchObject({
      target: { repository: 'team-a/app' },
      entrepot: { tenant: 'team-a', reason: expect.stringMatching(/^the quota of team-a is used up/) },
    });
    expect(of('secret')).toEqual([]);
    await writeFile(file, 'no Secret');
    await waitFor(() => expect(of('secret')).toHaveLength(1));
    expect(of('secret')[0]?.entrepot).toMatchObject({ tenant: 'team-a', state: 'malformed' });
    expect(JSON.stringify(events())).not.toContain('password-of-team-a');
    await removeFolder(folder);
  });
});

describe('entrepot notify', () => {
  it('sends a test event, and says how the endpoint answers', async () => {
    const server = await start({});
    expect(await server.command('notify', 'ci', '--json')).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^\{"endpoint":"ci","id":"[0-9a-f-]+","status":204,"ms":\d+\}\n$/),
    });
    expect(events()).toMatchObject([{ action: 'test', actor: { name: 'operator' } }]);
    receiver.answer = () => ({ location: 'http://127.0.0.1:1/' });
    expect(await server.command('notify', 'ci')).toMatchObject({
      code: 1,
      stderr: 'entrepot: ci: it answered 307, and redirects are not followed\n',
    });
    expect(await server.command('notify', 'other')).toMatchObject({
      code: 2,
      stderr: 'entrepot: notifications.endpoints has no other (configured: ci)\n',
    });
  });
});
