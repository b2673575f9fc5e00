// Several replicas of the product: a folder and a process each, one real PostgreSQL, with or without a pooler in front of it,
// which lets nobody listen, and one bucket.
import { readdirSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { BROWSER, Browser } from '../support/browser.ts';
import { get, many } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { Latch } from '../support/latch.ts';
import { HAS_PGBOUNCER, PgBouncer, Postgres, sql } from '../support/postgres.ts';
import { freePort, hasPrograms, tryRun, until } from '../support/programs.ts';
import * as pushClient from '../support/push-client.ts';
import { replicaConfig } from '../support/replica-config.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import type { OverviewDocument } from '../../src/admin/documents/overview.ts';
import type { ReplicasDocument } from '../../src/admin/documents/replicas.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;
const REPLICAS = 3;

describe.skipIf(!HAS_PGBOUNCER).each(['no pooler', 'pgbouncer'])('replicas with %s', pooler => {
  let folder: string;
  let postgres: Postgres;
  let bouncer: PgBouncer | undefined;
  let settings: PostgresSettings;
  let s3: FakeS3;
  let upstream: FakeUpstream;
  let replicas: Entrepot[];

  beforeAll(async () => {
    postgres = await Postgres.start();
    if (pooler === 'pgbouncer') bouncer = await PgBouncer.start(postgres);
  });

  afterAll(async () => {
    await bouncer?.remove();
    await postgres.remove();
  });

  beforeEach(async () => {
    folder = await makeTempFolder('replicas');
    settings = postgres.settings(bouncer && { port: bouncer.port });
    s3 = await FakeS3.start();
    upstream = await FakeUpstream.start();
    replicas = [];
    for (let at = 0; at < REPLICAS; at += 1) replicas.push(await Entrepot.start(await config()));
  });

  afterEach(async () => {
    await Promise.all(replicas.map(replica => replica.remove()));
    await upstream.stop();
    await s3.close();
    await removeFolder(folder);
  });

  async function config() {
    return {
      upstreams: { [UPSTREAM]: { url: upstream.url, connectionsPerBlob: 1 } },
      hosted: { prefixes: ['team'], anonymous: 'push' },
      ...(await replicaConfig({ settings, s3, folder })),
    };
  }

  /** That the page of one replica lists all, and says this of another. */
  async function expectOnPage({ ops }: Entrepot, address: string, text: RegExp): Promise<void> {
    const browser = await Browser.start();
    try {
      const { page, faults } = await browser.open();
      await page.goto(`${ops}/ui/#/now`);
      const table = page.getByRole('table', { name: 'Replicas' });
      await table.getByRole('row', { name: address }).getByText(text).waitFor();
      expect(await table.getByRole('row').count()).toBe(replicas.length + 1);
      expect(faults).toEqual([]);
    } finally {
      await browser.close();
    }
  }

  /** An image of blobs that was pulled through no replica yet. */
  function added(name: string, ...sizes: readonly number[]): readonly Content[] {
    const layers = sizes.map((size, at) => randomBlob(size, `${name} ${at}`));
    upstream.add(name, imageOf(layers), 'v1');
    return layers;
  }

  const manifest = (replica: Entrepot, name: string) =>
    get(`${replica.url}/v2/${name}/manifests/v1?ns=${UPSTREAM}`);

  async function expectManifest(replica: Entrepot, name: string): Promise<void> {
    expect((await manifest(replica, name)).status).toBe(200);
  }

  const pull = (replica: Entrepot, name: string, { digest }: Content, onData?: (bytes: number) => void) =>
    get(`${replica.url}/v2/${name}/blobs/${digest}?ns=${UPSTREAM}`, { ...(onData && { onData }) });

  async function expectPulled(replica: Entrepot, name: string, blob: Content): Promise<void> {
    const got = await pull(replica, name, blob);
    expect(got).toMatchObject({ status: 200, complete: true, bytes: blob.size });
    expect(`sha256:${got.sha256}`).toBe(blob.digest);
  }

  /** Begins a pull; resolves when `bytes` of it have come. */
  function begun(replica: Entrepot, name: string, blob: Content, bytes: number) {
    return new Promise<{ readonly got: ReturnType<typeof pull> }>((resolve, reject) => {
      const got = pull(replica, name, blob, count => {
        if (count >= bytes) resolve({ got });
      });
      void got.then(({ status }) => reject(new Error(`status ${status} before ${bytes} bytes`)));
    });
  }

  /** The digests of what it says that it downloads, and of what the others download. */
  async function downloadsSeenBy({ ops }: Entrepot) {
    const { entries }: ReplicasDocument = JSON.parse((await get(`${ops}/admin/v1/replicas`)).text);
    const of = (isOwn: boolean) => entries.flatMap(entry => (entry.isOwn === isOwn ? entry.downloads : []));
    return { own: of(true), others: of(false) };
  }

  /** Nothing is under way, and nothing is left over on any disk. */
  async function expectIdle(): Promise<void> {
    await expect
      .poll(async () => sql(settings, "SELECT key FROM @leases WHERE key LIKE 'fill-%'"))
      .toEqual([]);
    for (const replica of replicas) {
      await expect.poll(() => readdirSync(join(replica.folder, 'store', 'ingest'))).toEqual([]);
    }
  }

  test('pull each blob from upstream once, for clients of all of them, while it arrives', async () => {
    const layers = added('library/app', 20 * MIB, 3 * MIB, MIB, 1000);
    for (const replica of replicas) await expectManifest(replica, 'library/app');
    const before = upstream.bytesSent;
    const pulls = replicas.flatMap(replica =>
      layers.map(layer => many(4, () => expectPulled(replica, 'library/app', layer))),
    );
    await Promise.all(pulls);
    expect(upstream.count('blob')).toBe(layers.length);
    expect(upstream.bytesSent - before).toBe(layers.reduce((sum, { size }) => sum + size, 0));
    expect(upstream.count('manifest', { method: 'GET' })).toBe(1);
    await expectIdle();
    await upstream.stop();
    // Each replica has kept what it has received.
    const reads = s3.count('GET');
    for (const replica of replicas) await expectPulled(replica, 'library/app', layers[0]!);
    expect(s3.count('GET')).toBe(reads);
  });

  test('ask upstream once for a tag that clients of all of them want', async () => {
    added('library/app', 1000);
    upstream.misbehave({ kind: 'manifest', method: 'HEAD', delayMs: 1_000 });
    await Promise.all(replicas.map(replica => many(5, () => expectManifest(replica, 'library/app'))));
    expect(upstream.count('manifest', { method: 'HEAD' })).toBe(1);
    expect(upstream.count('manifest', { method: 'GET' })).toBe(1);
    for (const replica of replicas) await expectManifest(replica, 'library/app');
    expect(upstream.count('manifest')).toBe(2);
  });

  test('send clients of one the bytes that another one downloads as soon as they are there', async () => {
    const [layer] = added('library/app', 20 * MIB);
    for (const replica of replicas) await expectManifest(replica, 'library/app');
    const latch = new Latch();
    const pause = { atByte: 10 * MIB, until: latch.opened };
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, pause });
    const pulls = [];
    for (const replica of replicas) pulls.push(await begun(replica, 'library/app', layer!, 9 * MIB));
    const [holder, other] = replicas;
    await expect.poll(() => downloadsSeenBy(holder!)).toEqual({ own: [layer!.digest], others: [] });
    await expect.poll(() => downloadsSeenBy(other!)).toEqual({ own: [], others: [layer!.digest] });
    latch.open();
    for (const { got } of pulls) expect(await got).toMatchObject({ complete: true, bytes: layer!.size });
    expect(upstream.count('blob')).toBe(1);
  });

  test('go on with what arrived when the one that downloads is killed', async () => {
    const [layer] = added('library/app', 40 * MIB);
    for (const replica of replicas) await expectManifest(replica, 'library/app');
    const [holder, ...others] = replicas;
    const pause = { atByte: 30 * MIB, until: new Latch().opened };
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, pause });
    void begun(holder!, 'library/app', layer!, 29 * MIB).catch(() => {});
    await until('the download to begin', 60_000, async () => upstream.count('blob') === 1);
    const pulls = [];
    for (const replica of others) pulls.push(await begun(replica, 'library/app', layer!, 29 * MIB));
    const before = upstream.bytesSent;
    await holder!.kill();
    for (const { got } of pulls) {
      const { complete, bytes, sha256 } = await got;
      expect({ complete, bytes, digest: `sha256:${sha256}` }).toEqual({
        complete: true,
        bytes: layer!.size,
        digest: layer!.digest,
      });
    }
    const ranges = upstream.requests.flatMap(({ kind, headers }) =>
      kind === 'blob' ? (headers.range ?? '') : [],
    );
    expect(ranges).toEqual(['', expect.stringMatching(/^bytes=\d+-$/)]);
    // What the killed one may have had more, and what is compared.
    expect(upstream.bytesSent - before).toBeLessThan(12 * MIB);
    replicas = [await holder!.startAgain(), ...others];
    await expectPulled(replicas[0]!, 'library/app', layer!);
  });

  test('hand over what is downloaded when one of them stops', async () => {
    const [layer] = added('library/app', 40 * MIB);
    for (const replica of replicas) await expectManifest(replica, 'library/app');
    const [holder, ...others] = replicas;
    const pause = { atByte: 30 * MIB, until: new Latch().opened };
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, pause });
    const url = `${holder!.url}/v2/library/app/blobs/${layer!.digest}?ns=${UPSTREAM}`;
    await get(url, { leaveAtByte: MIB });
    const pulls = [];
    for (const replica of others) pulls.push(await begun(replica, 'library/app', layer!, 29 * MIB));
    const before = upstream.bytesSent;
    const stopped = holder!.stop();
    for (const { got } of pulls) expect(await got).toMatchObject({ complete: true, bytes: layer!.size });
    expect(upstream.bytesSent - before).toBeLessThan(12 * MIB);
    await stopped;
    replicas = [await holder!.startAgain(), ...others];
  });

  test('take a push of which each request goes to another one', async () => {
    const [one, two, three] = replicas;
    const blob = randomBlob(6 * MIB, 'pushed');
    const path = await pushClient.beginUpload(one!.url, 'team/app');
    for (const [at, replica] of [two, three, one, two].entries()) {
      const [start, end] = [at * MIB, (at + 1) * MIB];
      expect(await pushClient.sendBytes('PATCH', replica!.url + path, blob, { start, end })).toBe(202);
      expect(await pushClient.offsetOf(replica!.url + path)).toBe(end);
    }
    const ahead = { method: 'PATCH', headers: { 'Content-Range': '9-9' }, body: 'x' };
    const refused = await get(three!.url + path, ahead);
    expect(refused).toMatchObject({ status: 416, headers: { range: `0-${4 * MIB - 1}`, location: path } });
    const rest = { start: 4 * MIB };
    const last = `${three!.url}${path}?digest=${blob.digest}`;
    expect(await pushClient.sendBytes('PUT', last, blob, rest)).toBe(201);
    for (const replica of replicas) {
      const got = await get(`${replica.url}/v2/team/app/blobs/${blob.digest}`);
      expect(`sha256:${got.sha256}`).toBe(blob.digest);
    }
    expect((await get(two!.url + path)).status).toBe(404);
    await expect.poll(() => readdirSync(join(one!.folder, 'store', 'ingest'))).toEqual([]);
  });

  test('keep what a client sent to another one before it left, and forget what the owner took with it', async () => {
    const [one, two] = replicas;
    const blob = randomBlob(4 * MIB, 'left');
    const path = await pushClient.beginUpload(one!.url, 'team/app');
    const sent = request(two!.url + path, { method: 'PATCH', headers: { 'content-length': blob.size } });
    sent.on('error', () => {});
    for (const piece of blob.slice(0, 2 * MIB)) sent.write(piece);
    await until(
      'the bytes to arrive',
      60_000,
      async () => (await pushClient.offsetOf(two!.url + path)) > MIB,
    );
    sent.destroy();
    await expect.poll(() => pushClient.offsetOf(two!.url + path)).toBe(2 * MIB);
    expect(await pushClient.sendBytes('PATCH', one!.url + path, blob, { start: 2 * MIB })).toBe(202);
    await one!.kill();
    const away = await get(two!.url + path);
    expect(away).toMatchObject({ status: 503, headers: { 'retry-after': '1' } });
    await expect.poll(async () => (await get(two!.url + path)).status).toBe(404);
    replicas[0] = await one!.startAgain();
    expect(await pushClient.offsetOf(two!.url + path)).toBe(blob.size);
    expect((await get(two!.url + path, { method: 'DELETE' })).status).toBe(204);
    expect((await get(one!.url + path)).status).toBe(404);
  });

  test('report which of them was killed, until it is back, but not one that stops', async () => {
    const [one, two, three] = replicas;
    const status = async () => (await one!.command('status')).stdout;
    const problems = async () =>
      (await (await fetch(`${one!.ops}/readyz`)).text()).trim().split('\n').slice(1);
    await two!.kill();
    await until('it to be missed', 60_000, async () => (await problems()).length > 0);
    expect(await problems()).toEqual([
      expect.stringMatching(/^a replica disappeared without shutting down, last seen at /),
    ]);
    expect(await status()).toMatch(/^127\.0\.0\.1:\d+ +disappeared +\d{4}-/m);
    expect(await one!.metrics()).toContain('entrepot_replicas{state="gone"} 1');
    const listed = JSON.parse((await get(`${one!.ops}/admin/v1/replicas`)).text) as ReplicasDocument;
    const address = listed.entries.find(({ state }) => state === 'gone')?.address ?? '';
    expect(one!.logs()).toContain('another replica disappeared without shutting down');
    if (hasPrograms(BROWSER)) await expectOnPage(one!, address, /disappeared/);
    replicas[1] = await two!.startAgain();
    await until('it to be back', 60_000, async () => (await problems()).length === 0);
    await three!.stop();
    await until('it to be forgotten', 60_000, async () =>
      (await one!.metrics()).includes('entrepot_replicas{state="reached"} 1'),
    );
    expect(await one!.metrics()).toContain('entrepot_replicas{state="gone"} 0');
    expect(await status()).not.toContain('disappeared');
  });

  test('say who they are, and which of them has another key', async () => {
    const [one] = replicas;
    const problems = async () =>
      (await (await fetch(`${one!.ops}/readyz`)).text()).trim().split('\n').slice(1);
    const status = async () => (await one!.command('status')).stdout;
    await until('one to have reached the others', 60_000, async () =>
      (await one!.metrics()).includes('entrepot_replicas{state="reached"} 2'),
    );
    expect(await status()).toMatch(/^REPLICA .*\n\S+ +this one .*\n\S+ +reached .* 0\n\S+ +reached .* 0\n/m);
    expect(await problems()).toEqual([]);
    const keyFile = join(folder, 'mistaken-key');
    await writeFile(keyFile, 'a key that was copied from another cluster\n');
    const { cluster, ...rest } = await config();
    const stranger = await Entrepot.start({ ...rest, cluster: { ...cluster, keyFile } });
    replicas.push(stranger);
    await until('it to be noticed', 60_000, async () => (await problems()).length > 0);
    expect(await problems()).toEqual([expect.stringMatching(/^1 of 3 other replicas cannot be asked /)]);
    expect(await status()).toMatch(new RegExp(`^${cluster.advertise} +refuses our key `, 'm'));
    expect(await one!.metrics()).toContain('entrepot_replicas{state="unreachable"} 1');
    const { problems: shown }: OverviewDocument = JSON.parse(
      (await get(`${one!.ops}/admin/v1/overview`)).text,
    );
    expect(shown.map(({ kind }) => kind)).toEqual(['replica']);
    if (hasPrograms(BROWSER)) await expectOnPage(one!, cluster.advertise, /refuses the key of this one/);
    expect((await fetch(`${stranger.ops}/readyz`)).status).toBe(200);
    await until('it to have noticed, too', 60_000, async () =>
      /3 of 3 other replicas/.test(await (await fetch(`${stranger.ops}/readyz`)).text()),
    );
    await stranger.stop();
    await until('it to be forgotten', 60_000, async () => (await problems()).length === 0);
    expect(one!.logs()).toContain('another replica refuses the key of this one');
    await until('the log to say so', 60_000, async () =>
      one!.logs().includes('a replica that could not be asked is gone'),
    );
  });

  test('refuse a process that is no replica, or has the address or the folder of another one', async () => {
    const [one] = replicas;
    const alone = await config();
    const start = async (change: object, path = join(folder, 'other')): Promise<string> => {
      const file = join(folder, 'other.yaml');
      const server = { listen: `127.0.0.1:${await freePort()}`, opsListen: false };
      await writeFile(
        file,
        JSON.stringify({ ...alone, server, ...change, storage: { ...alone.storage, path } }),
      );
      const { code, stdout, stderr } = await tryRun(process.execPath, [
        ...STARTER,
        'serve',
        '--config',
        file,
      ]);
      expect(code).not.toBe(0);
      // Nothing is left of it that others would wait for.
      expect(await sql(settings, 'SELECT 1 FROM @processes WHERE NOT is_thread')).toHaveLength(REPLICAS);
      return stdout + stderr;
    };
    expect(await start({ cluster: undefined })).toMatch(/configure cluster in both/);
    const taken = /advertise: (\S+)/.exec((await one!.command('config', 'show')).stdout)?.[1];
    expect(await start({ cluster: { ...alone.cluster, advertise: taken } })).toMatch(
      /same cluster.advertise/,
    );
    expect(await start({}, join(one!.folder, 'store'))).toMatch(/each replica needs a folder of its own/);
  });
});
