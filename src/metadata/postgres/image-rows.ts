import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { SurveyedBlob } from '../survey.ts';
import { exists } from './exists.ts';
import * as reachability from './reachability.ts';
import type { Rows } from './session.ts';

// The parts of an image as its repository reads it: three questions, however many parts it has.

/** A manifest of an image. Of one that is not stored, or that the repository does not read, the first four are `null`. */
export interface ManifestRow {
  readonly digest: Digest;
  readonly mediaType: string | null;
  readonly size: number | null;
  readonly usedAtMs: number | null;
  /** Only of an index. */
  readonly bytes: Buffer | null;
  readonly isDamaged: boolean;
  /** Whether it is needed without the image's name. */
  readonly isKept: boolean;
}

/** A blob of the manifest `manifest`. */
export interface BlobRow extends SurveyedBlob {
  readonly manifest: Digest;
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

/**
 * A tag of the repository other than the image's, $5, means the manifest. Without that, the image's tags are removed with
 * it: those of its first manifest, $4.
 */
const HAS_OTHER_TAG = `(tree.digest <> $4 OR $5::text IS NOT NULL) AND ${exists(`@tags t
  WHERE t.repository_id = r.id AND t.digest = tree.digest
    AND (tree.digest <> $4 OR t.tag <> $5)`)}`;

/**
 * Another repository has the manifest, or a manifest of this one that is not in the tree names it. As in the conditions of
 * a removal, Links of what a mirrored repository has lost by eviction keep nothing.
 */
const IS_NEEDED_OUTSIDE = `${exists(`@links l JOIN @repositories o ON o.id = l.repository_id
  WHERE l.digest = tree.digest AND l.kind = 'manifest' AND (l.media_type IS NOT NULL OR o.upstream = '')
    AND NOT (o.upstream = $1 AND o.name = $2)`)}
OR ${exists(`@reading_references n
  JOIN @readings g ON g.id = n.reading_id
  JOIN @links k ON k.repository_id = r.id AND ${reachability.linksTo('k', 'g')}
  WHERE n.digest = tree.digest AND n.kind = 'manifest' AND g.digest <> ALL($3)`)}`;

/** The manifests of `tree`, in its order. `tag`: the name of the image. `indexTypes`: the media types of an index. */
export function readManifestRows(
  on: Rows,
  { upstream, name }: Repository,
  tree: readonly Digest[],
  { tag, indexTypes }: { readonly tag: string | undefined; readonly indexTypes: readonly string[] },
): Promise<readonly ManifestRow[]> {
  return on.rows<ManifestRow>(
    `SELECT tree.digest, held.*,
      ${reachability.isDamaged('tree.digest')} AS "isDamaged",
      (${HAS_OTHER_TAG}) OR (${IS_NEEDED_OUTSIDE}) AS "isKept"
    FROM unnest($3::text[]) WITH ORDINALITY AS tree (digest, position)
    LEFT JOIN @repositories r ON r.upstream = $1 AND r.name = $2
    LEFT JOIN LATERAL (
      SELECT g.media_type AS "mediaType", m.size, m.used_at_ms AS "usedAtMs",
        CASE WHEN g.media_type = ANY($6::text[]) THEN m.bytes END AS bytes
      FROM @links l
      JOIN @readings g ON ${reachability.linksTo('l', 'g')}
      JOIN @manifests m ON m.digest = g.digest
      WHERE l.repository_id = r.id AND l.digest = tree.digest) held ON true
    ORDER BY tree.position`,
    [upstream, name, tree, tree[0], tag ?? null, indexTypes],
  );
}

/** A manifest that is not in the tree names the blob, or another repository keeps it without one. */
const IS_BLOB_NAMED_OUTSIDE = `${exists(`@reading_references o JOIN @readings h ON h.id = o.reading_id
  WHERE o.digest = n.digest AND h.digest <> ALL($3)`)}
OR ${exists(`@links l JOIN @repositories r ON r.id = l.repository_id
  WHERE l.digest = n.digest AND (r.upstream = '' OR ${reachability.isPinnedIn('r.id', 'l.digest')})
    AND NOT (r.upstream = $1 AND r.name = $2)`)}`;

/** The blobs that these manifests of `tree` name under these media types, in order. */
export function readBlobRows(
  on: Rows,
  { upstream, name }: Repository,
  tree: readonly Digest[],
  manifests: readonly { readonly digest: Digest; readonly mediaType: string }[],
): Promise<readonly BlobRow[]> {
  return on.rows<BlobRow>(
    `SELECT given.digest AS manifest, n.digest, n.size, n.media_type AS "mediaType", n.kind = 'config' AS "isConfig",
      b.digest IS NOT NULL AS "isHeld", coalesce(b.used_at_ms, 0) AS "usedAtMs",
      ${reachability.isDamaged('n.digest')} AS "isDamaged",
      (${IS_BLOB_NAMED_OUTSIDE}) AS "isShared"
    FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS given (digest, media_type, position)
    JOIN @readings g ON g.digest = given.digest AND g.media_type = given.media_type
    JOIN @reading_references n ON n.reading_id = g.id AND n.kind <> 'manifest'
    LEFT JOIN @blobs b ON b.digest = n.digest
    ORDER BY given.position, n.position`,
    [
      upstream,
      name,
      tree,
      manifests.map(({ digest }) => digest),
      manifests.map(({ mediaType }) => mediaType),
    ],
  );
}
