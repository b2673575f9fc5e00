import { join } from 'node:path';
import { expect, it, vi } from 'vitest';
import { IndexSnapshot } from '../metadata/sqlite-snapshot.ts';
import { digestOf } from '../oci/digest.ts';
import { ArchiveWorld } from './archive.fixture.ts';
import { Backup } from './backup.ts';

it('a backup reports all lost content, however much that is', async () => {
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
