import { afterEach, beforeEach, expect, test } from 'vitest';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import {
  type Content,
  descriptorOf,
  imageOf,
  indexOf,
  indexOfEntries,
  randomBlob,
} from '../../test/support/content.ts';
import { APP, MirrorWorld, type MirrorWorldOptions, repositoryOf } from '../../test/support/mirror-world.ts';
import { until } from '../../test/support/programs.ts';
import { parsePlatform } from '../oci/platform.ts';
import { ANY_MANIFEST } from '../oci/pull-source.ts';

const amd64 = imageOf([randomBlob(200_000, 'amd64'), randomBlob(90_000, 'base')]);
const arm64 = imageOf([randomBlob(210_000, 'arm64'), randomBlob(90_000, 'base')], {
  platform: parsePlatform('linux/arm64'),
});
const app = indexOf([amd64, arm64]);

let upstream: FakeUpstream;
let world: MirrorWorld;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('app', app, '1');
  upstream.add('single', amd64, '1');
});

afterEach(async () => {
  await world.remove();
  await upstream.stop();
});

async function open(options: MirrorWorldOptions = {}): Promise<void> {
  world = await MirrorWorld.open(upstream, options);
}

const blobGets = () => upstream.count('blob', { method: 'GET' });

async function untilHeld(...blobs: readonly Content[]): Promise<void> {
  await until('the blobs to be held', 20_000, async () => {
    const rows = await Promise.all(blobs.map(({ digest }) => world.metadata.statBlob(digest)));
    return rows.every(row => row !== undefined);
  });
}

test('config and layers are fetched when their manifest is requested, and only once', async () => {
  await open({ prefetch: { prefetch: true } });
  const single = repositoryOf('single');
  await world.manifest('1', single);
  await untilHeld(amd64.config, ...amd64.layers);
  expect(blobGets()).toBe(3);
  await world.manifest(amd64.manifest.digest, single);
  for (const { digest } of amd64.layers)
    expect(await world.pull(digest, single)).toMatchObject({ outcome: 'hit' });
  expect(blobGets()).toBe(3);
});

test('of an index only the configured platforms are fetched', async () => {
  await open({ prefetch: { prefetch: true, platforms: [parsePlatform('linux/arm64')] } });
  await world.manifest('1');
  await untilHeld(arm64.config, ...arm64.layers);
  expect(await world.metadata.readManifestBytes(amd64.manifest.digest)).toBeUndefined();
  expect(blobGets()).toBe(3);
});

test('of an index the platforms of the requester are fetched, if it has its own list', async () => {
  await open({ prefetch: { prefetch: true, platforms: [parsePlatform('linux/amd64')] } });
  await world.manifest('1');
  await untilHeld(amd64.config, ...amd64.layers);
  expect(await world.metadata.readManifestBytes(arm64.manifest.digest)).toBeUndefined();
  const right = { ...(await world.right(APP)), platforms: [parsePlatform('linux/arm64')] };
  await world.mirror.manifest(APP, '1', right, ANY_MANIFEST);
  await untilHeld(arm64.config, ...arm64.layers);
});

test('of a child without a platform only the config is fetched, unless it has the platform', async () => {
  upstream.add('bare', amd64);
  upstream.add('bare', arm64);
  const index = indexOfEntries([descriptorOf(amd64.manifest), descriptorOf(arm64.manifest)]);
  upstream.add('bare', { manifest: index, images: [] }, '1');
  const bare = repositoryOf('bare');
  await open({ prefetch: { prefetch: true, platforms: [parsePlatform('linux/arm64')] } });
  await world.manifest('1', bare);
  await untilHeld(amd64.config);
  // Nothing says that it has ended; another image after it does.
  await world.manifest('1', repositoryOf('single'));
  await untilHeld(...amd64.layers);
  expect(upstream.count('blob', { method: 'GET', repository: 'bare' })).toBe(1);
});

test('of a child whose config has the platform everything is fetched', async () => {
  upstream.add('bare', { manifest: indexOfEntries([descriptorOf(amd64.manifest)]), images: [] }, '1');
  upstream.add('bare', amd64);
  await open({ prefetch: { prefetch: true, platforms: [parsePlatform('linux/amd64')] } });
  await world.manifest('1', repositoryOf('bare'));
  await untilHeld(amd64.config, ...amd64.layers);
  expect(blobGets()).toBe(3);
});

test('nothing is prefetched unless configured', async () => {
  await open();
  await world.manifest('1', repositoryOf('single'));
  await world.pull(amd64.config.digest, repositoryOf('single'));
  expect(blobGets()).toBe(1);
});

test('with a single connection nothing is prefetched before what a client waits for', async () => {
  const limits = { maxConnections: 1, serializeImagePulls: false, maxParallelImagePulls: undefined };
  await open({ prefetch: { prefetch: true }, limits });
  const single = repositoryOf('single');
  await world.manifest('1', single);
  expect(await world.pull(amd64.config.digest, single)).toMatchObject({ bytes: amd64.config.size });
  for (const { digest } of amd64.layers) await world.pull(digest, single);
  expect(blobGets()).toBe(3);
});

test('prefetching leaves connections to clients that wait', async () => {
  const limits = { maxConnections: 2, serializeImagePulls: false, maxParallelImagePulls: undefined };
  upstream.misbehave({ kind: 'blob', repository: 'single', hang: true });
  await open({ prefetch: { prefetch: true }, limits });
  await world.manifest('1', repositoryOf('single'));
  await until('a download ahead', 20_000, async () => blobGets() > 0);
  const [layer] = arm64.layers;
  expect(await world.pull(layer!.digest)).toMatchObject({ bytes: layer!.size });
  expect(upstream.count('blob', { method: 'GET', repository: 'single' })).toBe(1);
});
