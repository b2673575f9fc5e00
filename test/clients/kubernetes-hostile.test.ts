// A namespace whose administrator does all that the API server lets one do, against a real one: nobody else notices.
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TenantsDocument } from '../../src/cli/tenants.ts';
import { get } from '../support/client.ts';
import { imageOf } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { loginStatus, SOON_MS, soonFollows, soonLogged, soonLogsIn, soonRefused } from '../support/logins.ts';
import { answers, Daemon, freePort, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { basic, getAs, type Login } from '../support/tenants.ts';

/** Its content is public. */
const UPSTREAM = 'up.example';

/** Its content is for who has the credential that a plugin gives. */
const PLUGIN_UPSTREAM = 'plugin.example';

/** What the plugin gives for each image. */
const PLUGIN_LOGIN: Login = ['plugin', 'password-of-plugin'];

/** Of one tenant at once. */
const MAX_PROCESSES = 4;

const MIB = 2 ** 20;

/** What the container of config/kubernetes may have is 1 GiB. */
const MAX_RSS_BYTES = 700 * MIB;

/** How long the administrator goes on. */
const HOSTILE_MS = 60_000;

/**
 * Between two rotations at least: each new login is tried until it counts, which is a wrong password before, and of
 * those one address may bring 60 in five minutes.
 */
const ROTATION_MS = 2_000;

let cluster: KubeCluster;
let upstream: FakeUpstream;
let pluginUpstream: FakeUpstream;
let pluginFolder: string;
let entrepot: Entrepot;
let host: string;

beforeAll(async () => {
  if (!HAS_CLUSTER) return;
  cluster = await KubeCluster.start({ niceness: 10 });
  await cluster.kubectl('apply', '--kustomize', MANIFESTS);
  upstream = await FakeUpstream.start();
  upstream.add('app', imageOf([]), 'v1');
  const [username, password] = PLUGIN_LOGIN;
  const users = { [username]: { password, repositories: '*' } } as const;
  pluginUpstream = await FakeUpstream.start({ auth: { scheme: 'basic', users } });
  pluginUpstream.add('app', imageOf([]), 'v1');
  pluginFolder = await makeTempFolder('plugin');
  host = `127.0.0.1:${await freePort()}`;
  entrepot = await Entrepot.start({
    server: { listen: host, serverNames: [host] },
    upstreams: { [UPSTREAM]: { url: upstream.url }, [PLUGIN_UPSTREAM]: { url: pluginUpstream.url } },
    kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot') },
    credentialProviders: await writePlugin(pluginFolder),
  });
});

afterAll(async () => {
  if (!HAS_CLUSTER) return;
  await entrepot.remove();
  await upstream.stop();
  await pluginUpstream.stop();
  await removeFolder(pluginFolder);
  await cluster.remove();
});

/**
 * A plugin that leaves a file in `running/` while it runs, and adds how many there are to `counts`. For an image that is
 * called invented-… it goes on until there is a file `end`; without the test, it ends by itself.
 */
async function writePlugin(folder: string): Promise<object> {
  const apiVersion = 'credentialprovider.kubelet.k8s.io/v1';
  const [username, password] = PLUGIN_LOGIN;
  const auth = { [PLUGIN_UPSTREAM]: { username, password } };
  const answer = { kind: 'CredentialProviderResponse', apiVersion, cacheKeyType: 'Image', auth };
  const script = `#!/bin/sh
cd ${folder}
request=$(cat)
: >running/$$
ls running | wc -l >>counts
case $request in
*invented-*)
  left=600
  until [ -e end ] || [ ! -e counts ] || [ $((left -= 1)) -le 0 ]; do sleep 0.1; done
  ;;
esac
rm running/$$
echo '${JSON.stringify(answer)}'
`;
  await mkdir(join(folder, 'running'));
  await writeFile(join(folder, 'plugin'), script, { mode: 0o755 });
  const matchImages = [PLUGIN_UPSTREAM];
  const provider = { name: 'plugin', apiVersion, matchImages, defaultCacheDuration: '1h' };
  const kind = 'CredentialProviderConfig';
  const config = { apiVersion: 'kubelet.config.k8s.io/v1', kind, providers: [provider] };
  const configFile = join(folder, 'providers.json');
  await writeFile(configFile, JSON.stringify(config));
  return { configFile, binDir: folder };
}

/** One that etcd just takes, of which JSON is six times as large. */
const OWNER = '<'.repeat(1_200_000);

interface Content {
  readonly metadata?: object;
  readonly data?: string;
}

async function putSecret(
  namespace: string,
  name: string,
  { metadata = {}, data = '{"auths":{}}' }: Content,
): Promise<void> {
  await cluster.replace('secrets', namespace, {
    metadata: { name, ...metadata },
    type: 'kubernetes.io/dockerconfigjson',
    data: { '.dockerconfigjson': Buffer.from(data).toString('base64') },
  });
}

async function putAccount(
  namespace: string,
  name: string,
  metadata: object,
  more: object = {},
): Promise<void> {
  await cluster.replace('serviceaccounts', namespace, { ...more, metadata: { name, ...metadata } });
}

const owned = { ownerReferences: [{ apiVersion: 'v1', kind: 'Pod', name: OWNER, uid: 'x' }] };

async function document(): Promise<TenantsDocument> {
  return JSON.parse((await entrepot.command('tenants', '--json')).stdout);
}

/** Asks again and again in a process of its own, so that what the test does takes nothing from it. */
class Probe {
  readonly #child: ChildProcessByStdio<null, Readable, null>;
  #text = '';

  private constructor(url: string) {
    const code = `
      let isOver = false;
      process.on('SIGTERM', () => (isOver = true));
      const took = [];
      while (!isOver) {
        const startMs = performance.now();
        const { status } = await fetch(${JSON.stringify(url)});
        if (status !== 200) throw new Error(String(status));
        took.push(performance.now() - startMs);
        await new Promise(resolve => setTimeout(resolve, 20));
      }
      console.log(JSON.stringify(took));`;
    const args = ['--input-type=module', '--eval', code];
    this.#child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#child.stdout.setEncoding('utf8').on('data', (piece: string) => (this.#text += piece));
  }

  static async start(url: string): Promise<Probe> {
    const probe = new Probe(url);
    await once(probe.#child, 'spawn');
    return probe;
  }

  /** How long each answer took, ms. */
  async stop(): Promise<readonly number[]> {
    this.#child.kill('SIGTERM');
    await once(this.#child, 'close');
    return JSON.parse(this.#text);
  }
}

/** A server that has nothing to do. */
async function startPlainServer(): Promise<{ readonly url: string; readonly daemon: Daemon }> {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/`;
  const code = `require('http').createServer((_, response) => response.end()).listen(${port}, '127.0.0.1')`;
  const isReady = () => answers(url, 200);
  return { url, daemon: await Daemon.start({ program: process.execPath, args: ['--eval', code], isReady }) };
}

function p99Of(took: readonly number[]): number {
  return took.toSorted((a, b) => a - b)[Math.floor(took.length * 0.99)] ?? Number.NaN;
}

const login = (tenant: string, nth: number): Login => [`${tenant}-${nth}`, `password-${nth}`];

describe.skipIf(!HAS_CLUSTER)('an object that is too large', () => {
  test.each(['labelled', 'nobody'])(
    'in a namespace that is %s hides no later change, and is reported',
    async of => {
      const good = `beside-${of}`;
      await cluster.makeTenant(good);
      await (of === 'labelled' ? cluster.makeTenant(of) : cluster.kubectl('create', 'namespace', of));
      await cluster.putPullSecret(good, 'pull', host, login(good, 1));
      await soonLogsIn(login(good, 1), entrepot);
      await putSecret(of, 'huge', { metadata: owned });
      await putAccount(of, 'huge', owned);
      await cluster.putPullSecret(good, 'pull', host, login(good, 2));
      await soonLogsIn(login(good, 2), entrepot);
      await soonRefused(login(good, 1), entrepot);
      await until('both to be told', SOON_MS, async () => {
        const told = (await document()).passedOver.filter(({ namespace }) => namespace === of);
        const names = told.map(({ resource, name }) => `${resource} ${name}`).sort();
        return names.join() === 'secrets huge,serviceaccounts huge';
      });
      expect(await entrepot.metrics()).toContain(
        `entrepot_kubernetes_passed_over{resource="secrets",namespace="${of}",name="huge"} 1`,
      );
      await soonLogged(new RegExp(`"namespace":"${of}".*are skipped`), entrepot);
      await cluster.kubectl('delete', 'secret', 'pull', '--namespace', good);
      await soonRefused(login(good, 2), entrepot);
      await soonFollows(entrepot);

      await entrepot.stop();
      entrepot = await entrepot.startAgain();
      await cluster.putPullSecret(good, 'pull', host, login(good, 3));
      await soonLogsIn(login(good, 3), entrepot);
      await cluster.kubectl('delete', 'namespace', of, '--wait=false');
    },
  );
});

describe.skipIf(!HAS_CLUSTER)('a namespace that requests a hundred invented images', () => {
  const names = Array.from({ length: 100 }, (_, nth) => `invented-${nth}`);

  const pull = async (of: Login, name: string) =>
    get(`${entrepot.url}/v2/${name}/manifests/v1?ns=${PLUGIN_UPSTREAM}`, { headers: basic(of) });

  test('has four processes of a plugin at a time, one for each image, and another namespace is served meanwhile', async () => {
    const [inventor, other] = [login('inventor', 1), login('other', 1)];
    for (const of of [inventor, other]) {
      const [name = ''] = of[0].split('-');
      await cluster.makeTenant(name);
      await cluster.putPullSecret(name, 'pull', host, of);
      await soonLogsIn(of, entrepot);
    }

    const asked = [...names, ...names].map(async name => pull(inventor, name));
    const running = async () => (await readdir(join(pluginFolder, 'running'))).length;
    await until('the first plugins to run', SOON_MS, async () => (await running()) >= MAX_PROCESSES);
    expect((await pull(other, 'app')).status).toBe(200);
    expect(await running()).toBe(MAX_PROCESSES);

    await writeFile(join(pluginFolder, 'end'), '');
    for (const { status } of await Promise.all(asked)) expect(status).toBe(404);
    const counts = (await readFile(join(pluginFolder, 'counts'), 'utf8')).trim().split('\n').map(Number);
    expect(counts.length).toBe(names.length + 1);
    expect(Math.max(...counts)).toBeLessThanOrEqual(MAX_PROCESSES + 1);
  });
});

describe.skipIf(!HAS_CLUSTER)('an administrator of a namespace who uses all of this at once', () => {
  test('does not affect another namespace that pulls and rotates meanwhile', async () => {
    await cluster.makeTenant('victim');
    await cluster.makeTenant('hostile');
    await cluster.putPullSecret('victim', 'pull', host, login('victim', 0));
    await soonLogsIn(login('victim', 0), entrepot);

    const end = new AbortController();
    const plain = await startPlainServer();
    const probes = [await Probe.start(`${entrepot.ops}/livez`), await Probe.start(plain.url)];
    const running = hostileTools().map(tool => repeat(tool, end.signal));
    let rotations = 0;
    for (const untilMs = Date.now() + HOSTILE_MS; Date.now() < untilMs; ) {
      const [before, after] = [login('victim', rotations), login('victim', rotations + 1)];
      const pause = sleep(ROTATION_MS);
      await cluster.putPullSecret('victim', 'pull', host, after);
      await soonLogsIn(after, entrepot);
      expect(await loginStatus(before, entrepot)).toBe(401);
      const pulled = await getAs(after, `${entrepot.url}/v2/app/manifests/v1?ns=${UPSTREAM}`);
      expect(pulled.status).toBe(200);
      rotations += 1;
      await pause;
    }
    end.abort();
    const [ours = [], those = []] = await Promise.all(probes.map(probe => probe.stop()));
    await Promise.all(running);
    await plain.daemon.stop();

    expect(rotations).toBeGreaterThan(2);
    const [p99, plainP99] = [p99Of(ours), p99Of(those)];
    const peak = entrepot.peakRss();
    console.info(
      `${rotations} rotations, /livez p99 ${p99.toFixed(1)} ms of ${ours.length}, of a server without work`,
      `${plainP99.toFixed(1)} ms of ${those.length}, ${Math.round(peak / MIB)} MiB`,
    );
    // What every process of this machine waits for is not ours.
    expect(p99 - plainP99).toBeLessThan(100);
    expect(peak).toBeLessThan(MAX_RSS_BYTES);
    expect((await document()).tenants.some(({ name }) => name === 'victim')).toBe(true);
    expect(await loginStatus(login('victim', rotations), entrepot)).toBe(200);
    await soonFollows(entrepot);
  });

  /** What one may do to one's own namespace, each again and again. */
  function hostileTools(): readonly (() => Promise<void>)[] {
    let nth = 0;
    const next = () => `${(nth += 1)}`;
    const entries = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, at) => [`r${at}.${next()}`, { auth: 'dTpw' }]));
    const config = (count: number) => JSON.stringify({ auths: entries(count) });
    const again = () => `{${Array.from({ length: 30_000 }, () => `"auths":{"${next()}":{}}`).join()}}`;
    const references = () => Array.from({ length: 60_000 }, () => ({ name: `s${next()}` }));
    const one = (of: number) => String(Number(next()) % of);
    return [
      async () => putSecret('hostile', `huge-${one(5)}`, { metadata: owned }),
      async () => putAccount('hostile', `huge-${one(5)}`, owned),
      async () => putSecret('hostile', `wide-${one(8)}`, { data: config(20_000) }),
      async () => putSecret('hostile', `again-${one(3)}`, { data: again() }),
      async () => putSecret('hostile', 'deep', { data: `${'['.repeat(9_000)}${']'.repeat(9_000)}` }),
      async () => putAccount('hostile', 'default', {}, { imagePullSecrets: references() }),
      async () => putSecret('hostile', `small-${one(3_000)}`, { data: config(50) }),
    ];
  }

  async function repeat(tool: () => Promise<void>, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) await tool();
  }
});
