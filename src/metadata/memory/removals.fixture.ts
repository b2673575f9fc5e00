// Removals by upkeep from an index in memory. Call each within a write.
import type { Digest } from '../../oci/digest.ts';
import type { BlobLink, Content } from '../metadata-store.ts';
import type { LostContent } from '../survey.ts';
import { removeBytes, removeManifestRow } from './manifests.fixture.ts';
import { giveUp } from './objects.fixture.ts';
import * as reachability from './reachability.fixture.ts';
import { find, removeLink } from './repositories.fixture.ts';
import { linkKey, type Tables } from './tables.fixture.ts';

/** Removes the Link of a blob if it is idle. */
export function expireLink(tables: Tables, { repository, digest }: BlobLink, sinceMs: number): boolean {
  const rows = find(tables, repository);
  const link = rows?.links.get(linkKey(digest, 'blob'));
  if (rows === undefined || link === undefined || !isIdleLink(tables, { rows, link }, sinceMs)) return false;
  return removeLink(tables, rows, digest, 'blob');
}

/** Whether nothing in its repository needs the blob, and its Link was not made, nor the blob used, since. */
export function isIdleLink(
  tables: Tables,
  { rows, link }: reachability.PlacedLink,
  sinceMs: number,
): boolean {
  const { kind, digest, createdAtMs } = link;
  if (kind !== 'blob' || createdAtMs >= sinceMs) return false;
  if ((tables.blobs.get(digest)?.usedAtMs ?? Number.NEGATIVE_INFINITY) >= sinceMs) return false;
  return !rows.pins.has(digest) && reachability.namersIn(tables, rows, digest).length === 0;
}

/** Whether the content is stored, and was neither stored nor used since. */
function isIdle(tables: Tables, { kind, digest }: Content, sinceMs: number): boolean {
  const row = kind === 'blob' ? tables.blobs.get(digest) : tables.manifests.get(digest);
  return row !== undefined && row.usedAtMs < sinceMs;
}

function removeRow(tables: Tables, { kind, digest }: Content): boolean {
  return kind === 'blob' ? removeBlobRow(tables, digest) : removeManifestRow(tables, digest);
}

export function removeBlobRow(tables: Tables, digest: Digest): boolean {
  tables.uncollected.delete(linkKey(digest, 'blob'));
  const { key } = tables.blobs.get(digest) ?? {};
  if (key !== undefined) giveUp(tables, { digest, key });
  return tables.blobs.delete(digest);
}

export function removeUnneeded(tables: Tables, content: Content, sinceMs: number): boolean {
  const { kind, digest } = content;
  const isKept =
    kind === 'manifest'
      ? reachability.isKeptManifest(tables, digest)
      : reachability.isKeptByLink(tables, digest, sinceMs) || isBlobNeeded(tables, digest);
  return !isKept && isIdle(tables, content, sinceMs) && removeRow(tables, content);
}

export function removeUnlinked(tables: Tables, content: Content, sinceMs: number): boolean {
  const { kind, digest } = content;
  const isKept =
    kind === 'manifest'
      ? reachability.isKeptManifest(tables, digest)
      : reachability.linksOf(tables, digest).length > 0 || isBlobNeeded(tables, digest);
  return !isKept && isIdle(tables, content, sinceMs) && removeRow(tables, content);
}

function isBlobNeeded(tables: Tables, digest: Digest): boolean {
  return reachability.namersOf(tables, digest).length > 0 || reachability.isBeingFilled(tables, digest);
}

export function evict(tables: Tables, content: Content, sinceMs: number): boolean {
  const isEvicted = isIdle(tables, content, sinceMs) && reachability.isEvictable(tables, content.digest);
  return isEvicted && removeRow(tables, content);
}

/** Whether nothing says that bytes of this digest should be stored. */
export function isStray(tables: Tables, digest: Digest): boolean {
  return (
    !tables.blobs.has(digest) &&
    !tables.damage.has(digest) &&
    !reachability.isHostedBlob(tables, digest) &&
    !reachability.isBeingFilled(tables, digest)
  );
}

/** Removes the row and remembers why; returns who has lost the content, `undefined` if there was no row. */
export function quarantine(
  tables: Tables,
  { kind, digest }: Content,
  reason: string,
): 'hosted' | 'mirrored' | undefined {
  const isRemoved = kind === 'blob' ? removeBlobRow(tables, digest) : removeBytes(tables, digest);
  if (!isRemoved) return undefined;
  if (!tables.damage.has(digest)) tables.damage.set(digest, { digest, foundAtMs: Date.now(), reason });
  return reachability.isHosted(tables, digest) ? 'hosted' : 'mirrored';
}

/** Damaged content that cannot be downloaded again, or is to stay, ordered by digest. */
export function lostContent(tables: Tables): readonly LostContent[] {
  const isLost = (digest: Digest) =>
    !tables.blobs.has(digest) &&
    !tables.manifests.has(digest) &&
    (reachability.isHosted(tables, digest) || reachability.isUnderPin(tables, digest));
  const kindOf = (digest: Digest) =>
    reachability.linksOf(tables, digest, ['manifest']).length > 0 ? 'manifest' : 'blob';
  return tables.damage
    .values()
    .filter(({ digest }) => isLost(digest))
    .map(({ digest, reason }) => ({ kind: kindOf(digest), digest, reason }) as const)
    .toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
}
