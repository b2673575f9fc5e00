import { IMPORT_LEASE } from '../import-lease.ts';

/**
 * SQL conditions for what keeps content, on a column with a digest. The survey finds content with them, and each
 * removal checks them again in its own transaction. A Link counts only while its repository has a row: those of removed
 * repositories are deleted later.
 */

export const isPinnedIn = (repositoryId: string, digest: string) => `EXISTS (
  SELECT 1 FROM pins p WHERE p.repository_id = ${repositoryId} AND p.reference = ${digest})`;

/** Any Link, as whatever the content is linked. */
export const isLinked = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id WHERE l.digest = ${digest})`;

export const isLinkedManifest = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
  WHERE l.digest = ${digest} AND l.kind = 'manifest')`;

/**
 * A Link keeps the manifest. After an eviction, the Links of mirrored repositories stay, without a media type: even if
 * the bytes come back through another repository, these have to fetch them again. In a hosted repository such a Link
 * is one of a damaged manifest.
 */
export const isKeptManifest = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
  WHERE l.digest = ${digest} AND l.kind = 'manifest' AND (l.media_type IS NOT NULL OR r.upstream = ''))`;

export const isLinkedBlob = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
  WHERE l.digest = ${digest} AND l.kind = 'blob')`;

/**
 * A Link keeps the blob although no manifest names it: one of a hosted repository, as long as it exists, since a push
 * may be under way, or one of a mirrored repository that is not older than @sinceMs.
 */
export const isKeptByLink = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
  WHERE l.digest = ${digest} AND l.kind = 'blob'
    AND (r.upstream = '' OR l.created_at_ms >= @sinceMs OR ${isPinnedIn('l.repository_id', 'l.digest')}))`;

/** The content belongs to a hosted repository, and could not be downloaded again. */
export const isHosted = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
  WHERE l.digest = ${digest} AND r.upstream = '')`;

/** The same for a blob without a row: while its file exists, `entrepot rebuild` can add it again. */
export const isHostedBlob = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
  WHERE l.digest = ${digest} AND l.kind = 'blob' AND r.upstream = '')`;

/** A Link of a manifest, for the reading in the row `reading`. */
export const linksTo = (link: string, reading: string) =>
  `${link}.digest = ${reading}.digest AND ${link}.kind = 'manifest' AND ${link}.media_type = ${reading}.media_type`;

/** A manifest names it, under some media type. */
export const isNamed = (digest: string) => `EXISTS (
  SELECT 1 FROM reading_references n WHERE n.digest = ${digest})`;

/** A manifest that is linked in the repository names it, under its media type there. */
export const isNamedIn = (repositoryId: string, digest: string) => `EXISTS (
  SELECT 1 FROM reading_references n
  JOIN readings g ON g.id = n.reading_id
  JOIN links k ON k.repository_id = ${repositoryId} AND ${linksTo('k', 'g')}
  WHERE n.digest = ${digest})`;

/**
 * A process is downloading it, or storing it from an archive: there is a Lease `fill-<upstream>-<algorithm>-<hex>` or
 * `import-<algorithm>-<hex>`.
 */
export const isBeingFilled = (digest: string) => `EXISTS (
  SELECT 1 FROM leases c JOIN processes p ON p.id = c.process_id
  WHERE c.key LIKE 'fill-%-' || replace(${digest}, ':', '-') OR c.key = 'import-' || replace(${digest}, ':', '-'))`;

/**
 * An object of a blob that is not named by its row, was not announced or given up, and could not be used again as the
 * only one of its blob.
 */
export const isUnknownObject = (digest: string, key: string) => `(
  NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = ${digest} AND b.key = ${key})
  AND NOT EXISTS (SELECT 1 FROM objects o WHERE o.key = ${key})
  AND (EXISTS (SELECT 1 FROM blobs b WHERE b.digest = ${digest})
    OR NOT (EXISTS (SELECT 1 FROM quarantine q WHERE q.digest = ${digest})
      OR ${isHostedBlob(digest)} OR ${isBeingFilled(digest)})))`;

/**
 * A manifest that was pushed to the repository was damaged under an earlier version of the index, which did not record
 * what it needs. Until it is pushed again or deleted, it may need anything in the repository.
 */
export const isMaimed = (repositoryId: string) => `EXISTS (
  SELECT 1 FROM links d INDEXED BY links_without_reading
  JOIN repositories h ON h.id = d.repository_id AND h.upstream = ''
  WHERE d.repository_id = ${repositoryId} AND d.kind = 'manifest' AND d.media_type IS NULL)`;

/**
 * A pin keeps it, directly or through something above it. Most stores have no pins, and then nothing above is looked
 * up.
 */
export const isUnderPin = (digest: string) => `(EXISTS (SELECT 1 FROM pins) AND EXISTS (
  WITH RECURSIVE above (digest) AS (
    SELECT ${digest}
    UNION
    SELECT g.digest FROM above
    JOIN reading_references n ON n.digest = above.digest
    JOIN readings g ON g.id = n.reading_id)
  SELECT 1 FROM above
  WHERE EXISTS (
      SELECT 1 FROM pins p JOIN repositories r ON r.id = p.repository_id WHERE p.reference = above.digest)
    OR EXISTS (
      SELECT 1 FROM tags t JOIN pins p ON p.repository_id = t.repository_id AND p.reference = t.tag
      JOIN repositories r ON r.id = p.repository_id WHERE t.digest = above.digest)))`;

/** Its bytes are damaged, and were not stored again, which only people can see to: it is hosted, or under a pin. */
export const isLost = (digest: string) => `(
  (${isHosted(digest)} OR ${isUnderPin(digest)})
  AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = ${digest})
  AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = ${digest}))`;

/**
 * When the oldest of the imports that are running began; later than any time if none is. 0 if that is not known, or not
 * comparable to other times because the clock was set back since.
 */
export const importingSinceMs = `(
  SELECT coalesce(
    min(iif(CAST(s.value AS INTEGER) <= unixepoch('now') * 1000, CAST(s.value AS INTEGER), 0)),
    ${Number.MAX_SAFE_INTEGER})
  FROM leases c JOIN processes p ON p.id = c.process_id LEFT JOIN settings s ON s.name = c.key
  WHERE c.key LIKE '${IMPORT_LEASE}%')`;

/** It was imported since a running import began, which may not have pinned it yet. */
const isArriving = (digest: string) => `EXISTS (
  SELECT 1 FROM links l JOIN preloads a ON a.repository_id = l.repository_id AND a.digest = l.digest
  WHERE l.digest = ${digest} AND a.created_at_ms >= ${importingSinceMs})`;

/** Linked mirrored content that may be evicted. */
export const isEvictable = (digest: string) =>
  `${isLinked(digest)} AND NOT ${isHosted(digest)} AND NOT ${isBeingFilled(digest)} AND NOT ${isUnderPin(digest)} ` +
  `AND NOT ${isArriving(digest)}`;
