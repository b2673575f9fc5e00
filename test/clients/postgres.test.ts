// The product with its index in a real PostgreSQL.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { HAS_POSTGRES, Postgres, sql } from '../support/postgres.ts';
import { tryRun, until } from '../support/programs.ts';
import * as pushClient from '../support/push-client.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;

describe.skipIf(!HAS_POSTGRES)('a server with its index in PostgreSQL', () => {
  let postgres: Postgres;
  let settings: PostgresSettings;
  let upstream: FakeUpstream;
  let entrepot: Entrepot;
  const mirrored = imageOf([randomBlob(3 * MIB, 'mirrored')]);
  const pushed = imageOf([randomBlob(2 * MIB, 'pushed'), randomBlob(10, 'small')]);

  beforeAll(async () => void (postgres = await Postgres.start({ syncs: true })));
  afterAll(() => postgres.remove());

  beforeEach(async () => {
    settings = postgres.settings();
    upstream = await FakeUpstream.start();
    upstream.add('library/app', mirrored, 'v1');
    entrepot = await Entrepot.start(config());
  });

  afterEach(async () => {
    if (!postgres.isRunning) await postgres.begin();
    await entrepot.remove();
    await upstream.stop();
  });

  function config() {
    const { host, port, database, user, schema } = settings;
    return {
      upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
      hosted: { prefixes: ['team'], anonymous: 'push' },
      index: { postgres: { url: `postgresql://${user}@${host}:${port}/${database}`, schema } },
    };
  }

  const pullManifest = () => get(`${entrepot.url}/v2/library/app/manifests/v1?ns=${UPSTREAM}`);

  async function expectPulled(repository: string, { digest, size }: Content): Promise<void> {
    const ns = repository.startsWith('team/') ? '' : `?ns=${UPSTREAM}`;
    const got = await get(`${entrepot.url}/v2/${repository}/blobs/${digest}${ns}`);
    expect(got).toMatchObject({ status: 200, complete: true, bytes: size });
    expect(`sha256:${got.sha256}`).toBe(digest);
  }

  async function pullAll(): Promise<void> {
    expect((await pullManifest()).status).toBe(200);
    for (const blob of [...mirrored.layers, mirrored.config]) await expectPulled('library/app', blob);
  }

  /** Another number after each change that pulls may depend on. */
  async function version(): Promise<number | undefined> {
    const rows = await sql<{ sum: number }>(settings, 'SELECT sum(version)::bigint AS sum FROM @versions');
    return rows[0]?.sum;
  }

  const readyText = async () => (await fetch(`${entrepot.ops}/readyz`)).text();

  test('mirrors, takes pushes, is killed, goes on, scrubs and collects', async () => {
    await pullAll();
    await pushClient.pushImage(entrepot.url, 'team/app', 'v1', pushed);
    await entrepot.kill();
    await upstream.stop();
    entrepot = await entrepot.startAgain();
    await pullAll();
    for (const blob of [...pushed.layers, pushed.config]) await expectPulled('team/app', blob);
    expect((await entrepot.command('images')).stdout).toContain('team/app');
    expect((await entrepot.command('scrub', '--rate', '1GiB')).code).toBe(0);
    expect((await entrepot.command('rm', '--purge', 'team/app:v1')).code).toBe(0);
    expect((await entrepot.command('gc', '--grace-period', '0s')).code).toBe(0);
    expect(await sql(settings, 'SELECT digest FROM @blobs')).toHaveLength(mirrored.layers.length + 1);
    await pullAll();
    const backup = await entrepot.command('backup', join(entrepot.folder, 'backup.tar'));
    expect(backup).toMatchObject({ code: 1, stderr: expect.stringContaining('pg_dump') });
  });

  test('goes on serving what it remembers while the database is away, says why, and recovers alone', async () => {
    await until('nothing to change any more', 60_000, async () => {
      const before = await version();
      await pullAll();
      return (await version()) === before;
    });
    await postgres.stop();
    await until('the server to notice', 60_000, async () =>
      (await readyText()).includes('cannot be reached'),
    );
    await pullAll();
    const unknown = await fetch(`${entrepot.url}/v2/team/other/manifests/v1`);
    expect(unknown.status).toBe(503);
    expect(unknown.headers.get('retry-after')).toMatch(/^\d+$/);
    const push = await fetch(`${entrepot.url}/v2/team/app/blobs/uploads/`, { method: 'POST' });
    expect(push.status).toBe(503);
    expect((await entrepot.command('images')).stderr).toContain('cannot be reached');
    expect((await entrepot.command('status')).stderr).toContain('cannot be reached');
    expect(await entrepot.metrics()).toContain('entrepot_http_requests_total');
    await postgres.begin();
    await until('the server to be ready', 60_000, async () => (await fetch(`${entrepot.ops}/readyz`)).ok);
    await pushClient.pushImage(entrepot.url, 'team/app', 'v1', pushed);
    for (const blob of pushed.layers) await expectPulled('team/app', blob);
  });

  test('a restart of the database under load breaks no pull and loses no push', async () => {
    await pullAll();
    const images = Array.from({ length: 20 }, (_, at) => imageOf([randomBlob(1000 + at, `load ${at}`)]));
    const over = new AbortController();
    const pulls = (async () => {
      while (!over.signal.aborted) await pullAll();
    })();
    const pushes = (async () => {
      for (const [at, image] of images.entries()) {
        await pushClient.pushImage(entrepot.url, `team/r${at}`, 'v1', image);
      }
    })();
    for (let restarts = 0; restarts < 3; restarts += 1) {
      await postgres.stop();
      await postgres.begin();
    }
    await pushes;
    over.abort();
    await pulls;
    for (const [at, image] of images.entries()) {
      for (const blob of [...image.layers, image.config]) await expectPulled(`team/r${at}`, blob);
    }
    // One that could not be released while the database was away is released with a later heartbeat.
    await expect.poll(() => sql(settings, 'SELECT key FROM @leases'), { timeout: 60_000 }).toEqual([]);
  });

  test('refuses a second server with another folder, and a folder with an index of its own', async () => {
    await pushClient.pushImage(entrepot.url, 'team/app', 'v1', pushed);
    const folder = await makeTempFolder('second');
    const file = join(folder, 'entrepot.yaml');
    const path = join(folder, 'store');
    const listen = '127.0.0.1:0';
    await writeFile(
      file,
      JSON.stringify({ ...config(), storage: { path }, server: { listen, opsListen: false } }),
    );
    await mkdir(path);
    try {
      const serve = () => tryRun(process.execPath, [...STARTER, 'serve', '--config', file]);
      const { code, stderr } = await serve();
      expect([code, stderr]).toEqual([1, expect.stringContaining('another folder')]);
      await entrepot.stop();
      const later = await serve();
      expect([later.code, later.stderr]).toEqual([1, expect.stringContaining('is not the folder')]);
      await writeFile(join(path, 'index.db'), 'x');
      const own = await serve();
      expect([own.code, own.stderr]).toEqual([1, expect.stringContaining('an index of its own')]);
    } finally {
      await removeFolder(folder);
    }
  });
});
