// Manifests of an index in memory: their bytes, once for each digest, and what they name under each media type.
import type { Descriptor } from '../../oci/descriptor.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Manifest, ManifestView } from '../../oci/manifest.ts';
import { isReadIn, linksOf } from './reachability.fixture.ts';
import { linkKey, type Reading, readingKey, type RepositoryRows, type Tables } from './tables.fixture.ts';

/** Call within a write. Bytes and reading are determined by digest and media type, so existing ones are equal. */
export function putManifestRow(
  tables: Tables,
  { digest, mediaType, bytes }: Manifest,
  view: ManifestView,
  atMs: number,
): void {
  const known = tables.manifests.get(digest);
  const own = Buffer.from(bytes);
  tables.manifests.set(digest, { digest, bytes: own, usedAtMs: Math.max(atMs, known?.usedAtMs ?? atMs) });
  const key = readingKey(digest, mediaType);
  if (!tables.readings.has(key)) tables.readings.set(key, { digest, mediaType, view });
}

/** Call within a write. What the manifest names is still needed: it may be stored again. */
export function removeBytes(tables: Tables, digest: Digest): boolean {
  for (const { rows } of linksOf(tables, digest)) rows.referrersLists.delete(digest);
  tables.uncollected.delete(linkKey(digest, 'manifest'));
  return tables.manifests.delete(digest);
}

/** Call within a write. Removes the bytes and what they name; each repository has to store the manifest again. */
export function removeManifestRow(tables: Tables, digest: Digest): boolean {
  for (const { rows, link } of linksOf(tables, digest, ['manifest'])) {
    rows.links.set(linkKey(digest, 'manifest'), { ...link, mediaType: undefined });
  }
  for (const { mediaType } of readingsOf(tables, digest))
    tables.readings.delete(readingKey(digest, mediaType));
  return removeBytes(tables, digest);
}

/** Call within a write. Removes what no repository reads, but of stored bytes the last reading. */
export function dropIdleReadings(tables: Tables, digest: Digest): void {
  const links = linksOf(tables, digest, ['manifest']);
  if (links.length === 0 && tables.manifests.has(digest)) return;
  for (const reading of readingsOf(tables, digest)) {
    if (!links.some(({ rows }) => isReadIn(rows, reading))) {
      tables.readings.delete(readingKey(digest, reading.mediaType));
    }
  }
}

function readingsOf(tables: Tables, digest: Digest): readonly Reading[] {
  return tables.readings.values().filter(reading => reading.digest === digest);
}

/** The manifest as the repository reads it, if it is stored and linked there. */
export function readIn(
  tables: Tables,
  rows: RepositoryRows | undefined,
  digest: Digest,
): Manifest | undefined {
  const mediaType = rows?.links.get(linkKey(digest, 'manifest'))?.mediaType;
  const bytes = tables.manifests.get(digest)?.bytes;
  return mediaType === undefined || bytes === undefined ? undefined : { digest, mediaType, bytes };
}

/** Stored manifests of the repository that have `subject` as their subject, ordered by digest. */
export function referrersIn(tables: Tables, rows: RepositoryRows, subject: Digest): readonly Descriptor[] {
  return tables.readings
    .values()
    .filter(reading => reading.view.subject?.digest === subject && isReadIn(rows, reading))
    .flatMap(({ digest, mediaType, view: { artifactType, annotations } }) => {
      const size = tables.manifests.get(digest)?.bytes.byteLength;
      if (size === undefined) return [];
      const type = artifactType === undefined ? {} : { artifactType };
      return {
        mediaType,
        digest,
        size,
        ...type,
        ...(Object.keys(annotations).length > 0 && { annotations }),
      };
    })
    .toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
}
