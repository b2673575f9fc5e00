import { chmodSync, renameSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { imageOf, randomBlob } from '../../test/support/content.ts';
import { remove } from '../blobs/blob-store.suite.ts';
import { IndexSnapshot } from '../metadata/sqlite-snapshot.ts';
import { type Digest, digestHex, digestOf } from '../oci/digest.ts';
import { ArchiveError } from './archive-error.ts';
import { ArchiveWorld, inPieces, tarOf } from './archive.fixture.ts';
import { Backup } from './backup.ts';
import { restoreBackup } from './restore.ts';

it('a backup reports all lost content, however much there is', async () => {
  const world = await ArchiveWorld.open({ isIndexOnDisk: true });
  const snapshot = await IndexSnapshot.take(join(world.folder, 'index.db'), join(world.folder, 'copy.db'));
  const one = { kind: 'blob', digest: digestOf(Buffer.from('x')), reason: 'its file is missing' } as const;
  vi.spyOn(snapshot, 'lost').mockReturnValue(Array.from({ length: 200_000 }, () => one));
  try {
    const backup = new Backup(snapshot, world.blobs);
    for await (const chunk of backup.tar()) expect(chunk.byteLength).toBeGreaterThan(0);
    expect(backup.lacking).toHaveLength(200_000);
  } finally {
    snapshot.close();
    await world.remove();
  }
});

it('a backup reports a blob whose file is cut off while it is read, and goes on', async () => {
  const world = await ArchiveWorld.open({ isIndexOnDisk: true });
  try {
    const image = imageOf([randomBlob(1_000_000, 'layer')]);
    await world.hold('docker.io/library/app:v1', image);
    const { digest } = image.layers[0]!;
    const path = join(world.folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2), digestHex(digest));
    const snapshot = await IndexSnapshot.take(join(world.folder, 'index.db'), join(world.folder, 'copy.db'));
    const backup = new Backup(snapshot, world.blobs);
    const cut = (bytes: number) => {
      if (bytes < 10_000) return;
      chmodSync(path, 0o600);
      truncateSync(path, bytes);
    };
    for await (const chunk of backup.tar(cut)) expect(chunk.byteLength).toBeGreaterThan(0);
    expect(backup.lacking).toEqual([{ kind: 'blob', digest, reason: 'its file is truncated' }]);
    expect(backup.blobs).toBe(1);
    snapshot.close();
  } finally {
    await world.remove();
  }
});

it('a backup reports missing and damaged blobs, and only counts those that were removed while it was made', async () => {
  const world = await ArchiveWorld.open({ isIndexOnDisk: true });
  try {
    const blobs = ['removed', 'missing', 'damaged', 'back again'].map(seed => randomBlob(1_000, seed));
    const [removed, missing, damaged, again] = blobs.map(({ digest }) => digest);
    const image = imageOf(blobs);
    await world.hold('docker.io/library/app:v1', image);
    const snapshot = await IndexSnapshot.take(join(world.folder, 'index.db'), join(world.folder, 'copy.db'));
    await world.metadata.removeBlob(removed!);
    await world.metadata.quarantine({ kind: 'blob', digest: damaged! }, 'wrong bytes');
    for (const digest of [removed, missing, damaged]) await remove(world.blobs, digest!);
    const open = world.blobs.open.bind(world.blobs);
    const opened = new Set<Digest>();
    vi.spyOn(world.blobs, 'open').mockImplementation(async digest => {
      const isSecond = opened.has(digest);
      opened.add(digest);
      return digest === again && !isSecond ? undefined : open(digest);
    });
    const backup = new Backup(snapshot, world.blobs);
    for await (const chunk of backup.tar()) expect(chunk.byteLength).toBeGreaterThan(0);
    const lacking = [missing, damaged].map(digest => ({
      kind: 'blob',
      digest,
      reason: 'its file is missing',
    }));
    expect(backup.lacking).toHaveLength(2);
    expect(backup.lacking).toEqual(expect.arrayContaining(lacking));
    expect([backup.removed, backup.blobs]).toEqual([1, 2]);
    snapshot.close();
  } finally {
    await world.remove();
  }
});

it('a blob does not count as removed if the index is gone', async () => {
  const world = await ArchiveWorld.open({ isIndexOnDisk: true });
  try {
    const path = join(world.folder, 'index.db');
    const snapshot = await IndexSnapshot.take(path, join(world.folder, 'copy.db'));
    const digest = digestOf(Buffer.from('x'));
    expect(await snapshot.hasRemoved(digest)).toBe(true);
    renameSync(path, `${path}.aside`);
    expect(await snapshot.hasRemoved(digest)).toBe(false);
    snapshot.close();
  } finally {
    await world.remove();
  }
});

it.each([
  ['null', '{}', 'backup.json'],
  ['{"format":1}', 'null', 'complete.json'],
  ['{"format":1}', '{"blobs":0,"blobBytes":0,"indexSha256":"","lacking":{}}', 'complete.json'],
  ['{"format":1}', '{"blobs":0,"blobBytes":0,"indexSha256":"","lacking":[{"digest":"x"}]}', 'complete.json'],
])('a backup with invalid documents is refused: %s, %s', async (first, last, name) => {
  const world = await ArchiveWorld.open();
  const tar = await tarOf([
    { name: 'backup.json', bytes: first },
    { name: 'complete.json', bytes: last },
  ]);
  const indexPath = join(world.folder, 'index.db');
  try {
    const restoring = restoreBackup(inPieces(tar), { ...world.stores, indexPath, isOfBucket: false });
    const error = await restoring.catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ArchiveError);
    expect(error).toMatchObject({ message: expect.stringContaining(`its ${name}`) });
  } finally {
    await world.remove();
  }
});
