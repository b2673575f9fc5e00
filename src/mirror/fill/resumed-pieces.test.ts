import { afterEach, describe, expect, it } from 'vitest';
import { bytesOf, type Content, imageOf, randomBlob } from '../../../test/support/content.ts';
import { FakeUpstream } from '../../../test/support/fake-upstream.ts';
import { APP, MirrorWorld, repositoryOf, UPSTREAM, whole } from '../../../test/support/mirror-world.ts';
import type { Extent } from '../../lib/extents.ts';
import type { Repository } from '../../oci/repository.ts';
import { fillKey } from './fill-key.ts';

const MIB = 1024 * 1024;
const OTHER = repositoryOf('other');
let upstream: FakeUpstream;
let world: MirrorWorld;

afterEach(async () => {
  await world.remove();
  await upstream.stop();
});

/** A layer of two repositories, to both of which the right is proved, with a download of it that was left. */
async function startWithLeft(bytes: (blob: Content) => Uint8Array): Promise<Content> {
  upstream = await FakeUpstream.start();
  world = await MirrorWorld.open(upstream);
  const blob = randomBlob(8 * MIB, 'left');
  for (const { name } of [APP, OTHER]) {
    upstream.add(name, imageOf([blob]), '1');
    await world.manifest('1', repositoryOf(name));
  }
  const lease = await world.metadata.acquireLease(fillKey(UPSTREAM, blob.digest));
  if (lease === undefined) throw new Error('the lease is not free');
  const ingest = await world.spool.ingest(lease, { digest: blob.digest });
  await ingest.write([bytes(blob)]);
  await ingest.suspend();
  await ingest.close();
  await world.metadata.setAside(lease);
  return blob;
}

async function readRange(blob: Content, { start, end }: Extent, repository: Repository = APP): Promise<void> {
  const right = await world.right(repository);
  const { reader } = await world.mirror.openBlob(repository, blob.digest, right, () => [{ start, end }]);
  try {
    for (let at = start; at < end; ) at += await reader.read(new Uint8Array(end - at), at);
  } finally {
    await reader.close();
  }
}

/** Begins to pull all of it. */
async function readFirst(blob: Content, repository: Repository): Promise<number> {
  const { reader } = await world.open(blob.digest, repository);
  try {
    return await reader.read(new Uint8Array(100), 0);
  } finally {
    await reader.close();
  }
}

describe('a download that was left, of which later ranges are there', () => {
  it('goes on with them', async () => {
    const blob = await startWithLeft(all => bytesOf(all).subarray(0, 2 * MIB));
    await readRange(blob, { start: MIB, end: 5 * MIB + 100 });
    upstream.requests.length = 0;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    const asked = upstream.requests.map(({ headers }) => headers.range);
    expect(asked).toEqual([`bytes=${2 * MIB - 4096}-${2 * MIB - 1}`, `bytes=${5 * MIB + 100}-`]);
  });

  it('gives none of its bytes for another repository that does not have them', async () => {
    const blob = await startWithLeft(all => bytesOf(all).subarray(0, 2 * MIB));
    await readRange(blob, { start: 2 * MIB, end: 2 * MIB + 100 }, OTHER);
    upstream.remove(OTHER.name, blob.digest);
    await expect(readFirst(blob, OTHER)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
  });

  it('is served even if nothing is missing of it', async () => {
    const blob = await startWithLeft(bytesOf);
    await readRange(blob, { start: 0, end: 100 });
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  it('begins anew if it is longer than the blob', async () => {
    const blob = await startWithLeft(all => Buffer.concat([bytesOf(all), Buffer.alloc(1)]));
    await readRange(blob, { start: 0, end: 100 });
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });
});
