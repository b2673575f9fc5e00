import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Entrepot } from '../support/entrepot.ts';
import { servedDigest, startHosting } from '../support/hosted-registry.ts';
import { IMAGE_PROGRAMS, imageDigest, imageLayout } from '../support/images.ts';
import { PODMAN_PROGRAMS, Podman } from '../support/podman.ts';
import { hasPrograms } from '../support/programs.ts';
import { ContainersConfig } from '../support/skopeo.ts';

let entrepot: Entrepot;
beforeEach(async () => void (entrepot = await startHosting()));
afterEach(async () => entrepot.remove());

describe.skipIf(!hasPrograms(...PODMAN_PROGRAMS, ...IMAGE_PROGRAMS))('podman', () => {
  let podman: Podman;
  beforeAll(async () => void (podman = await Podman.make()));
  afterAll(async () => podman.remove());

  test('push prints the digest that pull gets', async () => {
    const name = `${entrepot.host}/team/busybox:1`;
    const digestFile = join(podman.config.folder, 'digest');
    const id = (await podman.run('pull', '--quiet', `oci:${await imageLayout()}:busybox`)).trim();
    await podman.run('push', '--quiet', '--tls-verify=false', '--digestfile', digestFile, id, name);
    await podman.run('image', 'rm', '--force', id);
    const digest = await readFile(digestFile, 'utf8');
    expect(await servedDigest(entrepot, 'team/busybox', '1')).toBe(digest);
    expect((await podman.run('pull', '--quiet', '--tls-verify=false', name)).trim()).toBe(id);
    expect(await podman.imageDigest(name)).toBe(digest);
  });

  test('manifest push --all pushes a list of images', async () => {
    const name = `${entrepot.host}/team/busybox:all`;
    await podman.run('manifest', 'create', '--all', 'list', `oci:${await imageLayout()}:busybox`);
    await podman.run(
      'manifest',
      'push',
      '--quiet',
      '--all',
      '--tls-verify=false',
      'list',
      `docker://${name}`,
    );
    const listed: unknown = JSON.parse(await podman.run('manifest', 'inspect', '--tls-verify=false', name));
    const platforms = ['amd64', 'arm64', 'arm'].map(architecture => ({ platform: { architecture } }));
    expect(listed).toMatchObject({ manifests: platforms });
  });
});

describe.skipIf(!hasPrograms(...IMAGE_PROGRAMS))('buildah', () => {
  let config: ContainersConfig;
  beforeAll(async () => void (config = await ContainersConfig.make()));
  afterAll(async () => config.remove());

  async function buildah(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await config.tryRun('buildah', ...args);
    if (code !== 0) throw new Error(`buildah ${args.join(' ')}: ${stderr}`);
    return stdout.trim();
  }

  test('push of a changed image prints the digest that is served', async () => {
    const digestFile = join(config.folder, 'digest');
    const container = await buildah('from', '--quiet', `oci:${await imageLayout()}:busybox`);
    await buildah('config', '--label', 'changed=yes', container);
    const id = await buildah('commit', '--quiet', '--rm', container);
    const to = `docker://${entrepot.host}/team/built:1`;
    await buildah('push', '--quiet', '--tls-verify=false', '--digestfile', digestFile, id, to);
    const digest = await readFile(digestFile, 'utf8');
    expect(digest).not.toBe(await imageDigest('busybox'));
    expect(await servedDigest(entrepot, 'team/built', '1')).toBe(digest);
    await buildah('rmi', '--force', id);
    expect(await buildah('pull', '--quiet', '--tls-verify=false', to)).toBe(id);
  });
});
