import type { Descriptor } from '../../oci/descriptor.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Manifest, ManifestView } from '../../oci/manifest.ts';
import type { Page } from '../../oci/pull-source.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Paged } from '../metadata-store.ts';
import { pageRange, toPage } from '../page.ts';
import { type ReferrerRow, toReferrer } from '../referrer-row.ts';
import { namedIn } from '../named-content.ts';
import { isPreloaded } from './preloads.ts';
import type { PostgresSession, Rows } from './session.ts';

export async function readManifestBytes(on: Rows, digest: Digest): Promise<Buffer | undefined> {
  const row = await on.row<{ bytes: Buffer }>('SELECT bytes FROM @manifests WHERE digest = $1', [digest]);
  return row?.bytes;
}

export async function readLinkedManifest(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
): Promise<Manifest | undefined> {
  const row = await on.row<{ mediaType: string; bytes: Buffer }>(
    `SELECT l.media_type AS "mediaType", m.bytes
    FROM @repositories r
    JOIN @links l ON l.repository_id = r.id AND l.kind = 'manifest' AND l.media_type IS NOT NULL
    JOIN @manifests m ON m.digest = l.digest
    WHERE r.upstream = $1 AND r.name = $2 AND l.digest = $3`,
    [upstream, name, digest],
  );
  return row && { digest, ...row };
}

/**
 * Stores the bytes, and what they name under this media type. Both are determined by digest and media type, so existing
 * rows are equal, but for bytes that a disk has damaged: these are replaced.
 */
export async function putManifest(
  on: PostgresSession,
  { digest, mediaType, bytes }: Manifest,
  view: ManifestView,
  atMs: number,
): Promise<void> {
  await on.changes(
    `INSERT INTO @manifests AS m (digest, created_at_ms, used_at_ms, size, bytes) VALUES ($1, $2, $2, $3, $4)
    ON CONFLICT (digest) DO UPDATE SET used_at_ms = greatest(m.used_at_ms, excluded.used_at_ms),
      bytes = CASE WHEN m.bytes = excluded.bytes THEN m.bytes ELSE excluded.bytes END`,
    [digest, atMs, bytes.byteLength, bytes],
  );
  const named = namedIn(view);
  await on.changes(
    `WITH reading AS (
      INSERT INTO @readings (digest, media_type, artifact_type, subject, annotations) VALUES ($1, $2, $3, $4, $5)
      ON CONFLICT DO NOTHING RETURNING id)
    INSERT INTO @reading_references (reading_id, position, kind, digest, size, media_type)
    SELECT reading.id, n.position - 1, n.kind, n.digest, n.size, n.media_type
    FROM reading, unnest($6::text[], $7::text[], $8::bigint[], $9::text[])
      WITH ORDINALITY AS n (kind, digest, size, media_type, position)`,
    [
      digest,
      mediaType,
      view.artifactType ?? null,
      view.subject?.digest ?? null,
      JSON.stringify(view.annotations),
      named.map(({ kind }) => kind),
      named.map(({ descriptor }) => descriptor.digest),
      named.map(({ descriptor }) => descriptor.size),
      named.map(({ descriptor }) => descriptor.mediaType),
    ],
  );
}

export async function readReferrerPage(
  on: Rows,
  { upstream, name }: Repository,
  subject: Digest,
  artifactType: string | undefined,
  page: Page,
  preloadedFor?: readonly string[],
): Promise<Paged<Descriptor>> {
  const rows = await on.rows<ReferrerRow>(
    `SELECT g.digest, g.media_type, g.artifact_type, g.annotations, m.size
    FROM @repositories r
    JOIN @referrers e ON e.repository_id = r.id
    JOIN @links l ON l.repository_id = r.id AND l.digest = e.digest AND l.kind = 'manifest'
    JOIN @readings g ON g.digest = l.digest AND g.media_type = l.media_type
    JOIN @manifests m ON m.digest = g.digest
    WHERE r.upstream = $1 AND r.name = $2 AND e.digest > $3 AND e.subject = $5
      ${artifactType === undefined ? 'AND $6::text IS NULL' : 'AND e.artifact_type = $6'}
      AND ($7::text[] IS NULL OR ${isPreloaded('r.id', 'e.digest', '$7::text[]')})
    ORDER BY e.digest LIMIT $4`,
    [upstream, name, ...pageRange(page), subject, artifactType ?? null, preloadedFor ?? null],
  );
  return toPage(page, rows.map(toReferrer));
}
