import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { imageOf, randomBlob } from '../../test/support/content.ts';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { MirrorWorld, repositoryOf } from '../../test/support/mirror-world.ts';
import { until } from '../../test/support/programs.ts';
import { LeaseLost } from '../lib/lease.ts';
import { digestHex } from '../oci/digest.ts';
import { pullImage } from './image-pull.ts';

const layer = randomBlob(300_000, 'layer');
const image = imageOf([layer]);
let upstream: FakeUpstream;
let world: MirrorWorld;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  world = await MirrorWorld.open(upstream);
  for (const name of ['first', 'second']) upstream.add(name, image, '1');
});

afterEach(async () => {
  await world.remove();
  await upstream.stop();
});

async function pull(name: string, reference = '1') {
  const repository = repositoryOf(name);
  return pullImage(
    { repository, reference, right: await world.right(repository) },
    {
      source: world.mirror,
      metadata: world.metadata,
      platforms: undefined,
      referrers: false,
      progress: { expect: () => {}, advance: () => {} },
      signal: new AbortController().signal,
    },
  );
}

/** Requests for the layer in a repository are answered once the returned function is called. */
function hold(repository: string): () => void {
  let release: (() => void) | undefined;
  const after = new Promise<void>(resolve => (release = resolve));
  upstream.misbehave({ kind: 'blob', method: 'GET', repository, reference: layer.digest, after });
  return () => release?.();
}

const asked = (repository: string) =>
  upstream.count('blob', { method: 'GET', repository, reference: layer.digest });

it('a pull whose download another process has taken over too early requests it again', async () => {
  const acquire = world.metadata.acquireLease.bind(world.metadata);
  let lost = 0;
  vi.spyOn(world.metadata, 'acquireLease').mockImplementation(async key => {
    const lease = await acquire(key);
    if (lease === undefined || !key.endsWith(digestHex(layer.digest)) || lost > 0) return lease;
    const confirm = () => {
      lost += 1;
      throw new LeaseLost(key);
    };
    return { ...lease, confirm };
  });
  const pulled = await pull('first');
  expect(lost).toBe(1);
  expect(pulled).toMatchObject({ blobs: 2, heldBlobs: 0, fetchedBytes: layer.size + image.config.size });
  expect(await world.metadata.isLinked(repositoryOf('first'), layer.digest)).toBe(true);
});

const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });

it('a pull fails at once if a blob is downloaded but cannot be stored, and says why', {
  timeout: 15_000,
}, async () => {
  vi.spyOn(world.blobs, 'put').mockRejectedValue(full);
  await expect(pull('first')).rejects.toMatchObject({
    code: 'INSUFFICIENT_STORAGE',
    message: expect.stringMatching(/^sha256:[0-9a-f]{64} could not be stored: ENOSPC: no space left/),
  });
});

it('a pull fails at once on a full disk, and says why', { timeout: 15_000 }, async () => {
  vi.spyOn(world.spool.space, 'admit').mockRejectedValue(full);
  await expect(pull('first')).rejects.toMatchObject({
    code: 'INSUFFICIENT_STORAGE',
    message: expect.stringContaining('no space left'),
  });
});

it('a pull fails if a manifest cannot be stored, though all blobs are', async () => {
  await pull('first');
  vi.spyOn(world.metadata, 'putManifest').mockRejectedValue(full);
  await expect(pull('second')).rejects.toMatchObject({
    code: 'INSUFFICIENT_STORAGE',
    message: `${image.manifest.digest} could not be stored`,
  });
});

it('a pull fails if a tag of a stored image cannot be recorded, unless it is recorded already', async () => {
  upstream.add('first', image, '2');
  await pull('first');
  world.policy = { ...world.policy, pullPolicy: 'Always' };
  const putTag = vi.spyOn(world.metadata, 'putTag').mockRejectedValue(full);
  await expect(pull('first', '2')).rejects.toMatchObject({
    code: 'INSUFFICIENT_STORAGE',
    message: `${image.manifest.digest} could not be stored`,
  });
  expect(await pull('first')).toMatchObject({ heldBlobs: 2 });
  expect(putTag.mock.calls.map(([, tag]) => tag)).toEqual(['2', '1']);
});

it.each([
  ['smaller', Number.MAX_SAFE_INTEGER],
  ['larger', 1000],
])('a pull fails if a stored layer is %s than its manifest says', async (_, size) => {
  const wrong = imageOf([{ ...layer, size }]);
  upstream.add('first', imageOf([layer]), 'whole');
  for (const one of [wrong.manifest, wrong.config, layer]) upstream.add('first', one);
  // Found in the store: no response tells the size.
  await pull('first', 'whole');
  await expect(pull('first', wrong.manifest.digest)).rejects.toMatchObject({
    code: 'UPSTREAM_INVALID',
    message: `${layer.digest} has 300000 bytes, but its manifest says ${size}`,
  });
});

it('a pull ends when all of the image belongs to its repository, even if a layer was downloaded for another', async () => {
  const bring = hold('first');
  const showUnverified = hold('second');
  const first = pull('first');
  await until('the download', 10_000, async () => asked('first') > 0);
  const second = pull('second');
  await until('the second to wait', 10_000, async () => upstream.count('blob', { method: 'HEAD' }) > 0);
  bring();
  await first;
  await until('the comparison', 10_000, async () => asked('second') > 0);
  const before = asked('second');
  const showVerified = hold('second');
  showUnverified();
  await until('another comparison', 10_000, async () => asked('second') > before);
  void sleep(300).then(showVerified);
  await second;
  expect(await world.metadata.isLinked(repositoryOf('second'), layer.digest)).toBe(true);
  expect(upstream.downloads().filter(({ reference }) => reference === layer.digest)).toHaveLength(1);
});
