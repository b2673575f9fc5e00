import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import type { Entrepot } from '../support/entrepot.ts';
import { servedDigest, startHosting } from '../support/hosted-registry.ts';
import { IMAGE_PROGRAMS, imageDigest, imageLayout } from '../support/images.ts';
import { hasPrograms, run } from '../support/programs.ts';

describe.skipIf(!hasPrograms(...CONTAINERD_PROGRAMS, ...IMAGE_PROGRAMS))('containerd pushing', () => {
  let node: Containerd;
  let entrepot: Entrepot;
  beforeAll(async () => {
    entrepot = await startHosting();
    node = await Containerd.start();
  });
  afterAll(async () => {
    await node.remove();
    await entrepot.remove();
  });

  test('an index with all its platforms is pushed with its digest, and pulled again', async () => {
    const name = `${entrepot.host}/team/busybox:1`;
    const archive = join(node.folder, 'busybox.tar');
    const layout = `oci:${await imageLayout()}:busybox`;
    await run('skopeo', ['copy', '--quiet', '--all', layout, `oci-archive:${archive}:${name}`]);
    await node.run('images', 'import', '--all-platforms', '--no-unpack', archive);
    await node.run('images', 'push', '--plain-http', name);
    expect(await servedDigest(entrepot, 'team/busybox', '1')).toBe(await imageDigest('busybox'));
    await node.removeImage(name);
    await node.pull(name);
    expect(await node.imageDigest(name)).toBe(await imageDigest('busybox'));
  });
});
