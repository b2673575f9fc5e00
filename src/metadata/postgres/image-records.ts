import type { Digest } from '../../oci/digest.ts';
import {
  type HostedImage,
  type HostedRecord,
  NOTED_AT_ONCE,
  type RecordedTag,
  type UnrecordedImage,
} from '../image-record.ts';
import type { PostgresSession, Rows } from './session.ts';

// Which images of hosted repositories are not recorded, and what their records say.

export async function listUnrecorded(
  on: Rows,
  limit: number,
  after: HostedImage | undefined,
): Promise<readonly UnrecordedImage[]> {
  return on.rows<UnrecordedImage>(
    // In the order of the primary key, since there may be a million.
    `SELECT repository AS name, digest, change::text AS change FROM @unrecorded
    WHERE (repository, digest) > ($2, $3) ORDER BY repository, digest LIMIT $1`,
    [limit, after?.name ?? '', after?.digest ?? ''],
  );
}

export async function countUnrecorded(on: Rows, most: number): Promise<number> {
  const row = await on.row<{ waiting: number }>(
    'SELECT count(*) AS waiting FROM (SELECT 1 FROM @unrecorded LIMIT $1) u',
    [most],
  );
  return row?.waiting ?? 0;
}

/** One statement, since what it says must be of one moment. */
export async function readImageRecord(
  on: Rows,
  { name, digest }: HostedImage,
): Promise<HostedRecord | undefined> {
  const row = await on.row<{ mediaType: string; tags: RecordedTag[] | null; pins: string[] | null }>(
    `SELECT l.media_type AS "mediaType",
      (SELECT json_agg(json_build_object('tag', t.tag, 'atMs', t.checked_at_ms) ORDER BY t.tag)
        FROM @tags t WHERE t.repository_id = r.id AND t.digest = l.digest) AS tags,
      (SELECT json_agg(p.reference ORDER BY p.reference) FROM @pins p
        WHERE p.repository_id = r.id AND (p.reference = l.digest OR EXISTS (
          SELECT 1 FROM @tags t WHERE t.repository_id = r.id AND t.tag = p.reference AND t.digest = l.digest))) AS pins
    FROM @repositories r JOIN @links l ON l.repository_id = r.id
    WHERE r.upstream = '' AND r.name = $1 AND l.digest = $2 AND l.kind = 'manifest' AND l.media_type IS NOT NULL`,
    [name, digest],
  );
  return row && { mediaType: row.mediaType, tags: row.tags ?? [], pins: row.pins ?? [] };
}

/** Images of a removed repository become unrecorded as their rows are removed, a few at a time. */
const IS_UNRECORDED = `
  (EXISTS (SELECT 1 FROM @unrecorded WHERE repository = $1 AND digest = $2)
    OR EXISTS (
      SELECT 1 FROM @removed_repositories o JOIN @links l ON l.repository_id = o.id
      WHERE o.name = $1 AND l.digest = $2 AND l.kind = 'manifest'))`;

export async function isUnrecorded(on: Rows, { name, digest }: HostedImage): Promise<boolean> {
  return (await on.row(`SELECT 1 WHERE ${IS_UNRECORDED}`, [name, digest])) !== undefined;
}

/** Whether the index has the image, with its bytes, and whether it is unrecorded. */
export async function knownOf(
  on: Rows,
  { name, digest }: HostedImage,
): Promise<{ readonly isKnown: boolean; readonly isUnrecorded: boolean }> {
  const row = await on.row<{ isKnown: boolean; isUnrecorded: boolean }>(
    `SELECT
      EXISTS (
        SELECT 1 FROM @repositories r
        JOIN @links l ON l.repository_id = r.id AND l.kind = 'manifest' AND l.media_type IS NOT NULL
        JOIN @manifests m ON m.digest = l.digest
        WHERE r.upstream = '' AND r.name = $1 AND l.digest = $2) AS "isKnown",
      ${IS_UNRECORDED} AS "isUnrecorded"`,
    [name, digest],
  );
  if (row === undefined) throw new Error('internal error: a question without an answer');
  return row;
}

export async function isHostedManifest(on: Rows, digest: Digest): Promise<boolean> {
  const row = await on.row(
    `SELECT 1 FROM @links l JOIN @repositories r ON r.id = l.repository_id
    WHERE l.digest = $1 AND l.kind = 'manifest' AND r.upstream = '' LIMIT 1`,
    [digest],
  );
  return row !== undefined;
}

/** Call within a write. */
export async function noteRecorded(
  on: PostgresSession,
  { name, digest, change }: UnrecordedImage,
): Promise<void> {
  const settled = await on.changes(
    'DELETE FROM @unrecorded WHERE repository = $1 AND digest = $2 AND change = $3',
    [name, digest, change],
  );
  if (settled > 0) return;
  await on.changes(
    'INSERT INTO @unrecorded (repository, digest) VALUES ($1, $2) ON CONFLICT (repository, digest) DO NOTHING',
    [name, digest],
  );
}

/** Call within a write. */
export async function noteUnrecorded(on: PostgresSession, images: readonly HostedImage[]): Promise<void> {
  await on.changes(
    `INSERT INTO @unrecorded (repository, digest)
    SELECT DISTINCT i.name, i.digest FROM unnest($1::text[], $2::text[]) AS i (name, digest) ORDER BY 1, 2
    ON CONFLICT (repository, digest) DO UPDATE SET change = excluded.change`,
    [images.map(({ name }) => name), images.map(({ digest }) => digest)],
  );
}

/** Call within a write. Returns where to continue. */
export async function noteAllUnrecorded(
  on: PostgresSession,
  after: HostedImage | undefined,
): Promise<HostedImage | undefined> {
  // The rest of a repository, then others: what is before is not looked at again.
  const images = await on.rows<HostedImage>(
    `(SELECT r.name, l.digest FROM @repositories r JOIN @links l ON l.repository_id = r.id AND l.kind = 'manifest'
      WHERE r.upstream = '' AND r.name = $1 AND l.digest > $2 ORDER BY l.digest LIMIT ${NOTED_AT_ONCE})
    UNION ALL
    (SELECT r.name, l.digest FROM @repositories r JOIN @links l ON l.repository_id = r.id AND l.kind = 'manifest'
      WHERE r.upstream = '' AND r.name > $1 ORDER BY r.name, l.digest LIMIT ${NOTED_AT_ONCE})
    ORDER BY name, digest LIMIT ${NOTED_AT_ONCE}`,
    [after?.name ?? '', after?.digest ?? ''],
  );
  if (images.length > 0) await noteUnrecorded(on, images);
  return images.length < NOTED_AT_ONCE ? undefined : images.at(-1);
}
