import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Image, imageOf, randomBlob } from '../../test/support/content.ts';
import { PrefixQuota } from '../hosted/quota.ts';
import { countedBytes } from '../oci/counted-bytes.ts';
import { ArchiveError } from './archive-error.ts';
import { ArchiveWorld, layoutFiles, tarOf } from './archive.fixture.ts';
import type { ImportOptions } from './import.ts';

const base = randomBlob(300_000, 'base');
const first = imageOf([base, randomBlob(100_000, 'first')]);
const second = imageOf([base, randomBlob(200_000, 'second')]);
const sizeOf = ({ manifest, config, layers }: Image): number =>
  [manifest, config, ...layers].reduce((sum, { size }) => sum + countedBytes(size), 0);

let world: ArchiveWorld;
beforeEach(async () => {
  world = await ArchiveWorld.open();
});
afterEach(() => world.remove());

/** With a quota for team-a of so many bytes. */
async function importAs(
  name: string,
  image: Image,
  quota: PrefixQuota,
  more: Partial<ImportOptions> = {},
): Promise<void> {
  const [path = '', tag] = name.split(':');
  const repository = { upstream: '', name: path };
  const placed = { placeOf: () => ({ repository, tag }), quota: quota, ...more };
  await world.import(await tarOf(layoutFiles(image, 'docker.io/library/app:v1')), placed);
}

const quotaOf = (bytes: number) =>
  new PrefixQuota(world.metadata, owner => (owner === 'team-a' ? bytes : undefined));

test("an import into a tenant's repositories is refused if its quota is used up, and leaves nothing behind", async () => {
  const refused = importAs('team-a/app:1', first, quotaOf(sizeOf(first) - 1));
  await expect(refused).rejects.toThrow(ArchiveError);
  await expect(refused).rejects.toThrow(/the quota of team-a is used up: its repositories may store/);
  expect(await world.traces()).toEqual({ repositories: 0, manifests: 0, blobs: 0, files: 0 });
});

test('content that the repository has needs no space, and imported content is counted once', async () => {
  const quota = quotaOf(sizeOf(first) + sizeOf(second) - base.size);
  await importAs('team-a/app:1', first, quota);
  await importAs('team-a/app:1', first, quota);
  await importAs('team-a/app:2', second, quota);
  await importAs('team-a/app:1', first, quota);
  const stored = await world.metadata.readOwnerBytes(['team-a']);
  expect(stored.get('team-a')?.bytes).toBe(sizeOf(first) + sizeOf(second) - base.size);
  // In another repository of the tenant all of it counts again.
  await expect(importAs('team-a/other:1', first, quota)).rejects.toThrow('is used up');
  await importAs('team-b/other:1', first, quota);
});

test('content of mirrored repositories counts for no quota', async () => {
  await importAs('ignored', first, quotaOf(0), {
    placeOf: () => ({ repository: { upstream: 'docker.io', name: 'team-a/app' }, tag: '1' }),
  });
  expect(await world.traces()).toMatchObject({ repositories: 1 });
});
