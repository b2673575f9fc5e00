import { readdirSync, readlinkSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { imageOf, randomBlob } from '../../test/support/content.ts';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { freePort } from '../../test/support/programs.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { secretManifest } from '../../test/support/tenants.ts';
import { loadConfig } from '../config/load.ts';
import { ConfigError } from '../config/problems.ts';
import { PartlyReloaded } from '../config/reload.ts';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { STATE_FILE } from '../metadata/store-identity.ts';
import { HIDDEN } from '../oci/reasons.ts';
import { ANY_MANIFEST } from '../oci/pull-source.ts';
import { createMetrics } from '../ops/metrics.ts';
import { FakeApiServer } from '../tenants/kubernetes/fake-api-server.fixture.ts';
import { Schedule } from '../upkeep/schedule.ts';
import { openParts } from './parts.ts';
import { type RunningServer, startServer } from './server.ts';

let folder: string;
let taken: Server | undefined;

beforeEach(async () => {
  folder = await makeTempFolder('wire');
});

afterEach(async () => {
  taken?.close();
  taken = undefined;
  await removeFolder(folder);
});

/** What this process has open of the store. */
function openFiles(): string[] {
  return readdirSync('/proc/self/fd').flatMap(fd => {
    try {
      const target = readlinkSync(`/proc/self/fd/${fd}`);
      return target.startsWith(folder) ? [target] : [];
    } catch {
      // The one that listed the folder itself.
      return [];
    }
  });
}

/** How it is said to have been left. */
async function stateOfIndex() {
  return JSON.parse(await readFile(join(folder, 'store', STATE_FILE), 'utf8'));
}

/** What may be asked of the index for a request. */
const QUESTIONS = [
  'readForPull',
  'readBlobForPull',
  'readGrants',
  'readManifestBytes',
  'readLinkedManifest',
  'readTag',
  'readDamage',
  'hasRepository',
  'statBlob',
  'isLinked',
  'isNamed',
  'isPreloaded',
  'namedSize',
] as const;

const metrics = createMetrics();
const observers = { log: silentLog, meter: metrics.meter, metrics };
const config = (overrides: object) =>
  loadConfig({ env: {}, overrides: { storage: { path: join(folder, 'store') }, ...overrides } });

async function takePort(): Promise<number> {
  taken = createServer().listen(0, '127.0.0.1');
  await once(taken, 'listening');
  const address = taken.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

describe('the parts', () => {
  it('close the store again if a later one cannot be opened', async () => {
    const broken = await config({ credentialProviders: { configFile: '/nowhere', binDir: '/nowhere' } });
    await expect(openParts(broken, observers)).rejects.toThrow(ConfigError);
    expect(openFiles()).toEqual([]);
    const parts = await openParts(await config({}), observers);
    expect(openFiles()).not.toEqual([]);
    await parts.close();
    expect(openFiles()).toEqual([]);
  });

  it('record that the index is still open when another process has closed it', async () => {
    const stays = await openParts(await config({}), observers);
    await (await openParts(await config({}), observers)).close();
    await vi.waitUntil(async () => !(await stateOfIndex()).isClosing, { timeout: 10_000 });
    expect((await stateOfIndex()).closed).toBeUndefined();
    await stays.close();
    expect((await stateOfIndex()).closed).toBeDefined();
  });
});

describe('the explanation of an image', () => {
  it('says what a name with an architecture means if there is no such repository', async () => {
    const upstreams = { 'up.example': { url: 'http://127.0.0.1:9', archInName: true } };
    const parts = await openParts(await config({ upstreams, offline: true }), observers);
    try {
      const conclusionsOf = async (name: string) => (await parts.explain(name, undefined))?.conclusions;
      const said = expect.stringContaining('the linux/arm64 image of up.example/pause');
      expect(await conclusionsOf('up.example/pause-arm64:3')).toContainEqual(said);
      expect(await conclusionsOf('up.example/pause:3')).not.toContainEqual(said);
    } finally {
      await parts.close();
    }
  });
});

describe('a right that upstream has refused', () => {
  afterEach(() => vi.useRealTimers());

  it('is removed from the index as soon as that accepts writes again', async () => {
    const upstream = await FakeUpstream.start();
    upstream.add('app', imageOf([randomBlob(1_000, 'ended')]), '1');
    const overrides = { upstreams: { 'up.example': { url: upstream.url } } };
    const parts = await openParts(await config(overrides), observers);
    const grants = () => parts.metadata.readGrants({ upstream: 'up.example', name: 'app' });
    try {
      await parts.refresh('up.example/app:1');
      expect(await grants()).toHaveLength(1);
      upstream.misbehave({ status: 403 });
      const endGrant = vi.spyOn(parts.metadata, 'endGrant').mockRejectedValueOnce(new Error('disk is full'));
      await expect(parts.refresh('up.example/app:1')).rejects.toThrow(HIDDEN);
      expect(endGrant).toHaveBeenCalledOnce();
      await vi.waitUntil(async () => (await grants()).length === 0, { timeout: 10_000 });
    } finally {
      await parts.close();
      await upstream.stop();
    }
  });

  it('is asked about again as soon as any Secret has changed', async () => {
    // Else it would be forgotten by itself after a while.
    vi.useFakeTimers({ toFake: ['Date'] });
    const upstream = await FakeUpstream.start({ auth: { scheme: 'basic', users: {} } });
    const [own, other] = [join(folder, 'own.json'), join(folder, 'other.json')];
    await writeFile(own, secretManifest('own', { 'up.example': ['ann', 'wrong'] }));
    const parts = await openParts(
      await config({
        upstreams: { 'up.example': { url: upstream.url } },
        tenants: [
          { name: 'team-a', secrets: own },
          { name: 'team-b', secrets: other },
        ],
      }),
      observers,
    );
    const pull = async () => {
      const [tenant] = parts.tenants.list();
      if (tenant === undefined) throw new Error('team-a is a tenant');
      const repository = { upstream: 'up.example', name: 'app' };
      const right = await parts.access.rightOf(tenant, repository);
      await expect(parts.mirror.manifest(repository, '1', right, ANY_MANIFEST)).rejects.toThrow(HIDDEN);
      return upstream.requests.length;
    };
    try {
      const asked = await pull();
      expect(asked).toBeGreaterThan(0);
      expect(await pull()).toBe(asked);
      await writeFile(other, secretManifest('other', { 'else.example': ['bob', 'password'] }));
      // What vitest polls with would move the clock.
      for (let tries = 0; tries < 200 && (await pull()) === asked; tries += 1) await sleep(50);
      expect(await pull()).toBeGreaterThan(asked);
    } finally {
      await parts.close();
      await upstream.stop();
    }
  });
});

describe('a raised pulls.maxConnections', () => {
  it('starts waiting downloads at once', async () => {
    const upstream = await FakeUpstream.start();
    const layers = ['one', 'two'].map(seed => randomBlob(10_000, seed));
    const image = imageOf(layers);
    upstream.add('app', image, '1');
    upstream.misbehave({ kind: 'blob', hang: true });
    const overrides = { upstreams: { 'up.example': { url: upstream.url } } };
    const clock = new ManualClock();
    const one = await config({ ...overrides, pulls: { maxConnections: 1 } });
    const parts = await openParts(one, observers, { clock });
    try {
      const repository = { upstream: 'up.example', name: 'app' };
      const right = await parts.access.operatorRight(repository);
      await parts.mirror.manifest(repository, '1', right, ANY_MANIFEST);
      const opened = layers.map(({ digest }) => parts.mirror.openBlob(repository, digest, right));
      // The size in the manifest is used when upstream has said none for a while.
      await clock.pass(5_000);
      for (const { reader } of await Promise.all(opened)) await reader.close();
      await expect.poll(() => upstream.downloads()).toHaveLength(1);
      const reload = await parts.prepareReload(await config({ ...overrides, pulls: { maxConnections: 2 } }));
      await reload();
      await expect.poll(() => upstream.downloads()).toHaveLength(2);
    } finally {
      await parts.close();
      await upstream.stop();
    }
  });
});

/** Status and text. */
async function ask(url: string): Promise<string> {
  const response = await fetch(`http://${url}`);
  return `${response.status} ${(await response.text()).trim()}`;
}

describe('a server', () => {
  it('listens while a cluster is still being read, and serves afterwards', async () => {
    const api = await FakeApiServer.start();
    const release = api.hold('/api/v1/namespaces/team-a/secrets');
    api.put({ collection: 'namespaces', name: 'team-a', labels: { entrepot: 'tenant' } });
    const kubeconfig = join(folder, 'kubeconfig');
    const named = {
      name: 'c',
      cluster: { server: api.url.href },
      user: {},
      context: { cluster: 'c', user: 'c' },
    };
    const lists = { clusters: [named], users: [named], contexts: [named], 'current-context': 'c' };
    await writeFile(kubeconfig, JSON.stringify(lists));
    const listen = `127.0.0.1:${await freePort()}`;
    const server = await startServer(
      await config({
        server: { listen, opsListen: `127.0.0.1:${await freePort()}` },
        kubernetes: { kubeconfig, namespaceSelector: 'entrepot=tenant' },
      }),
      observers,
    );
    try {
      expect(await ask(`${server.opsAddress}/livez`)).toBe('200 ok');
      await expect
        .poll(() => ask(`${server.opsAddress}/readyz`))
        .toBe('503 waiting for the Secrets of 1 of 1 namespaces');
      expect(await ask(`${listen}/v2/`)).toMatch(/^503 .*UNAVAILABLE/);
      release();
      await expect.poll(() => ask(`${server.opsAddress}/readyz`)).toMatch(/^200 ok/);
      expect(await ask(`${listen}/v2/`)).toMatch(/^401 /);
      expect(server.parts.tenants.list().map(({ name }) => name)).toEqual(['team-a']);
    } finally {
      release();
      await server.close(0);
      await api.close();
    }
  });

  it.each([
    ['nobody logs in', {}],
    ['the upstream has a credential of its own', { username: 'entrepot', passwordFile: 'own' }],
  ])('a hit asks the index one question when %s', async (_, credentials) => {
    await writeFile(join(folder, 'own'), 'secret');
    const upstream = await FakeUpstream.start();
    const image = imageOf([randomBlob(5_000, 'layer')]);
    upstream.add('app', image, 'v1');
    const listen = `127.0.0.1:${await freePort()}`;
    const login =
      'passwordFile' in credentials
        ? { credentials: { ...credentials, passwordFile: join(folder, credentials.passwordFile) } }
        : {};
    const server = await startServer(
      await config({
        server: { listen, opsListen: false },
        upstreams: { 'up.example': { url: upstream.url, freshFor: 'forever', ...login } },
      }),
      observers,
    );
    try {
      const { metadata } = server.parts;
      const [layer] = image.layers;
      const paths = ['manifests/v1', `manifests/${image.manifest.digest}`, `blobs/${layer?.digest}`];
      const pull = async (path: string, method = 'GET') => {
        const response = await fetch(`http://${listen}/v2/app/${path}?ns=up.example`, { method });
        await response.arrayBuffer();
        return `${response.status} ${response.headers.get('cache-status')}`;
      };
      for (const path of paths) expect(await pull(path)).toMatch(/^200 /);
      await expect.poll(() => metadata.statBlob(layer?.digest ?? image.config.digest)).toBeDefined();
      const spies = QUESTIONS.map(name => vi.spyOn(metadata, name));
      for (const path of paths) {
        for (const method of ['GET', 'HEAD']) {
          spies.forEach(spy => spy.mockClear());
          expect(await pull(path, method)).toMatch(/^200 .*; hit/);
          const asked = QUESTIONS.flatMap((name, at) => (spies[at]?.mock.calls ?? []).map(() => name));
          expect(asked).toEqual([path.startsWith('blobs') ? 'readBlobForPull' : 'readForPull']);
        }
      }
    } finally {
      vi.restoreAllMocks();
      await server.close(0);
      await upstream.stop();
    }
  });

  describe('a server that reloads its configuration', () => {
    let server: RunningServer;

    beforeEach(async () => {
      server = await startServer(await reloaded({}), observers);
    });

    afterEach(async () => {
      vi.restoreAllMocks();
      await server.close(0);
    });

    const host = { listen: '127.0.0.1:0', opsListen: false };
    const reloaded = (overrides: object) => config({ server: host, ...overrides });

    it('applies all of it even if other processes cannot be told because the index accepts no writes', async () => {
      vi.spyOn(server.parts.metadata, 'notify').mockRejectedValue(new Error('disk full'));
      const upkeep = vi.spyOn(server.parts.upkeep, 'scrubbedAtMs');
      const next = { upkeep: { gcInterval: '2h' }, upstreams: { 'up.example': {} } };
      const { changed } = await server.reload(await reloaded(next));
      expect(changed.toSorted()).toEqual(['upkeep', 'upstreams.up.example']);
      expect(server.parts.upstreams.has('up.example')).toBe(true);
      expect(upkeep).toHaveBeenCalledOnce();
    });

    it('keeps its upkeep if the new one cannot start, until the next reload', async () => {
      const closed = vi.spyOn(Schedule.prototype, 'close');
      const begun = vi.spyOn(server.parts.upkeep, 'scrubbedAtMs').mockRejectedValueOnce(new Error('locked'));
      const next = await reloaded({ upkeep: { gcInterval: '2h' } });
      await expect(server.reload(next)).rejects.toThrow(PartlyReloaded);
      expect(closed).not.toHaveBeenCalled();
      expect(await server.reload(next)).toMatchObject({ changed: [] });
      expect(begun).toHaveBeenCalledTimes(2);
      expect(closed).toHaveBeenCalledOnce();
    });

    it('does not reload once it is stopping, and finishes a reload in progress first', async () => {
      const begun = vi.spyOn(Schedule.prototype, 'begin');
      const closed = vi.spyOn(Schedule.prototype, 'close');
      const next = await reloaded({ upkeep: { gcInterval: '2h' } });
      const reloading = server.reload(next);
      const closing = server.close(0);
      await expect(server.reload(next)).rejects.toThrow('the server is stopping');
      await closing;
      await reloading;
      expect(begun).toHaveBeenCalledOnce();
      expect(closed).toHaveBeenCalledTimes(2);
      expect(openFiles()).toEqual([]);
    });
  });

  it('says nothing more in its metrics of an upstream that a reload has removed', async () => {
    const own = createMetrics();
    await writeFile(join(folder, 'own'), 'secret');
    const host = { listen: '127.0.0.1:0', opsListen: '127.0.0.1:0' };
    const credentials = { username: 'entrepot', passwordFile: join(folder, 'own') };
    const server = await startServer(
      await config({ server: host, upstreams: { 'up.example': { credentials } } }),
      { log: silentLog, meter: own.meter, metrics: own },
    );
    const reported = async () => {
      const response = await fetch(`http://${server.opsAddress}/metrics`);
      return (await response.text()).match(/^entrepot_\w+(?=\{upstream="up\.example"\})/gm);
    };
    try {
      expect(await reported()).toEqual(['entrepot_upstream_credentials_refused', 'entrepot_upstream_down']);
      await server.reload(await config({ server: host }));
      expect(await reported()).toBeNull();
    } finally {
      await server.close(0);
    }
  });

  it.each(['listen', 'opsListen'])('leaves nothing open if its %s is taken', async key => {
    const free = await freePort();
    const server = {
      listen: `127.0.0.1:${free}`,
      opsListen: `127.0.0.1:${free}`,
      [key]: `127.0.0.1:${await takePort()}`,
    };
    await expect(startServer(await config({ server }), observers)).rejects.toThrow(/EADDRINUSE/);
    expect(openFiles()).toEqual([]);
    const again = createServer().listen(free, '127.0.0.1');
    await once(again, 'listening');
    again.close();
  });
});
