// The files of `entrepot hosts`, as it writes them, read by the programs that they are for.
import { mkdir, readFile, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { DockerRegistry, REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { Entrepot } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, imageDigest, pushImage } from '../support/images.ts';
import { fetchedBlobs } from '../support/mirrored-registry.ts';
import { PODMAN_PROGRAMS, Podman } from '../support/podman.ts';
import { freePort, hasPrograms } from '../support/programs.ts';
import { Skopeo } from '../support/skopeo.ts';

const IMAGE = 'public/busybox:1';
/** Of which there is none but in a part of the registry. */
const PART = 'library/part:1';

let registry: DockerRegistry;
let entrepot: Entrepot;

/** A registry by its true address, so that a node can also reach it when Entrepot is away, and Entrepot before it. */
beforeEach(async () => {
  registry = await DockerRegistry.start();
  await pushImage('busybox', registry, IMAGE);
  const upstreams = { [registry.host]: { url: registry.url, aliases: ['registry.test'] } };
  entrepot = await Entrepot.start({ upstreams });
  await registry.forgetRequests();
});
afterEach(async () => {
  await entrepot.remove();
  await registry.remove();
});

/** Has Entrepot write its files for a kind of node, for this registry alone. */
async function writeFiles(kind: string, folder: string, ...flags: string[]): Promise<void> {
  const upstream = ['--upstream', registry.host];
  const result = await entrepot.command('hosts', kind, ...upstream, '--out', folder, ...flags);
  expect(result).toMatchObject({ code: 0 });
}

const tlsFile = (name: string): string => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url));
const TLS = { certFile: tlsFile('server.pem'), keyFile: tlsFile('server.key') };

/** Has Entrepot serve HTTPS alone; the options by which nodes are told of it. */
async function secure(): Promise<readonly string[]> {
  const port = await freePort();
  await entrepot.stop();
  entrepot = await entrepot.startAgain({
    server: { listen: `127.0.0.1:${port}`, tls: TLS },
    upstreams: { [registry.host]: { url: registry.url, aliases: ['registry.test'] } },
  });
  await registry.forgetRequests();
  return ['--server', `https://localhost:${port}`, '--ca', tlsFile('ca.pem')];
}

/** Makes the upstream a part of the registry. */
async function becomePart(): Promise<void> {
  await pushImage('busybox', registry, `proxy-hub/${PART}`);
  await entrepot.stop();
  const upstreams = { [registry.host]: { url: `${registry.url}/v2/proxy-hub`, aliases: ['registry.test'] } };
  entrepot = await entrepot.startAgain({ upstreams });
  await registry.forgetRequests();
}

/** Who fetched blobs from the registry since the last question, by the first word of the user agent. */
async function fetchers(): Promise<readonly string[]> {
  const requests = (await registry.requests()).filter(request => fetchedBlobs([request]).length > 0);
  await registry.forgetRequests();
  return [...new Set(requests.map(({ userAgent }) => userAgent.split(/[/ ]/)[0] ?? ''))];
}

const canRunBase = hasPrograms(...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

describe.skipIf(!canRunBase || !hasPrograms(...CONTAINERD_PROGRAMS))('hosts.toml in containerd', () => {
  let node: Containerd;
  beforeAll(async () => void (node = await Containerd.start()));
  afterAll(async () => node.remove());

  async function pullAnew(image: string = IMAGE): Promise<string | undefined> {
    const reference = `${registry.host}/${image}`;
    await node.pull(reference, { platform: 'linux/amd64' });
    const digest = await node.imageDigest(reference);
    await node.removeImage(reference);
    return digest;
  }

  test('an image is pulled through Entrepot, and from the registry itself while Entrepot is down', async () => {
    await writeFiles('containerd', node.hostsFolder);
    expect(await pullAnew()).toBe(await imageDigest('busybox'));
    expect(await fetchers()).toEqual(['entrepot']);
    await entrepot.stop();
    expect(await pullAnew()).toBe(await imageDigest('busybox'));
    expect(await fetchers()).toEqual(['containerd']);
  });

  test('an image of a part of a registry is pulled through Entrepot, and from that part while Entrepot is down', async () => {
    await becomePart();
    await writeFiles('containerd', node.hostsFolder);
    expect(await pullAnew(PART)).toBe(await imageDigest('busybox'));
    expect(await fetchers()).toEqual(['entrepot']);
    await entrepot.stop();
    expect(await pullAnew(PART)).toBe(await imageDigest('busybox'));
    expect(await fetchers()).toEqual(['containerd']);
  });

  test('an image is pulled through an Entrepot with TLS, by the CA in the files', async () => {
    await writeFiles('containerd', node.hostsFolder, ...(await secure()));
    expect(await pullAnew()).toBe(await imageDigest('busybox'));
    expect(await fetchers()).toEqual(['entrepot']);
  });

  test('a kubelet pulls through it, too', async () => {
    await writeFiles('containerd', node.hostsFolder);
    expect(await node.cri.pull(`${registry.host}/${IMAGE}`)).toMatch(/^sha256:/);
    await node.cri.remove(`${registry.host}/${IMAGE}`);
    expect(await fetchers()).toEqual(['entrepot']);
  });

  test('without a fallback the registry itself is never asked', async () => {
    await writeFiles('containerd', node.hostsFolder, '--no-fallback');
    expect(await pullAnew()).toBe(await imageDigest('busybox'));
    await entrepot.stop();
    await registry.forgetRequests();
    await expect(pullAnew()).rejects.toThrow('connection refused');
    expect(await registry.requests()).toEqual([]);
  });
});

describe.skipIf(!canRunBase || !hasPrograms(...PODMAN_PROGRAMS))(
  'registries.conf in podman and skopeo',
  () => {
    let podman: Podman;
    let skopeo: Skopeo;
    beforeAll(async () => {
      podman = await Podman.make();
      skopeo = await Skopeo.make();
    });
    afterAll(async () => {
      await podman.remove();
      await skopeo.remove();
    });

    async function pullAnew(image: string = IMAGE): Promise<void> {
      const reference = `${registry.host}/${image}`;
      await podman.run('pull', '--quiet', reference);
      await podman.run('image', 'rm', '--force', reference);
      await skopeo.run('copy', '--quiet', `docker://${reference}`, `dir:${skopeo.config.folder}/copy`);
    }

    async function configure(...flags: string[]): Promise<void> {
      for (const { config } of [podman, skopeo]) await writeFiles('crio', config.folder, '--force', ...flags);
    }

    test('an image is pulled through Entrepot, and from the registry itself while Entrepot is down', async () => {
      await configure();
      await pullAnew();
      expect(await fetchers()).toEqual(['entrepot']);
      await entrepot.stop();
      await pullAnew();
      expect(await fetchers()).toEqual(expect.arrayContaining(['skopeo']));
    });

    test('an image of a part of a registry is pulled through Entrepot, and from that part while Entrepot is down', async () => {
      await becomePart();
      await configure();
      await pullAnew(PART);
      expect(await fetchers()).toEqual(['entrepot']);
      await entrepot.stop();
      await pullAnew(PART);
      expect(await fetchers()).toEqual(expect.arrayContaining(['skopeo']));
    });

    test('an image is pulled through an Entrepot with TLS, by the CA in the files', async () => {
      await configure(...(await secure()), '--no-fallback');
      await expect(pullAnew()).rejects.toThrow(/certificate signed by unknown authority/);
      // Where they look besides /etc/containers/certs.d, which is the machine's.
      for (const { config } of [podman, skopeo]) {
        await mkdir(join(config.folder, '.config/containers'), { recursive: true });
        await symlink(join(config.folder, 'certs.d'), join(config.folder, '.config/containers/certs.d'));
      }
      await pullAnew();
      expect(await fetchers()).toEqual(['entrepot']);
    });

    test('without a fallback the registry itself is never asked', async () => {
      await configure('--no-fallback');
      await pullAnew();
      await entrepot.stop();
      await registry.forgetRequests();
      await expect(pullAnew()).rejects.toThrow('connection refused');
      expect(await registry.requests()).toEqual([]);
    });
  },
);

describe.skipIf(!canRunBase || !hasPrograms(...DOCKER_PROGRAMS))('daemon.json in dockerd', () => {
  test.each([
    ['http', {}, []],
    // That Docker trusts whatever is on loopback leaves the CA untried.
    ['https', { tls: TLS }, ['--ca', tlsFile('ca.pem')]],
  ])(
    'an image of Docker Hub comes through the port of Entrepot that belongs to Hub (%s)',
    async (protocol, server, flags) => {
      await pushImage('busybox', registry, 'library/busybox:1');
      const hub = { address: `127.0.0.1:${await freePort()}`, upstream: 'docker.io' };
      const mirror = await Entrepot.start({
        server: { listen: [`127.0.0.1:${await freePort()}`, hub], ...server },
        upstreams: { 'docker.io': { url: registry.url } },
      });
      const folder = join(mirror.folder, 'node');
      const url = `${protocol}://localhost:${hub.address.split(':')[1]}`;
      const written = await mirror.command('hosts', 'docker', '--out', folder, '--server', url, ...flags);
      expect(written).toMatchObject({ code: 0 });
      const settings: unknown = JSON.parse(await readFile(join(folder, 'daemon.json'), 'utf8'));
      const docker = await Dockerd.start({ settings: Object(settings) });
      try {
        await docker.run('pull', '--quiet', 'busybox:1');
        expect(await docker.outputOf('busybox:1')).toBe('hello from the first');
        expect(await fetchers()).toEqual(['entrepot']);
      } finally {
        await docker.remove();
        await mirror.remove();
      }
    },
  );
});
