// The way of images into a place without a network, with the programs that people have: from a real registry through
// bundles to real nodes, and archives of other programs the other way.
import { stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import { Entrepot } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, imageDigest, pushImage } from '../support/images.ts';
import { FIXED, MirroredRegistry, UPSTREAM } from '../support/mirrored-registry.ts';
import { Podman, PODMAN_PROGRAMS } from '../support/podman.ts';
import { hasPrograms, run } from '../support/programs.ts';
import { Skopeo } from '../support/skopeo.ts';

const canRun = hasPrograms(
  ...CONTAINERD_PROGRAMS,
  ...DOCKER_PROGRAMS,
  ...PODMAN_PROGRAMS,
  ...REGISTRY_PROGRAMS,
  ...IMAGE_PROGRAMS,
);

const REFERENCE = `${UPSTREAM}/${FIXED}`;
const MOVED = `${UPSTREAM}/team/moved:2`;

const WORKLOADS = `
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Pod
    spec: {containers: [{name: main, image: "${REFERENCE}"}]}
---
apiVersion: batch/v1
kind: CronJob
spec: {jobTemplate: {spec: {template: {spec: {initContainers: [{name: init, image: "${MOVED}"}], containers: []}}}}}
`;

const UPSTREAM_AWAY = { upstreams: { [UPSTREAM]: { url: 'http://127.0.0.1:9' } }, offline: true };

describe.skipIf(!canRun)('images for a site without a network', () => {
  let connected: MirroredRegistry;
  let island: Entrepot;
  let skopeo: Skopeo;
  let folder: string;
  let bundle: string;

  async function succeed(entrepot: Entrepot, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await entrepot.spawnCommand(...args);
    expect({ args, code, stderr }).toMatchObject({ code: 0 });
    return stdout;
  }

  beforeAll(async () => {
    connected = await MirroredRegistry.start('open');
    await pushImage('busybox-moved', connected.upstream, 'team/moved:2');
    island = await Entrepot.start(UPSTREAM_AWAY);
    skopeo = await Skopeo.make();
    ({ folder } = connected.entrepot);
    bundle = join(folder, 'bundle.tar');
    const workloads = join(folder, 'workloads.yaml');
    await writeFile(workloads, WORKLOADS);
    const platforms = ['--platform', 'linux/amd64,linux/arm64'];
    await succeed(connected.entrepot, 'pull', '--from', workloads, ...platforms);
    await succeed(connected.entrepot, 'export', REFERENCE, MOVED, ...platforms, '--docker', '-o', bundle);
    await succeed(island, 'import', bundle);
    await succeed(island, 'check', '--from', workloads, ...platforms);
  });

  afterAll(async () => {
    await skopeo.remove();
    await island.remove();
    await connected.remove();
  });

  describe('containerd', () => {
    let node: Containerd;
    beforeAll(async () => void (node = await Containerd.start()));
    afterAll(async () => node.remove());

    test('pulls both platforms of an imported image by its usual name', async () => {
      await node.writeHosts(UPSTREAM, `server = "${island.url}"\n[host."${island.url}"]\n`);
      for (const platform of ['linux/amd64', 'linux/arm64']) {
        await node.pull(REFERENCE, { platform });
        expect(await node.imageDigest(REFERENCE)).toBe(await imageDigest('busybox'));
        await node.removeImage(REFERENCE);
      }
    });

    test('imports a bundle by itself', async () => {
      await node.run('images', 'import', '--platform', 'linux/amd64', '--snapshotter', 'native', bundle);
      expect(await node.imageDigest(REFERENCE)).toBe(await imageDigest('busybox'));
      expect(await node.imageDigest(MOVED)).toBe(await imageDigest('busybox-moved'));
    });
  });

  describe('skopeo', () => {
    test('reads a bundle as oci-archive and as docker-archive', async () => {
      for (const transport of ['oci-archive', 'docker-archive']) {
        const out = join(folder, `from-${transport}`);
        await skopeo.run('copy', '--quiet', `${transport}:${bundle}:${REFERENCE}`, `dir:${out}`);
        expect((await stat(join(out, 'manifest.json'))).size).toBeGreaterThan(0);
      }
    });

    test('writes an oci-archive that can be imported, with all its platforms', async () => {
      const archive = join(folder, 'skopeo.tar');
      const from = `docker://${connected.upstream.host}/${FIXED}`;
      const to = `oci-archive:${archive}:${UPSTREAM}/from/skopeo:1`;
      await skopeo.run('copy', '--quiet', '--all', '--src-tls-verify=false', from, to);
      const out = await succeed(island, 'import', archive);
      expect(out).toBe(`${UPSTREAM}/from/skopeo:1 ${await imageDigest('busybox')}\n`);
      await skopeo.copyOut(`${island.host}/${UPSTREAM}/from/skopeo:1`, '--all');
    });

    test('writes a folder that can be imported, under a name given to the import', async () => {
      const layout = join(folder, 'skopeo-layout');
      const from = `docker://${connected.upstream.host}/${FIXED}`;
      await skopeo.run('copy', '--quiet', '--src-tls-verify=false', from, `oci:${layout}:latest`);
      const out = await succeed(island, 'import', layout, '--rename', `${UPSTREAM}/from/layout:1`);
      expect(out).toContain(`${UPSTREAM}/from/layout:1 sha256:`);
      await skopeo.copyOut(`${island.host}/${UPSTREAM}/from/layout:1`);
    });
  });

  describe('podman', () => {
    let podman: Podman;
    beforeAll(async () => void (podman = await Podman.make()));
    afterAll(async () => podman.remove());

    test('loads a bundle, and saves archives that can be imported', async () => {
      await podman.run('load', '--quiet', '--input', bundle);
      expect(await podman.run('images', '--format', '{{.Repository}}:{{.Tag}}')).toContain(REFERENCE);
      const archive = join(folder, 'podman.tar');
      await podman.run('tag', REFERENCE, `${UPSTREAM}/from/podman:1`);
      await podman.run(
        'save',
        '--quiet',
        '--format',
        'oci-archive',
        '-o',
        archive,
        `${UPSTREAM}/from/podman:1`,
      );
      expect(await succeed(island, 'import', archive)).toContain(`${UPSTREAM}/from/podman:1 sha256:`);
      await skopeo.copyOut(`${island.host}/${UPSTREAM}/from/podman:1`);
    });

    test('saves Docker archives without a layout, which are refused with a hint', async () => {
      const archive = join(folder, 'podman-docker.tar');
      await podman.run('save', '--quiet', '--format', 'docker-archive', '-o', archive, REFERENCE);
      const { code, stderr } = await island.spawnCommand('import', archive);
      expect(code).toBe(1);
      expect(stderr).toContain('skopeo copy docker-archive:');
    });
  });

  describe('Docker', () => {
    let docker: Dockerd;
    beforeAll(async () => void (docker = await Dockerd.start()));
    afterAll(async () => docker.remove());

    test('loads a bundle and runs it, and saves archives that can be imported', async () => {
      await docker.run('load', '--quiet', '--input', bundle);
      expect(await docker.outputOf(REFERENCE)).toBe('hello from the first');
      const archive = join(folder, 'docker.tar');
      await docker.run('tag', REFERENCE, `${UPSTREAM}/from/docker:1`);
      await docker.run('save', '-o', archive, `${UPSTREAM}/from/docker:1`);
      expect(await succeed(island, 'import', archive)).toContain(`${UPSTREAM}/from/docker:1 sha256:`);
      await skopeo.copyOut(`${island.host}/${UPSTREAM}/from/docker:1`);
    });
  });

  test('a bundle compressed with gzip can be imported', async () => {
    await run('gzip', ['--keep', bundle]);
    const rename = `${REFERENCE}=${UPSTREAM}/from/gzip:1`;
    const out = await succeed(island, 'import', `${bundle}.gz`, '--rename', rename);
    expect(out).toContain(`${UPSTREAM}/from/gzip:1 ${await imageDigest('busybox')}`);
    await skopeo.copyOut(`${island.host}/${UPSTREAM}/from/gzip:1`);
  });
});
