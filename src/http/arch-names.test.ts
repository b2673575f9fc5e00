import { afterEach, beforeEach, expect, test } from 'vitest';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { imageOf, indexOf, randomBlob } from '../../test/support/content.ts';
import { MirrorWorld, repositoryOf } from '../../test/support/mirror-world.ts';
import { parsePlatform } from '../oci/platform.ts';
import { ANY_MANIFEST } from '../oci/pull-source.ts';
import { ArchNames } from './arch-names.ts';

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
  world = await MirrorWorld.open(upstream);
});

afterEach(async () => {
  await world.remove();
  await upstream.stop();
});

test('a repository named after an architecture means the image of its base, if there is no such repository', async () => {
  const authorize = (repository: { readonly upstream: string; readonly name: string }) =>
    world.right(repository);
  const names = new ArchNames({ source: world.mirror, authorize });
  const named = repositoryOf('app-arm64');
  const right = await world.right(named);
  const served = await names.manifest(named, '1', right, ANY_MANIFEST);
  expect(served.descriptor.digest).toBe(arm64.manifest.digest);
  const { reader } = await names.openBlob(named, arm64.layers[0]!.digest, right);
  expect(reader.size).toBe(arm64.layers[0]!.size);
  await reader.close();
  expect(await names.statBlob(named, arm64.config.digest, right)).toMatchObject({ size: arm64.config.size });
  // The right to one name is none to the other.
  const refusing = new ArchNames({
    source: world.mirror,
    authorize: () => Promise.reject(new Error('not yours')),
  });
  await expect(refusing.manifest(named, '1', right, ANY_MANIFEST)).rejects.toThrow('not yours');
});

test('a repository of such a name that upstream has, or that has no base, stays what it is', async () => {
  upstream.add('app-arm64', amd64, '1');
  const authorize = (repository: { readonly upstream: string; readonly name: string }) =>
    world.right(repository);
  const names = new ArchNames({ source: world.mirror, authorize });
  const pull = async (name: string) =>
    names.manifest(repositoryOf(name), '1', await world.right(repositoryOf(name)), ANY_MANIFEST);
  expect((await pull('app-arm64')).descriptor.digest).toBe(amd64.manifest.digest);
  // A tag that such a repository lacks is not there, whatever its base has.
  upstream.add('lib', app, '1');
  upstream.add('lib-arm64', arm64, 'older');
  await expect(pull('lib-arm64')).rejects.toMatchObject({ status: 404 });
  await expect(pull('none-arm64')).rejects.toMatchObject({ status: 404 });
  await expect(pull('app-s390x')).rejects.toMatchObject({ status: 404 });
  await expect(pull('app-x')).rejects.toMatchObject({ status: 404 });
  // That the base cannot be asked is no absence of the name.
  upstream.add('busy', app, '1');
  upstream.misbehave({ status: 429, repository: 'busy' });
  await expect(pull('busy-arm64')).rejects.toMatchObject({ status: 429 });
});
