// `entrepot hosts --watch` on the folder of a real containerd, which pulls all the time: through Entrepot, or from the
// registry itself.
import { once } from 'node:events';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from 'node:tls';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';
import { absentAsUndefined } from '../../src/lib/error-code.ts';
import { type Certificate, makeCertificate } from '../support/certificates.ts';
import { Chance, SEED } from '../support/chance.ts';
import { ConstantPuller } from '../support/constant-puller.ts';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { DockerRegistry, REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, pushImage } from '../support/images.ts';
import { Daemon, freePort, hasPrograms, until } from '../support/programs.ts';

const IMAGE = 'public/busybox:1';
/** For a change to be followed, on a busy machine. */
const SOON_MS = 60_000;
const KILLS = 40;
/** Most processes die that soon after their first change, in the middle of others. */
const LATER_MS = 100;
/** The others die within this time, in which they begin. */
const LIFE_MS = 500;
const NO_PRESETS = Object.fromEntries(
  ['docker.io', 'registry.k8s.io', 'ghcr.io', 'quay.io', 'gcr.io', 'mcr.microsoft.com', 'public.ecr.aws'].map(
    name => [name, false],
  ),
);

const canRun = hasPrograms(...CONTAINERD_PROGRAMS, ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

describe.skipIf(!canRun)('a node whose files are kept', () => {
  let node: Containerd;
  let one: DockerRegistry;
  let other: DockerRegistry;
  let entrepot: Entrepot;
  let folder: string;
  let first: Certificate;
  let second: Certificate;
  let watching: Daemon | undefined;
  let puller: ConstantPuller;

  beforeAll(async () => {
    node = await Containerd.start();
    [one, other] = [await DockerRegistry.start(), await DockerRegistry.start()];
    for (const registry of [one, other]) await pushImage('busybox', registry, IMAGE);
    const port = await freePort();
    entrepot = await Entrepot.start({
      upstreams: upstreamsOf(one, other),
      server: { listen: `127.0.0.1:${port}` },
    });
    folder = entrepot.folder;
    [first, second] = [await makeCertificate(folder, 'first'), await makeCertificate(folder, 'second')];
    await serveWith(first);
    await entrepot.stop();
    const tls = { certFile: join(folder, 'tls.crt'), keyFile: join(folder, 'tls.key') };
    entrepot = await entrepot.startAgain({ upstreams: upstreamsOf(one, other), server: { tls } });
  });
  afterAll(async () => {
    await node.remove();
    await entrepot.remove();
    for (const registry of [one, other]) await registry.remove();
  });

  beforeEach(async () => {
    await configure(upstreamsOf(one));
    await trust(first.cert);
    puller = new ConstantPuller(node, `${one.host}/${IMAGE}`);
  });
  afterEach(async () => {
    await puller.stop();
    await watching?.stop();
  });

  /** A registry by its true address, so that the node can also reach it by itself. */
  function upstreamsOf(...registries: readonly DockerRegistry[]): object {
    return Object.fromEntries(registries.map(({ host, url }) => [host, { url }]));
  }

  const configure = async (upstreams: object): Promise<void> =>
    writeFile(join(folder, 'nodes.yaml'), stringify({ upstreams: { ...NO_PRESETS, ...upstreams } }));
  const trust = async (...pems: readonly string[]): Promise<void> =>
    writeFile(join(folder, 'ca.crt'), pems.join(''));

  async function serveWith({ cert, key }: Certificate): Promise<void> {
    await writeFile(join(folder, 'tls.key'), key);
    await writeFile(join(folder, 'tls.crt'), cert);
  }

  async function watch(): Promise<Daemon> {
    const server = ['--server', `https://localhost:${new URL(entrepot.url).port}`, '--resolve'];
    const files = ['--config', join(folder, 'nodes.yaml'), '--ca', join(folder, 'ca.crt')];
    const args = ['hosts', 'containerd', '--watch', '--out', node.hostsFolder, ...server, ...files];
    watching = await Daemon.start({
      program: process.execPath,
      args: [...STARTER, ...args],
      isReady: async () => true,
    });
    return watching;
  }

  const folderOf = (host: string): string => join(node.hostsFolder, host.replace(/:(\d+)$/, '_$1_'));
  const hostsOf = async (host: string): Promise<string | undefined> =>
    absentAsUndefined(readFile(join(folderOf(host), 'hosts.toml'), 'utf8'));

  /** Whether the node itself has asked the registry since the last question. */
  async function isAskedDirectly(registry: DockerRegistry): Promise<boolean> {
    const requests = await registry.requests();
    await registry.forgetRequests();
    return requests.some(({ userAgent }) => userAgent.startsWith('containerd'));
  }

  async function pullAnew(registry: DockerRegistry): Promise<string | undefined> {
    const reference = `${registry.host}/${IMAGE}`;
    await registry.forgetRequests();
    await node.pull(reference, { platform: 'linux/amd64' });
    const digest = await node.imageDigest(reference);
    await node.removeImage(reference);
    return digest;
  }

  async function isServedWith({ cert: ca }: Certificate): Promise<boolean> {
    const socket = connect({ host: '127.0.0.1', port: Number(new URL(entrepot.url).port), ca });
    try {
      await once(socket, 'secureConnect');
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  }

  const soon = async (what: string, isTrue: () => Promise<boolean>) => until(what, SOON_MS, isTrue);

  test('pulls through Entrepot what comes, is changed and goes, and is never without an image', async () => {
    puller.start();
    await watch();
    await soon('the first', async () => (await hostsOf(one.host)) !== undefined);
    await pullAnew(other);
    expect(await isAskedDirectly(other)).toBe(true);

    await configure(upstreamsOf(one, other));
    await soon('the one that came', async () => (await hostsOf(other.host)) !== undefined);
    await pullAnew(other);
    expect(await isAskedDirectly(other)).toBe(false);

    const part = { url: `${other.url}/v2/proxy-hub` };
    await configure({ ...upstreamsOf(one), [other.host]: part });
    await soon('the change', async () => (await hostsOf(other.host))?.includes('override_path') === true);
    await pullAnew(other);
    expect(await isAskedDirectly(other)).toBe(false);

    await configure(upstreamsOf(one));
    await soon('its end', async () => (await absentAsUndefined(readdir(folderOf(other.host)))) === undefined);
    await pullAnew(other);
    expect(await isAskedDirectly(other)).toBe(true);
    await puller.stop();
    expect(puller.failures).toEqual(new Set());
  });

  test('pulls through Entrepot while its CA is replaced, and from the registry while the CA is wrong', async () => {
    await watch();
    const ca = async () => absentAsUndefined(readFile(join(folderOf(one.host), 'entrepot-ca.pem'), 'utf8'));
    await soon('the CA', async () => (await ca()) === first.cert);
    await pullAnew(one);
    puller.start();
    await isAskedDirectly(one);
    await trust(first.cert, second.cert);
    await soon('both CAs', async () => (await ca()) === first.cert + second.cert);
    await serveWith(second);
    await soon('the new certificate', async () => isServedWith(second));
    await trust(second.cert);
    await soon('the new CA', async () => (await ca()) === second.cert);
    await pullAnew(one);
    expect(await isAskedDirectly(one)).toBe(false);

    await trust(first.cert);
    await soon('the wrong CA', async () => (await ca()) === first.cert);
    await pullAnew(one);
    expect(await isAskedDirectly(one)).toBe(true);
    await serveWith(first);
    await soon('the certificate', async () => isServedWith(first));
    await puller.stop();
    expect(puller.failures).toEqual(new Set());
  });

  test('has an image at every moment while what keeps its files is killed again and again', async () => {
    const theirs = join(node.hostsFolder, 'registry.example', 'hosts.toml');
    await mkdir(join(theirs, '..'), { recursive: true });
    await writeFile(theirs, 'server = "https://registry.example"\n');
    const chance = new Chance(SEED);
    puller.start();
    let [upstreams, cas] = [0, 0];
    const sets = [upstreamsOf(one), upstreamsOf(one, other), upstreamsOf(other)];
    const pems = [[first.cert], [first.cert, second.cert], [second.cert]];
    let hasChanged = true;
    for (let kill = 0; kill < KILLS; kill += 1) {
      // Something else than before in each of its parts, unless the last one died before it came to that.
      if (hasChanged)
        [upstreams, cas] = [upstreams, cas].map(at => (at + 1 + chance.below(2)) % 3) as [number, number];
      await configure(sets[upstreams] ?? {});
      await trust(...(pems[cas] ?? []));
      const command = await watch();
      if (chance.in(0.25)) {
        await sleep(LIFE_MS * chance.next());
      } else {
        await soon('a change', async () => command.logs() !== '');
        await sleep(LATER_MS * chance.next());
      }
      await command.kill();
      hasChanged = command.logs() !== '';
    }
    await configure(upstreamsOf(one));
    await trust(first.cert);
    await watch();
    const names = ['entrepot-ca.pem', 'hosts.toml'];
    await soon('everything to be as it should', async () => {
      const [there, kept] = [await readdir(node.hostsFolder), await readdir(folderOf(one.host))];
      const wanted = [folderOf(one.host), join(theirs, '..')].map(path =>
        path.slice(node.hostsFolder.length + 1),
      );
      return there.sort().join() === wanted.sort().join() && kept.sort().join() === names.join();
    });
    await puller.stop();
    expect(puller.failures).toEqual(new Set());
    expect(puller.pulls).toBeGreaterThan(KILLS);
    expect(await readFile(theirs, 'utf8')).toBe('server = "https://registry.example"\n');
    await pullAnew(one);
    expect(await isAskedDirectly(one)).toBe(false);
  });
});
