// containerd with a snapshotter that pulls eStargz layers lazily: a layer is mounted at once, and what is read of it is
// requested in ranges of some 50 KB.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Containerd } from '../support/containerd.ts';
import { REGISTRY_PROGRAMS } from '../support/docker-registry.ts';
import { type EstargzImage, estargzImage } from '../support/estargz.ts';
import { canPullLazily, LazyNode } from '../support/lazy-node.ts';
import { type Metered, MeteredMirror } from '../support/metered-mirror.ts';
import { hasPrograms } from '../support/programs.ts';
import { putManifest, streamBlob } from '../support/push-client.ts';

const canRun = canPullLazily && hasPrograms(...REGISTRY_PROGRAMS);

const FILES = 2_000;
const FILE_BYTES = 80_000;
const BYTES_PER_S = 12.5e6;
const REPOSITORY = 'team/lazy';
const IMAGE = `${REPOSITORY}:1`;
/** Of the files, those that are read: scattered over the layer, the last ones first. */
const READ_FILES = 20;

interface Reading {
  /** Until the first file is there, the pull included. */
  readonly first: Metered;
  readonly all: Metered;
}

describe.skipIf(!canRun)('nodes that pull lazily, through a mirror', () => {
  let image: EstargzImage;
  let mirror: MeteredMirror;
  let nodes: LazyNode[];
  let fromOrigin: Reading;
  let fromMirror: Reading;

  beforeAll(async () => {
    image = estargzImage(FILES, FILE_BYTES, 'lazy');
    mirror = await MeteredMirror.start(BYTES_PER_S);
    for (const blob of [image.config, image.layer]) await streamBlob(mirror.origin.url, REPOSITORY, blob);
    await putManifest(mirror.origin.url, REPOSITORY, '1', image.manifest);
    nodes = await Promise.all([LazyNode.start(), LazyNode.start(), LazyNode.start()]);
    fromOrigin = await read(0, mirror.direct(IMAGE));
    fromMirror = await read(1, mirror.mirrored(IMAGE));
  });

  afterAll(async () => {
    for (const node of nodes) await node.remove();
    await mirror.remove();
  });

  test('request no more than they request of the origin', () => {
    expect(fromOrigin.all.upstreamBytes).toBeLessThan(image.layer.size / 20);
    expect(fromMirror.first.clientBytes).toBeLessThan(fromOrigin.first.upstreamBytes * 1.05);
    expect(fromMirror.all.clientBytes).toBeLessThan(fromOrigin.all.upstreamBytes * 1.05);
  });

  test('wait for little more than what they request', () => {
    expect(fromMirror.first.upstreamBytes).toBeLessThan(fromMirror.first.clientBytes * 1.3);
    expect(fromMirror.all.upstreamBytes).toBeLessThan(fromMirror.all.clientBytes * 1.3);
  });

  test('get what another node has read from here', async () => {
    const { all } = await read(2, mirror.mirrored(IMAGE));
    expect(all.upstreamBytes).toBe(0);
    expect(all.clientBytes).toBeLessThan(fromOrigin.all.upstreamBytes * 1.05);
  });

  test('leave only the rest of the layer to be fetched by a node that pulls it whole', async () => {
    const containerd = await Containerd.start();
    try {
      const sent = mirror.meter();
      await containerd.pull(mirror.mirrored(IMAGE));
      expect(await containerd.contentDigests()).toContain(image.layer.digest);
      expect(fromMirror.all.upstreamBytes + sent().upstreamBytes).toBeLessThan(image.layer.size * 1.01);
    } finally {
      await containerd.remove();
    }
  });

  /** Pulls an image on a node, and reads some of its files, which must be right. */
  async function read(at: number, reference: string): Promise<Reading> {
    const names = image.names.filter((_, index) => index % (FILES / READ_FILES) === 0).toReversed();
    const node = nodes[at];
    if (node === undefined) throw new Error(`no node ${at}`);
    const sent = mirror.meter();
    const root = await node.mount(reference);
    let first: Metered | undefined;
    for (const name of names) {
      const bytes = await readFile(join(root, name));
      if (!bytes.equals(image.contentOf(name))) throw new Error(`${name} is not what it was`);
      first ??= sent();
    }
    if (first === undefined) throw new Error('nothing was read');
    return { first, all: sent() };
  }
});
