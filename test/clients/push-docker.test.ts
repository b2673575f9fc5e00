import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DOCKER_PROGRAMS, Dockerd } from '../support/dockerd.ts';
import type { Entrepot } from '../support/entrepot.ts';
import { servedDigest, startHosting } from '../support/hosted-registry.ts';
import { IMAGE_PROGRAMS, imageLayout } from '../support/images.ts';
import { hasPrograms, run } from '../support/programs.ts';

describe.skipIf(!hasPrograms(...DOCKER_PROGRAMS, ...IMAGE_PROGRAMS))('dockerd pushing', () => {
  let docker: Dockerd;
  let entrepot: Entrepot;
  beforeAll(async () => {
    entrepot = await startHosting();
    docker = await Dockerd.start();
    const archive = join(docker.folder, 'busybox.tar');
    await run('skopeo', [
      'copy',
      `oci:${await imageLayout()}:busybox`,
      `docker-archive:${archive}:busybox:1`,
    ]);
    await docker.run('load', '--quiet', '--input', archive);
  });
  afterAll(async () => {
    await docker.remove();
    await entrepot.remove();
  });

  /** Pushes under a name, and answers what it printed and the digest that it named. */
  async function push(name: string): Promise<{ printed: string; digest: string | undefined }> {
    await docker.run('tag', 'busybox:1', `${entrepot.host}/${name}`);
    const printed = await docker.run('push', `${entrepot.host}/${name}`);
    return { printed, digest: digestIn(printed) };
  }

  test('a pushed image is served under the digest that the push printed, and runs when it is pulled again', async () => {
    const { digest } = await push('team/busybox:1');
    expect(await servedDigest(entrepot, 'team/busybox', '1')).toBe(digest);
    const name = `${entrepot.host}/team/busybox@${digest}`;
    await docker.run('image', 'rm', '--force', `${entrepot.host}/team/busybox:1`);
    expect(digestIn(await docker.run('pull', name))).toBe(digest);
    expect(await docker.outputOf(name)).toBe('hello from the first');
  });

  test('a push to another repository mounts the layers of the first one', async () => {
    const { printed, digest } = await push('team/other:1');
    expect(printed.match(/Mounted from team\/busybox/g)).toHaveLength(2);
    expect(await servedDigest(entrepot, 'team/other', '1')).toBe(digest);
  });

  test('a push to a name that is not hosted is denied', async () => {
    await expect(push('elsewhere/busybox:1')).rejects.toThrow('name unknown');
  });
});

/** push prints `digest: sha256:…`, pull `Digest: sha256:…`. */
function digestIn(printed: string): string | undefined {
  return /digest: (sha256:[0-9a-f]{64})/i.exec(printed)?.[1];
}
