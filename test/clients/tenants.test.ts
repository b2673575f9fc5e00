// Real clients, one server with tenants, one port: each pulls what is public, logs in, pulls what is private, pushes.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { DockerRegistry, REGISTRY_PROGRAMS, REGISTRY_USER } from '../support/docker-registry.ts';
import { Entrepot } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, imageDigest, pushImage } from '../support/images.ts';
import { FIXED, PRIVATE } from '../support/mirrored-registry.ts';
import { PODMAN_PROGRAMS, Podman } from '../support/podman.ts';
import { freePort, hasPrograms, run, tryRun } from '../support/programs.ts';
import { Skopeo } from '../support/skopeo.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { type Login, writeSecret } from '../support/tenants.ts';

/** No such host exists: nodes know it only by way of Entrepot. */
const UPSTREAM = 'registry.test';
/** The same registry under a name with a port, which a path can only mean by an alias. */
const WITH_PORT = 'ported.test:5000';
const ALIAS = 'ported.test';
const UPSTREAM_LOGIN: Login = [REGISTRY_USER.username, REGISTRY_USER.password];
const TEAM_A: Login = ['team-a', 'password-of-team-a'];
const WRONG: Login = ['team-a', 'wrong'];

const canRun = hasPrograms('skopeo', ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

let upstream: DockerRegistry;
let entrepot: Entrepot;
let host: string;
let mirrorHost: string;

beforeAll(async () => {
  if (!canRun) return;
  upstream = await DockerRegistry.start({ kind: 'token' });
  for (const image of [FIXED, PRIVATE]) await pushImage('busybox', upstream, image);
  const folder = await makeTempFolder('clients');
  host = `127.0.0.1:${await freePort()}`;
  mirrorHost = `127.0.0.1:${await freePort()}`;
  await writeSecret(join(folder, 'team-a.json'), {
    [host]: TEAM_A,
    [UPSTREAM]: UPSTREAM_LOGIN,
    [WITH_PORT]: UPSTREAM_LOGIN,
  });
  const realms = upstream.tokenServer === undefined ? [] : [new URL(upstream.tokenServer.realm).host];
  entrepot = await Entrepot.start(
    {
      upstreams: {
        [UPSTREAM]: { url: upstream.url, realms },
        [WITH_PORT]: { url: upstream.url, realms, aliases: [ALIAS] },
      },
      tenants: [{ name: 'team-a', secrets: join(folder, 'team-a.json') }],
      server: { listen: [host, { address: mirrorHost, upstream: UPSTREAM }], serverNames: [host] },
    },
    { folder },
  );
});

afterAll(async () => {
  if (!canRun) return;
  await entrepot.remove();
  await upstream.remove();
});

const at = (image: string) => `${host}/${UPSTREAM}/${image}`;

describe.skipIf(!canRun)('skopeo', () => {
  let skopeo: Skopeo;
  beforeAll(async () => void (skopeo = await Skopeo.make()));
  afterAll(async () => skopeo.remove());

  const inspect = async (image: string, ...more: string[]) =>
    skopeo.run('inspect', '--raw', '--tls-verify=false', ...more, `docker://${at(image)}`);

  test('pulls public images, logs in, pulls private ones and pushes', async () => {
    expect(await inspect(FIXED)).toContain('manifests');
    await expect(inspect(PRIVATE)).rejects.toThrow(/denied|unauthorized|authentication required/i);
    await expect(inspect(PRIVATE, '--creds', WRONG.join(':'))).rejects.toThrow(
      /denied|unauthorized|invalid username/i,
    );
    await skopeo.run('login', '--tls-verify=false', '-u', TEAM_A[0], '-p', TEAM_A[1], host);
    expect(await inspect(PRIVATE)).toContain('manifests');
    const aliased = `docker://${host}/${ALIAS}/${PRIVATE}`;
    expect(await skopeo.run('inspect', '--raw', '--tls-verify=false', aliased)).toContain('manifests');
    const target = `docker://${host}/team-a/by-skopeo:1`;
    const flags = ['--all', '--preserve-digests', '--src-tls-verify=false', '--dest-tls-verify=false'];
    await skopeo.run('copy', ...flags, `docker://${at(PRIVATE)}`, target);
    expect(await skopeo.run('inspect', '--raw', '--tls-verify=false', target)).toContain('manifests');
  });
});

describe.skipIf(!canRun || !hasPrograms(...PODMAN_PROGRAMS))('podman', () => {
  let podman: Podman;
  beforeAll(async () => void (podman = await Podman.make()));
  afterAll(async () => podman.remove());

  test('pulls public images, logs in, pulls private ones and pushes', async () => {
    await podman.run('pull', '--tls-verify=false', at(FIXED));
    await expect(podman.run('pull', '--tls-verify=false', at(PRIVATE))).rejects.toThrow(
      /denied|unauthorized|authentication required/i,
    );
    await expect(
      podman.run('login', '--tls-verify=false', '-u', WRONG[0], '-p', WRONG[1], host),
    ).rejects.toThrow(/invalid username/i);
    await podman.run('login', '--tls-verify=false', '-u', TEAM_A[0], '-p', TEAM_A[1], host);
    await podman.run('pull', '--tls-verify=false', at(PRIVATE));
    await podman.run('push', '--tls-verify=false', at(PRIVATE), `${host}/team-a/by-podman:1`);
    await podman.run('pull', '--tls-verify=false', `${host}/team-a/by-podman:1`);
  });
});

describe.skipIf(!canRun || !hasPrograms('oras'))('oras', () => {
  let folder: string;
  beforeAll(async () => void (folder = await makeTempFolder('oras')));
  afterAll(() => removeFolder(folder));

  const config = () => ['--registry-config', join(folder, 'config.json'), '--plain-http'];

  test('logs in, pushes, and pulls private artifacts', async () => {
    expect(await run('oras', ['manifest', 'fetch', ...config(), at(FIXED)])).toContain('manifests');
    const refused = await tryRun('oras', ['manifest', 'fetch', ...config(), at(PRIVATE)]);
    expect(refused.code).not.toBe(0);
    await run('oras', ['login', ...config(), '-u', TEAM_A[0], '-p', TEAM_A[1], host]);
    expect(await run('oras', ['manifest', 'fetch', ...config(), at(PRIVATE)])).toContain('manifests');
    await writeFile(join(folder, 'note.txt'), 'hello');
    const target = `${host}/team-a/by-oras:1`;
    await run('oras', ['push', ...config(), target, 'note.txt:text/plain'], { cwd: folder });
    expect(await run('oras', ['manifest', 'fetch', ...config(), target])).toContain('note.txt');
  });
});

describe.skipIf(!canRun || !hasPrograms(...DOCKER_PROGRAMS))('docker', () => {
  let docker: Dockerd;
  beforeAll(async () => {
    docker = await Dockerd.start({ settings: { 'insecure-registries': [host, mirrorHost] } });
  });
  afterAll(async () => docker.remove());

  test('pulls public images, logs in, pulls private ones and pushes', async () => {
    await docker.run('pull', '--quiet', at(FIXED));
    expect((await docker.tryRun('pull', '--quiet', at(PRIVATE))).code).not.toBe(0);
    expect((await docker.tryRun('login', '-u', WRONG[0], '-p', WRONG[1], host)).code).not.toBe(0);
    await docker.run('login', '-u', TEAM_A[0], '-p', TEAM_A[1], host);
    await docker.run('pull', '--quiet', at(PRIVATE));
    await docker.run('tag', at(PRIVATE), `${host}/team-a/by-docker:1`);
    await docker.run('push', '--quiet', `${host}/team-a/by-docker:1`);
    await docker.run('pull', '--quiet', `${host}/team-a/by-docker:1`);
  });

  test('gets names without an upstream on a port that belongs to one, whatever login it sends', async () => {
    const image = `${mirrorHost}/${FIXED}`;
    expect(await docker.run('pull', '--quiet', image)).toContain(image);
  });
});

describe.skipIf(!canRun || !hasPrograms(...CONTAINERD_PROGRAMS))('containerd', () => {
  let node: Containerd;
  beforeAll(async () => {
    node = await Containerd.start();
    const toml = `server = "${entrepot.url}"\n[host."${entrepot.url}"]\ncapabilities = ["pull", "resolve"]\n`;
    await node.writeHosts(UPSTREAM, toml);
    await node.writeHosts(
      host,
      `server = "${entrepot.url}"\n[host."${entrepot.url}"]\ncapabilities = ["pull", "resolve", "push"]\n`,
    );
  });
  afterAll(async () => node.remove());

  test('with ctr pulls public images, and private ones with the credential for the upstream', async () => {
    await node.pull(`${UPSTREAM}/${FIXED}`);
    expect((await node.tryPull(`${UPSTREAM}/${PRIVATE}`)).code).not.toBe(0);
    await node.pull(`${UPSTREAM}/${PRIVATE}`, { user: UPSTREAM_LOGIN.join(':') });
    expect(await node.imageDigest(`${UPSTREAM}/${PRIVATE}`)).toBe(await imageDigest('busybox'));
    await node.removeImage(`${UPSTREAM}/${PRIVATE}`);
  });

  test('with ctr pulls and pushes under the name of this registry', async () => {
    await node.pull(at(PRIVATE), { user: TEAM_A.join(':') });
    const flags = ['--user', TEAM_A.join(':'), '--hosts-dir', node.hostsFolder];
    const target = `${host}/team-a/by-ctr:1`;
    await node.run('images', 'push', ...flags, '--platform', 'linux/amd64', target, at(PRIVATE));
    await node.pull(target, { user: TEAM_A.join(':') });
    expect(await node.imageDigest(target)).toMatch(/^sha256:/);
  });

  test("with CRI, like a kubelet, pulls with the pod's secret for the upstream, and not with a wrong one even if the image is stored", async () => {
    const image = `${UPSTREAM}/${PRIVATE}`;
    const [username, password] = UPSTREAM_LOGIN;
    expect(await node.cri.pull(image, { username, password })).toMatch(/^sha256:/);
    await node.cri.remove(image);
    await expect(node.cri.pull(image, { username, password: 'wrong' })).rejects.toThrow(/failed to pull/);
    await expect(node.cri.pull(image)).rejects.toThrow(/failed to pull/);
    expect(await node.cri.pull(image, { username, password })).toMatch(/^sha256:/);
  });
});
