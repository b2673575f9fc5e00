import type { Digest } from '../../oci/digest.ts';
import type { Manifest } from '../../oci/manifest.ts';
import type { Repository } from '../../oci/repository.ts';
import { type BlobLink, type Lack, MAX_NAMINGS, type Naming, type SizedDigest } from '../metadata-store.ts';
import * as reachability from './reachability.ts';
import type { PostgresSession, Rows } from './session.ts';

export type LinkKind = 'manifest' | 'blob';

/**
 * How many manifests that name a blob are searched, newest first: a common layer, or one that somebody names for this
 * purpose, may be named by very many.
 */
const MAX_NAMES_SEARCHED = 200;

// Both are about the digest $3 in the repository $2 of the upstream $1.
const LINKED_SIZE = `
  SELECT l.size FROM @repositories r JOIN @links l ON l.repository_id = r.id
  WHERE r.upstream = $1 AND r.name = $2 AND l.digest = $3 ORDER BY l.kind LIMIT 1`;
/** Follows `namersOf('$3')`. */
const SIZE_BY_MANIFEST = `
  SELECT (
    SELECT n.size FROM @reading_references n
    WHERE n.digest = $3 AND n.reading_id = namers.reading_id LIMIT 1) AS size
  FROM namers
  WHERE EXISTS (
    SELECT 1 FROM @readings g
    JOIN @repositories r ON r.upstream = $1 AND r.name = $2
    JOIN @links l ON l.repository_id = r.id AND ${reachability.linksTo('l', 'g')}
    WHERE g.id = namers.reading_id)
  LIMIT 1`;

export async function hasLink(on: Rows, repository: Repository, digest: Digest): Promise<boolean> {
  return (await linkedSize(on, repository, digest)) !== undefined;
}

/** The size in the Link, or else in a manifest that is linked here. */
export async function namedSize(
  on: Rows,
  repository: Repository,
  digest: Digest,
): Promise<number | undefined> {
  const { upstream, name } = repository;
  const row = await on.row<{ size: number | null }>(
    `${namersOf('$3')} SELECT coalesce((${LINKED_SIZE}), (${SIZE_BY_MANIFEST})) AS size`,
    [upstream, name, digest],
  );
  return row?.size ?? undefined;
}

export async function isNamedByManifest(on: Rows, repository: Repository, digest: Digest): Promise<boolean> {
  return (await sizeByManifest(on, repository, digest)) !== undefined;
}

/** Those of `required` that are not linked in the repository with the given size. */
export async function lacksOf(
  on: Rows,
  repositoryId: number | undefined,
  required: readonly SizedDigest[],
): Promise<readonly Lack[]> {
  if (required.length === 0) return [];
  const rows = await on.rows<{ digest: Digest; size: number }>(
    // The kinds in the order of the key, so that of two Links the same one is always taken.
    `SELECT DISTINCT ON (digest) digest, size FROM @links
    WHERE repository_id = $1 AND digest = ANY($2) ORDER BY digest, kind`,
    [repositoryId ?? null, required.map(({ digest }) => digest)],
  );
  const linked = new Map(rows.map(({ digest, size }) => [digest, size]));
  return required
    .map(({ digest, size }) => ({ digest, size, linkedSize: linked.get(digest) }))
    .filter(lack => lack.size !== lack.linkedSize);
}

/**
 * Adds the Links or renews them: written again, a Link's time is renewed, since a client that pushes the blob a second
 * time may take as long to push its manifest as the first time.
 */
export async function putBlobLinks(
  on: PostgresSession,
  repositoryId: number,
  blobs: readonly SizedDigest[],
): Promise<void> {
  // The last of several with one digest counts.
  const sizes = [...new Map(blobs.map(({ digest, size }) => [digest, size]))];
  await on.changes(
    `INSERT INTO @links (repository_id, digest, kind, size, created_at_ms)
    SELECT $1, b.digest, 'blob', b.size, $4 FROM unnest($2::text[], $3::bigint[]) AS b (digest, size)
    ON CONFLICT (repository_id, digest, kind) DO UPDATE SET created_at_ms = excluded.created_at_ms, size = excluded.size`,
    [repositoryId, sizes.map(([digest]) => digest), sizes.map(([, size]) => size), Date.now()],
  );
}

/** From now on the repository reads these bytes with this media type. */
export async function putManifestLink(
  on: PostgresSession,
  repositoryId: number,
  { digest, mediaType, bytes }: Manifest,
): Promise<void> {
  await on.changes(
    `INSERT INTO @links (repository_id, digest, kind, media_type, size, created_at_ms)
    VALUES ($1, $2, 'manifest', $3, $4, $5)
    ON CONFLICT (repository_id, digest, kind) DO UPDATE SET
      created_at_ms = excluded.created_at_ms, media_type = excluded.media_type, size = excluded.size`,
    [repositoryId, digest, mediaType, bytes.byteLength, Date.now()],
  );
}

/** Sets back the time of blobs' Links that a wrong clock put in the future. */
export async function lowerLinks(
  on: PostgresSession,
  links: readonly BlobLink[],
  toMs: number,
): Promise<void> {
  await on.changes(
    `UPDATE @links l SET created_at_ms = $4
    FROM unnest($1::text[], $2::text[], $3::text[]) AS given (upstream, name, digest)
    JOIN @repositories r ON r.upstream = given.upstream AND r.name = given.name
    WHERE l.repository_id = r.id AND l.digest = given.digest AND l.kind = 'blob' AND l.created_at_ms > $4`,
    [...columnsOf(links), toMs],
  );
}

/** The columns upstream, name and digest. */
export function columnsOf(links: readonly BlobLink[]): [string[], string[], string[]] {
  return [
    links.map(({ repository }) => repository.upstream),
    links.map(({ repository }) => repository.name),
    links.map(({ digest }) => digest),
  ];
}

export async function removeLink(
  on: PostgresSession,
  repositoryId: number,
  digest: Digest,
  kind: LinkKind,
): Promise<boolean> {
  const removed = await on.changes(
    'DELETE FROM @links WHERE repository_id = $1 AND digest = $2 AND kind = $3',
    [repositoryId, digest, kind],
  );
  return removed > 0;
}

/** Removes a manifest's Link unless something in the repository names it: then false. */
export async function removeUnnamedLink(
  on: PostgresSession,
  repositoryId: number,
  digest: Digest,
): Promise<boolean> {
  await on.changes(
    `DELETE FROM @links l
    WHERE l.repository_id = $1 AND l.digest = $2 AND l.kind = 'manifest'
      AND NOT EXISTS (SELECT 1 FROM @tags t WHERE t.digest = $2 AND t.repository_id = $1)
      AND NOT ${reachability.isPinnedIn('$1', '$2')}
      AND NOT ${reachability.isNamedIn('$1', '$2')}`,
    [repositoryId, digest],
  );
  const left = await on.row(
    "SELECT 1 FROM @links WHERE repository_id = $1 AND digest = $2 AND kind = 'manifest'",
    [repositoryId, digest],
  );
  return left === undefined;
}

async function linkedSize(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
): Promise<number | undefined> {
  const row = await on.row<{ size: number }>(LINKED_SIZE, [upstream, name, digest]);
  return row?.size;
}

/** As in `MetadataStore.listNamings`. */
export async function namings(on: Rows, digest: Digest): Promise<readonly Naming[]> {
  const rows = await on.rows<Repository & { size: number }>(
    `${namersOf('$1')}
    SELECT r.upstream, r.name, (
      SELECT n.size FROM @reading_references n
      WHERE n.digest = $1 AND n.reading_id = namers.reading_id LIMIT 1) AS size
    FROM namers
    JOIN @readings g ON g.id = namers.reading_id
    JOIN @links l ON ${reachability.linksTo('l', 'g')}
    JOIN @repositories r ON r.id = l.repository_id
    ORDER BY namers.reading_id DESC LIMIT ${MAX_NAMINGS}`,
    [digest],
  );
  return rows.map(({ size, ...repository }) => ({ repository, size }));
}

/** The manifests that name a blob, the newest first, and not all of very many; `digest` is the parameter that says which. */
function namersOf(digest: string): string {
  return `WITH RECURSIVE namers (reading_id, searched) AS (
      SELECT max(n.reading_id), 1 FROM @reading_references n WHERE n.digest = ${digest}
      UNION ALL
      SELECT (
        SELECT max(n.reading_id) FROM @reading_references n
        WHERE n.digest = ${digest} AND n.reading_id < namers.reading_id), namers.searched + 1
      FROM namers WHERE namers.reading_id IS NOT NULL AND namers.searched < ${MAX_NAMES_SEARCHED})`;
}

/**
 * The newest manifest first: blobs are mostly requested just after the manifest that names them. Each step goes to the next
 * older one, past the rows of a manifest that names the blob many times; the first that is linked ends the search.
 */
async function sizeByManifest(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
): Promise<number | undefined> {
  const row = await on.row<{ size: number }>(`${namersOf('$3')} ${SIZE_BY_MANIFEST}`, [
    upstream,
    name,
    digest,
  ]);
  return row?.size;
}
