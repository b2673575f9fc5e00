import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { SurveyedBlob } from '../survey.ts';
import * as reachability from './reachability.ts';
import type { Rows } from './session.ts';

// The parts of an image as its repository reads it.

export interface ManifestRow {
  readonly mediaType: string;
  readonly size: number;
  readonly usedAtMs: number;
  readonly bytes: Buffer;
}

/** The manifest and everything below it, stored or not; the given one first. */
export async function readTree(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
): Promise<readonly Digest[]> {
  const rows = await on.rows<{ digest: Digest }>(
    `WITH RECURSIVE tree (digest) AS (
      SELECT $3::text COLLATE "C"
      UNION
      SELECT n.digest FROM tree
      JOIN @repositories r ON r.upstream = $1 AND r.name = $2
      JOIN @links l ON l.repository_id = r.id AND l.digest = tree.digest
      JOIN @readings g ON ${reachability.linksTo('l', 'g')}
      JOIN @reading_references n ON n.reading_id = g.id AND n.kind = 'manifest')
    SELECT digest FROM tree`,
    [upstream, name, digest],
  );
  return rows.map(row => row.digest);
}

export function readManifestRow(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
): Promise<ManifestRow | undefined> {
  return on.row<ManifestRow>(
    `SELECT g.media_type AS "mediaType", m.size, m.used_at_ms AS "usedAtMs", m.bytes
    FROM @repositories r
    JOIN @links l ON l.repository_id = r.id AND l.digest = $3
    JOIN @readings g ON ${reachability.linksTo('l', 'g')}
    JOIN @manifests m ON m.digest = g.digest
    WHERE r.upstream = $1 AND r.name = $2`,
    [upstream, name, digest],
  );
}

export async function isDamaged(on: Rows, digest: Digest): Promise<boolean> {
  return (await on.row('SELECT 1 FROM @quarantine WHERE digest = $1', [digest])) !== undefined;
}

/** The blobs that the manifest names under this media type. */
export function readBlobRows(
  on: Rows,
  manifest: Digest,
  mediaType: string,
): Promise<readonly Omit<SurveyedBlob, 'isShared'>[]> {
  return on.rows<Omit<SurveyedBlob, 'isShared'>>(
    `SELECT n.digest, n.size, n.media_type AS "mediaType", n.kind = 'config' AS "isConfig",
      b.digest IS NOT NULL AS "isHeld", coalesce(b.used_at_ms, 0) AS "usedAtMs",
      EXISTS (SELECT 1 FROM @quarantine q WHERE q.digest = n.digest) AS "isDamaged"
    FROM @readings g
    JOIN @reading_references n ON n.reading_id = g.id AND n.kind <> 'manifest'
    LEFT JOIN @blobs b ON b.digest = n.digest
    WHERE g.digest = $1 AND g.media_type = $2 ORDER BY n.position`,
    [manifest, mediaType],
  );
}

/** Whether the blob is named by a manifest that is not in `tree`, or another repository keeps it without one. */
export async function isBlobNamedOutside(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
  tree: readonly Digest[],
): Promise<boolean> {
  const row = await on.row(
    `SELECT 1 WHERE EXISTS (
      SELECT 1 FROM @reading_references n JOIN @readings g ON g.id = n.reading_id
      WHERE n.digest = $3 AND g.digest <> ALL($4))
    OR EXISTS (
      SELECT 1 FROM @links l JOIN @repositories r ON r.id = l.repository_id
      WHERE l.digest = $3 AND (r.upstream = '' OR ${reachability.isPinnedIn('r.id', 'l.digest')})
        AND NOT (r.upstream = $1 AND r.name = $2))`,
    [upstream, name, digest, tree],
  );
  return row !== undefined;
}

/**
 * Whether another repository has the manifest, or a manifest of this one that is not in `tree` names it. As in the
 * conditions of a removal, Links of what a mirrored repository has lost by eviction keep nothing.
 */
export async function isManifestNeededOutside(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
  tree: readonly Digest[],
): Promise<boolean> {
  const row = await on.row(
    `SELECT 1 WHERE EXISTS (
      SELECT 1 FROM @links l JOIN @repositories r ON r.id = l.repository_id
      WHERE l.digest = $3 AND l.kind = 'manifest' AND (l.media_type IS NOT NULL OR r.upstream = '')
        AND NOT (r.upstream = $1 AND r.name = $2))
    OR EXISTS (
      SELECT 1 FROM @reading_references n
      JOIN @readings g ON g.id = n.reading_id
      JOIN @repositories r ON r.upstream = $1 AND r.name = $2
      JOIN @links k ON k.repository_id = r.id AND ${reachability.linksTo('k', 'g')}
      WHERE n.digest = $3 AND n.kind = 'manifest' AND g.digest <> ALL($4))`,
    [upstream, name, digest, tree],
  );
  return row !== undefined;
}

/** Whether a tag of the repository other than `tag` means the manifest. */
export async function hasOtherTag(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
  tag: string | undefined,
): Promise<boolean> {
  const row = await on.row(
    `SELECT 1 FROM @tags t JOIN @repositories r ON r.id = t.repository_id
    WHERE t.digest = $3 AND r.upstream = $1 AND r.name = $2 AND t.tag <> $4 LIMIT 1`,
    [upstream, name, digest, tag ?? ''],
  );
  return row !== undefined;
}
