import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { DockerRegistry, REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import type { Entrepot } from '../support/entrepot.ts';
import { servedDigest, startHosting } from '../support/hosted-registry.ts';
import { IMAGE_PROGRAMS, imageDigest, imageLayout, pushImage } from '../support/images.ts';
import { hasPrograms } from '../support/programs.ts';
import { BUSYBOX_BLOBS, countIntact, Skopeo } from '../support/skopeo.ts';

describe.skipIf(!hasPrograms(...IMAGE_PROGRAMS))('skopeo pushing', () => {
  let skopeo: Skopeo;
  let entrepot: Entrepot;
  beforeAll(async () => void (skopeo = await Skopeo.make()));
  afterAll(async () => skopeo.remove());
  beforeEach(async () => void (entrepot = await startHosting()));
  afterEach(async () => entrepot.remove());

  /** `copy` with every platform, byte for byte. */
  async function copy(from: string, to: string): Promise<void> {
    const insecure = ['--src-tls-verify=false', '--dest-tls-verify=false'];
    await skopeo.run('copy', '--quiet', '--all', '--preserve-digests', ...insecure, from, to);
  }

  async function pushBusybox(name: string): Promise<void> {
    await copy(`oci:${await imageLayout()}:busybox`, `docker://${entrepot.host}/${name}`);
  }

  test('copy --all pushes an index of three platforms, and pulls the same bytes', async () => {
    await pushBusybox('team/busybox:1');
    expect(await servedDigest(entrepot, 'team/busybox', '1')).toBe(await imageDigest('busybox'));
    const folder = await skopeo.copyOut(`${entrepot.host}/team/busybox:1`, '--all', '--preserve-digests');
    expect(await countIntact(folder)).toBe(BUSYBOX_BLOBS);
  });

  test('copy from one repository to another keeps the digest', async () => {
    await pushBusybox('team/busybox:1');
    await copy(`docker://${entrepot.host}/team/busybox:1`, `docker://${entrepot.host}/team/app/copy:1`);
    expect(await servedDigest(entrepot, 'team/app/copy', '1')).toBe(await imageDigest('busybox'));
  });

  test('copy in the formats of Docker and of OCI, with every layer recompressed, works', async () => {
    const layout = `oci:${await imageLayout()}:busybox`;
    for (const flags of [
      ['--format', 'v2s2'],
      ['--dest-compress-format', 'zstd'],
    ]) {
      const name = `${entrepot.host}/team/busybox:${flags[1]}`;
      await skopeo.run('copy', '--quiet', '--dest-tls-verify=false', ...flags, layout, `docker://${name}`);
      // A configuration and two layers.
      expect(await countIntact(await skopeo.copyOut(name))).toBe(3);
    }
  });

  test('delete removes the image and leaves the other', async () => {
    const moved = `oci:${await imageLayout()}:busybox-moved`;
    await pushBusybox('team/busybox:1');
    await copy(moved, `docker://${entrepot.host}/team/busybox:2`);
    await skopeo.run('delete', '--tls-verify=false', `docker://${entrepot.host}/team/busybox:1`);
    expect(await servedDigest(entrepot, 'team/busybox', '1')).toBeUndefined();
    expect(await servedDigest(entrepot, 'team/busybox', await imageDigest('busybox'))).toBeUndefined();
    expect(await servedDigest(entrepot, 'team/busybox', '2')).toBe(await imageDigest('busybox-moved'));
    const reference = `docker://${entrepot.host}/team/busybox`;
    expect(JSON.parse(await skopeo.run('list-tags', '--tls-verify=false', reference))).toMatchObject({
      Tags: ['2'],
    });
  });

  describe.skipIf(!hasPrograms(...REGISTRY_PROGRAMS))('together with another registry', () => {
    let registry: DockerRegistry;
    beforeEach(async () => void (registry = await DockerRegistry.start()));
    afterEach(async () => registry.remove());

    test('sync copies all tags of a repository in and out, each with its digest', async () => {
      await pushImage('busybox', registry, 'public/busybox:1');
      await pushImage('busybox-moved', registry, 'public/busybox:2');
      const insecure = ['--src-tls-verify=false', '--dest-tls-verify=false'];
      const flags = ['--all', '--preserve-digests', ...insecure, '--src', 'docker', '--dest', 'docker'];
      await skopeo.run('sync', ...flags, `${registry.host}/public/busybox`, `${entrepot.host}/team`);
      await skopeo.run('sync', ...flags, `${entrepot.host}/team/busybox`, `${registry.host}/back`);
      for (const [tag, image] of [
        ['1', 'busybox'],
        ['2', 'busybox-moved'],
      ] as const) {
        expect(await servedDigest(entrepot, 'team/busybox', tag)).toBe(await imageDigest(image));
        expect(await servedDigest(registry, 'back/busybox', tag)).toBe(await imageDigest(image));
      }
    });
  });
});
