import { IMPORT_LEASE } from '../import-lease.ts';
import { exists } from './exists.ts';

/**
 * SQL conditions for what keeps content, on a column with a digest. The survey finds content with them, and each removal
 * checks them again in its own transaction, under the lock of the digest. A Link counts only while its repository has a
 * row: those of removed repositories are deleted later.
 */

/** There is a row of the blob. */
export const isStoredBlob = (digest: string) => exists(`@blobs b WHERE b.digest = ${digest}`);

/** Its bytes were found damaged, and are not replaced yet. */
export const isDamaged = (digest: string) => exists(`@quarantine q WHERE q.digest = ${digest}`);

export const isPinnedIn = (repositoryId: string, digest: string) =>
  exists(`@pins p WHERE p.repository_id = ${repositoryId} AND p.reference = ${digest}`);

const LINKED = '@links l JOIN @repositories r ON r.id = l.repository_id';

/** Any Link, as whatever the content is linked. */
export const isLinked = (digest: string) => exists(`${LINKED} WHERE l.digest = ${digest}`);

export const isLinkedManifest = (digest: string) =>
  exists(`${LINKED} WHERE l.digest = ${digest} AND l.kind = 'manifest'`);

/**
 * A Link keeps the manifest. After an eviction, the Links of mirrored repositories stay, without a media type: even if
 * the bytes come back through another repository, these have to fetch them again.
 */
export const isKeptManifest = (digest: string) =>
  exists(`${LINKED}
  WHERE l.digest = ${digest} AND l.kind = 'manifest' AND (l.media_type IS NOT NULL OR r.upstream = '')`);

export const isLinkedBlob = (digest: string) =>
  exists(`${LINKED} WHERE l.digest = ${digest} AND l.kind = 'blob'`);

/**
 * A Link keeps the blob although no manifest names it: one of a hosted repository, as long as it exists, since a push
 * may be under way, or one of a mirrored repository that is not older than `sinceMs`.
 */
export const isKeptByLink = (digest: string, sinceMs: string) =>
  exists(`${LINKED}
  WHERE l.digest = ${digest} AND l.kind = 'blob'
    AND (r.upstream = '' OR l.created_at_ms >= ${sinceMs} OR ${isPinnedIn('l.repository_id', 'l.digest')})`);

/** The content belongs to a hosted repository, and could not be downloaded again. */
export const isHosted = (digest: string) =>
  exists(`${LINKED} WHERE l.digest = ${digest} AND r.upstream = ''`);

/** The same for a blob without a row: while its bytes exist, `entrepot rebuild` can add it again. */
export const isHostedBlob = (digest: string) =>
  exists(`${LINKED} WHERE l.digest = ${digest} AND l.kind = 'blob' AND r.upstream = ''`);

/** A Link of a manifest, for the reading in the row `reading`. */
export const linksTo = (link: string, reading: string) =>
  `${link}.digest = ${reading}.digest AND ${link}.kind = 'manifest' AND ${link}.media_type = ${reading}.media_type`;

/** A manifest names it, under some media type. */
export const isNamed = (digest: string) => exists(`@reading_references n WHERE n.digest = ${digest}`);

/** A manifest that is linked in the repository names it, under its media type there. */
export const isNamedIn = (repositoryId: string, digest: string) =>
  exists(`@reading_references n
  JOIN @readings g ON g.id = n.reading_id
  JOIN @links k ON k.repository_id = ${repositoryId} AND ${linksTo('k', 'g')}
  WHERE n.digest = ${digest}`);

/** A manifest that is kept, or was used since `sinceMs`, names it. */
export const isNamedByKept = (digest: string, sinceMs: string) =>
  exists(`@reading_references n
  JOIN @readings g ON g.id = n.reading_id
  LEFT JOIN @manifests m ON m.digest = g.digest
  WHERE n.digest = ${digest} AND (m.used_at_ms >= ${sinceMs} OR ${isKeptManifest('g.digest')})`);

/** A process is downloading it, or storing it from an archive. */
export const isBeingFilled = (digest: string) =>
  exists(`@leases c JOIN @processes p ON p.id = c.process_id WHERE c.stored_digest = ${digest}`);

/**
 * An object of a blob that is not named by its row, was not announced or given up, and could not be used again as the
 * only one of its blob.
 */
export const isUnknownObject = (digest: string, key: string) => `(
  NOT ${exists(`@blobs b WHERE b.digest = ${digest} AND b.key = ${key}`)}
  AND NOT ${exists(`@objects o WHERE o.key = ${key}`)}
  AND (${isStoredBlob(digest)}
    OR NOT (${isDamaged(digest)}
      OR ${isHostedBlob(digest)} OR ${isBeingFilled(digest)})))`;

/** Nothing says that bytes of this digest should be stored. */
export const isStray = (digest: string) => `(
  NOT ${isStoredBlob(digest)}
  AND NOT ${isDamaged(digest)}
  AND NOT ${isHostedBlob(digest)} AND NOT ${isBeingFilled(digest)})`;

/**
 * A pin keeps it, directly or through something above it. Most stores have no pins, and then nothing above is looked
 * up.
 */
export const isUnderPin = (digest: string) => `(${exists('@pins')} AND EXISTS (
  WITH RECURSIVE above (digest) AS (
    SELECT ${digest}
    UNION
    SELECT g.digest FROM above
    JOIN @reading_references n ON n.digest = above.digest
    JOIN @readings g ON g.id = n.reading_id)
  SELECT 1 FROM above
  WHERE ${exists(`@pins p JOIN @repositories r ON r.id = p.repository_id WHERE p.reference = above.digest`)}
    OR ${exists(`@tags t JOIN @pins p ON p.repository_id = t.repository_id AND p.reference = t.tag
      JOIN @repositories r ON r.id = p.repository_id WHERE t.digest = above.digest`)}))`;

/**
 * When the oldest of the imports that are running began; later than any time if none is. 0 if that is not known, or not
 * comparable to other times because a clock was set back since.
 */
export const importingSinceMs = `(
  SELECT coalesce(
    min(CASE WHEN s.value::bigint <= extract(epoch FROM clock_timestamp()) * 1000 THEN s.value::bigint ELSE 0 END),
    ${Number.MAX_SAFE_INTEGER})
  FROM @leases c JOIN @processes p ON p.id = c.process_id LEFT JOIN @settings s ON s.name = c.key
  WHERE c.key LIKE '${IMPORT_LEASE}%')`;

/** It was imported since a running import began, which may not have pinned it yet. */
const isArriving = (digest: string) =>
  exists(`@links l JOIN @preloads a ON a.repository_id = l.repository_id AND a.digest = l.digest
  WHERE l.digest = ${digest} AND a.created_at_ms >= ${importingSinceMs}`);

/** Linked mirrored content that may be evicted. */
export const isEvictable = (digest: string) =>
  `${isLinked(digest)} AND NOT ${isHosted(digest)} AND NOT ${isBeingFilled(digest)} AND NOT ${isUnderPin(digest)} ` +
  `AND NOT ${isArriving(digest)}`;
