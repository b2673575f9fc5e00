// entrepot status: what a running server says of itself, to its operator alone.
import { writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { silentLog } from '../../src/lib/log.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import type { StatusDocument } from '../../src/admin/documents/status.ts';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { type Login, writeSecret } from '../support/tenants.ts';

const UPSTREAM = 'up.example';
const LAYER_BYTES = 1_000_000;
const layer = randomBlob(LAYER_BYTES, 'status');
const app = imageOf([layer]);
const TEAM: Login = ['team-a-user', 'password-of-team-a'];

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('org/app', app, '1');
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function start(more: object = {}): Promise<void> {
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } }, ...more });
}

async function status(): Promise<StatusDocument> {
  const { code, stdout, stderr } = await entrepot.command('status', '--json');
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout);
}

const manifestUrl = (tag: string) => `${entrepot.url}/v2/org/app/manifests/${tag}?ns=${UPSTREAM}`;
const blobUrl = () => `${entrepot.url}/v2/org/app/blobs/${layer.digest}?ns=${UPSTREAM}`;

it('lists downloads, their progress, and for whom they are', async () => {
  await start();
  expect((await get(manifestUrl('1'))).status).toBe(200);
  const stop = upstream.misbehave({ kind: 'blob', hangAtByte: 600_000 });
  const ends = [get(blobUrl()), get(blobUrl())].map(each => each.catch(() => undefined));
  await until('half of it', 60_000, async () => {
    const [download] = (await entrepot.ask<StatusDocument>('/admin/v1/status')).downloads;
    return download?.bytes === 600_000 && download.readers === 2;
  });
  expect((await status()).downloads).toEqual([
    {
      kind: 'whole',
      repository: `${UPSTREAM}/org/app`,
      digest: layer.digest,
      state: 'downloading',
      bytes: 600_000,
      size: LAYER_BYTES,
      readers: 2,
      requesters: ['anonymous'],
      started: expect.stringMatching(/^20.*Z$/),
      holder: null,
    },
  ]);
  const { stdout } = await entrepot.command('status');
  expect(stdout).toMatch(/^up\.example\/org\/app +586 KiB of 977 KiB \(60 %\) +2 +anonymous +sha256:/m);
  stop();
  await entrepot.kill();
  await Promise.all(ends);
});

it('lists what another process on the store downloads, as far as the disk tells', async () => {
  await start();
  const stop = upstream.misbehave({ kind: 'blob', hangAtByte: 600_000 });
  const pull = await entrepot.begin('pull', `${UPSTREAM}/org/app:1`);
  try {
    await until('its download to be listed', 60_000, async () => {
      const { downloads, downloadsElsewhere } = await status();
      expect(downloads).toEqual([]);
      return downloadsElsewhere.some(({ digest, bytes }) => digest === layer.digest && bytes === 600_000);
    });
    expect((await status()).downloadsElsewhere).toContainEqual({
      digest: layer.digest,
      bytes: 600_000,
      upstream: UPSTREAM,
      holder: `process ${pull.pid} on ${hostname()}`,
    });
    const { stdout } = await entrepot.command('status');
    expect(stdout).toMatch(/^up\.example +586 KiB by process \d+ on \S+ +- +- +sha256:/m);
  } finally {
    stop();
    await pull.kill();
  }
  await until('it to be gone', 60_000, async () => (await status()).downloadsElsewhere?.length === 0);
  expect((await entrepot.command('status')).stdout).toContain('nothing is being downloaded\n');
});

it('tells what was saved since the start and in total, which survives restarts', async () => {
  await start();
  for (let time = 0; time < 3; time++) expect((await get(blobUrl())).status).toBe(200);
  const first = (await status()).saved;
  expect(first.sinceStart).toMatchObject({
    sentBytes: 3 * LAYER_BYTES,
    fetchedBytes: LAYER_BYTES,
    savedBytes: 2 * LAYER_BYTES,
  });
  expect(first.inAll).toMatchObject({ sentBytes: 3 * LAYER_BYTES, savedBytes: 2 * LAYER_BYTES });
  await entrepot.stop();
  entrepot = await entrepot.startAgain();
  expect((await status()).saved).toMatchObject({
    sinceStart: { sentBytes: 0, fetchedBytes: 0, savedBytes: 0 },
    inAll: { sentBytes: 3 * LAYER_BYTES, fetchedBytes: LAYER_BYTES, since: first.sinceStart.since },
  });
  expect((await get(blobUrl())).status).toBe(200);
  const last = (await status()).saved;
  expect(last.sinceStart).toMatchObject({ sentBytes: LAYER_BYTES, fetchedBytes: 0 });
  expect(last.inAll).toMatchObject({ sentBytes: 4 * LAYER_BYTES, savedBytes: 3 * LAYER_BYTES });
  expect(last.inAll.since < last.sinceStart.since).toBe(true);
});

/** On a busy machine what goes next may not be found within the time that it is looked for. */
async function statusWithNext(): Promise<StatusDocument> {
  let document = await status();
  await until('what goes next', 60_000, async () => {
    if (document.store.next === null) document = await status();
    return document.store.next !== null;
  });
  return document;
}

it('tells how full the store is, and what would be evicted next', async () => {
  await start({ storage: { maxBytes: '100MiB' } });
  expect(await entrepot.command('pull', `${UPSTREAM}/org/app:1`)).toMatchObject({ code: 0 });
  const { store, saved } = await statusWithNext();
  // Fetched by another process on the store.
  expect(saved.sinceStart.fetchedBytes).toBe(0);
  expect(saved.inAll.fetchedBytes).toBe(LAYER_BYTES + app.config.size);
  const held = LAYER_BYTES + app.config.size + app.manifest.size;
  // What is unfinished is looked at now and then, perhaps while the other process fetched.
  expect(store).toMatchObject({ heldBytes: held, maxBytes: 100 * 1024 ** 2, damaged: 0 });
  expect(store.freeBytes).toBeGreaterThan(0);
  const blobs = store.next?.filter(({ kind }) => kind === 'blob');
  expect(blobs?.map(({ digest }) => digest).toSorted()).toEqual([layer.digest, app.config.digest].toSorted());
  expect(blobs?.[0]?.repositories).toEqual([`${UPSTREAM}/org/app`]);
  expect((await entrepot.command('status')).stdout).toMatch(/stored.* of 100 MiB \([01] %\)\n/);
  expect(await entrepot.command('pin', `${UPSTREAM}/org/app:1`)).toMatchObject({ code: 0 });
  // A search that takes long on a busy machine may have begun before.
  await expect.poll(async () => (await statusWithNext()).store.next, { timeout: 60_000 }).toEqual([]);
});

it('tells the last errors of upstreams and Secrets, and when, without showing secrets', async () => {
  const folder = await makeTempFolder('status');
  try {
    const [good, bad] = [join(folder, 'good.yaml'), join(folder, 'bad.yaml')];
    await writeSecret(good, { [UPSTREAM]: TEAM });
    await writeFile(bad, 'kind: Secret\ntype: kubernetes.io/dockerconfigjson\nmetadata: {name: bad}\n');
    await start({
      upstreams: { [UPSTREAM]: { url: upstream.url }, 'other.example': {} },
      server: { serverNames: ['registry.example'] },
      tenants: [{ name: 'team-a', secrets: [good, bad] }],
    });
    const missing = await get(manifestUrl('none'));
    expect(missing.status).not.toBe(200);
    const answered = await status();
    expect(answered.upstreams.find(({ name }) => name === UPSTREAM)).toMatchObject({
      url: upstream.url,
      lastAnswer: expect.stringMatching(/^20/),
      lastError: null,
    });
    expect(answered.upstreams.find(({ name }) => name === 'other.example')).toMatchObject({
      lastAnswer: null,
      lastError: null,
    });
    const before = new Date().toISOString();
    upstream.misbehave({ kind: 'manifest', status: 500 });
    expect((await get(manifestUrl('other'))).status).toBe(503);
    const { stdout } = await entrepot.command('status', '--json');
    const document: StatusDocument = JSON.parse(stdout);
    const { lastError } = document.upstreams.find(({ name }) => name === UPSTREAM) ?? {};
    expect(lastError).toMatchObject({
      repository: `${UPSTREAM}/org/app`,
      reason: expect.stringContaining('500'),
    });
    expect((lastError?.at ?? '') >= before).toBe(true);
    expect(document.secrets).toMatchObject([
      { tenant: 'team-a', secret: 'bad.yaml', state: 'malformed', reason: expect.stringMatching(/./) },
    ]);
    const people = (await entrepot.command('status')).stdout;
    expect(people).toMatch(/^up\.example .* up\.example\/org\/app manifests\/other: .*500/m);
    expect(people).not.toContain(`${UPSTREAM}/org/app: ${UPSTREAM}`);
    expect(people).toMatch(/^team-a +bad\.yaml .*malformed/m);
    for (const text of [stdout, people]) expect(text).not.toContain(TEAM[1]);
  } finally {
    await removeFolder(folder);
  }
});

it('says so if no server runs; what has the environment is only available on the socket', async () => {
  await start();
  expect((await get(`${entrepot.ops}/debug/server`)).status).toBe(404);
  expect((await get(`${entrepot.url}/debug/server`)).status).toBe(404);
  await entrepot.stop();
  const { code, stdout, stderr } = await entrepot.command('status');
  expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  expect(stderr).toMatch(/no server answers for the store in .*store\n$/);
});

it('lists every server on the store, and counts the processes that cannot be asked', async () => {
  await start();
  const alone = await entrepot.command('status');
  expect(alone.stdout).not.toMatch(/SERVERS|more on this store/);
  const folder = await makeTempFolder('second');
  const storage = { path: join(entrepot.folder, 'store') };
  const second = await Entrepot.start({ storage }, { folder });
  const metadata = await openSqliteMetadataStore(join(storage.path, 'index.db'), { log: silentLog });
  const document = JSON.parse((await entrepot.command('status', '--json')).stdout);
  const one = (of: Entrepot) => ({
    pid: of.pid,
    host: hostname(),
    addresses: [of.host],
    started: expect.stringMatching(/^20.*Z$/),
  });
  expect(document).toMatchObject({ pid: second.pid, processes: 3, servers: [one(second), one(entrepot)] });
  const { stdout } = await entrepot.command('status');
  expect(stdout).toMatch(/^SERVERS ON THIS STORE +PROCESS +HOST +SINCE$/m);
  for (const { host, pid } of [second, entrepot]) {
    expect(stdout).toMatch(new RegExp(`^${host} +${pid} +${hostname()} +`, 'm'));
  }
  expect(stdout).toContain('\n1 more on this store: commands, or servers that cannot be reached from here\n');
  await metadata.close();
  await second.kill();
  expect((await status()).processes).toBe(1);
  await removeFolder(folder);
});
