// Objects of blobs of an index in memory. Call each within a write.
import type { BlobObject, GivenUpObject } from '../metadata-store.ts';
import * as reachability from './reachability.fixture.ts';
import type { Tables } from './tables.fixture.ts';

/** Gives up an object that no row names any more. */
export function giveUp(tables: Tables, { digest, key }: BlobObject): void {
  tables.objects.set(key, { digest, key, uploadId: undefined, epoch: undefined, sinceMs: Date.now() });
}

/** Gives up an object that was announced. */
export function giveUpAnnounced(tables: Tables, key: string): void {
  const row = tables.objects.get(key);
  if (row?.epoch !== undefined) tables.objects.set(key, { ...row, epoch: undefined, sinceMs: Date.now() });
}

/** Whether a row may name it from now on: it was announced, and not given up. */
export function settle(tables: Tables, key: string): boolean {
  return tables.objects.get(key)?.epoch !== undefined && tables.objects.delete(key);
}

/** Whether nothing says that the object should be there. */
export function isStray(tables: Tables, { digest, key }: BlobObject): boolean {
  const row = tables.blobs.get(digest);
  if (row?.key === key || tables.objects.has(key)) return false;
  const isAwaited =
    tables.damage.has(digest) ||
    reachability.isHostedBlob(tables, digest) ||
    reachability.isBeingFilled(tables, digest);
  return row !== undefined || !isAwaited;
}

export function givenUp(tables: Tables, beforeMs: number, limit: number): readonly GivenUpObject[] {
  return tables.objects
    .values()
    .filter(({ epoch, sinceMs }) => epoch === undefined && sinceMs < beforeMs)
    .toSorted((a, b) => a.sinceMs - b.sinceMs)
    .slice(0, limit)
    .map(({ key, uploadId }) => ({ key, uploadId }));
}
