import type { Digest } from '../../oci/digest.ts';
import type { BlobPullRead, PullRead } from '../../oci/pull-read.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Grant, PullQuery } from '../metadata-store.ts';
import { VERSION } from './index-version.ts';
import { isPreloaded } from './preloads.ts';
import type { Rows } from './session.ts';

// What pulls need to know, each in one question, with the version of the index to which the answer belongs.

/** What a tag or digest means, whoever asks. */
export type Referred = Pick<PullRead, 'tag' | 'manifest'>;

/** What is known of a blob, whoever asks. */
export type BlobSizes = Pick<BlobPullRead, 'linkedSize' | 'storedSize'>;

/** What else is known of the requester. */
export interface ForRequester {
  readonly grants: readonly Grant[];
  readonly isPreloaded: boolean;
}

/** What the index said at one moment. */
export interface PullAnswer<Content> extends ForRequester {
  readonly version: number;
  readonly content: Content;
}

interface RequesterRow {
  readonly version: number;
  readonly grants: readonly Grant[] | null;
  readonly is_preloaded: boolean;
}

/**
 * Columns about the requester, in a statement with the repository as `r`: the Grants of the credentials in `credentialIds`,
 * and whether `digest` was imported for one of `grantees`. Both are arrays.
 */
const requesterColumns = (digest: string, credentialIds: string, grantees: string) => `
  (SELECT json_agg(json_build_object('credentialId', g.credential_id, 'verifiedAtMs', g.verified_at_ms))
    FROM @grants g WHERE g.repository_id = r.id AND g.credential_id = ANY(${credentialIds}::text[])) AS grants,
  coalesce(${isPreloaded('r.id', digest, `${grantees}::text[]`)}, false) AS is_preloaded,
  ${VERSION} AS version`;

interface ReferredRow extends RequesterRow {
  readonly tag_digest: Digest | null;
  readonly checked_at_ms: number | null;
  readonly digest: Digest | null;
  readonly media_type: string | null;
  readonly bytes: Buffer | null;
}

export async function readTagged(
  on: Rows,
  { upstream, name }: Repository,
  tag: string,
  { credentialIds = [], grantees = [] }: PullQuery,
): Promise<PullAnswer<Referred>> {
  const row = await on.row<ReferredRow>(
    `SELECT t.digest AS tag_digest, t.checked_at_ms, m.digest, l.media_type, m.bytes,
      ${requesterColumns('m.digest', '$4', '$5')}
    FROM (SELECT 1) one
    LEFT JOIN @repositories r ON r.upstream = $1 AND r.name = $2
    LEFT JOIN @tags t ON t.repository_id = r.id AND t.tag = $3
    LEFT JOIN @links l ON l.repository_id = r.id AND l.digest = t.digest AND l.kind = 'manifest'
      AND l.media_type IS NOT NULL
    LEFT JOIN @manifests m ON m.digest = l.digest`,
    [upstream, name, tag, credentialIds, grantees],
  );
  return toReferred(row);
}

export async function readByDigest(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
  { credentialIds = [], grantees = [] }: PullQuery,
): Promise<PullAnswer<Referred>> {
  const row = await on.row<ReferredRow>(
    `SELECT NULL AS tag_digest, NULL::bigint AS checked_at_ms, m.digest, l.media_type, m.bytes,
      ${requesterColumns('m.digest', '$4', '$5')}
    FROM (SELECT 1) one
    LEFT JOIN @repositories r ON r.upstream = $1 AND r.name = $2
    LEFT JOIN @links l ON l.repository_id = r.id AND l.digest = $3 AND l.kind = 'manifest'
      AND l.media_type IS NOT NULL
    LEFT JOIN @manifests m ON m.digest = l.digest`,
    [upstream, name, digest, credentialIds, grantees],
  );
  return toReferred(row);
}

export async function readBlobSizes(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
  { credentialIds = [], grantees = [] }: PullQuery,
): Promise<PullAnswer<BlobSizes>> {
  const row = await on.row<RequesterRow & { linked: number | null; stored: number | null }>(
    `SELECT l.size AS linked, b.size AS stored, ${requesterColumns('$3', '$4', '$5')}
    FROM (SELECT 1) one
    LEFT JOIN @blobs b ON b.digest = $3
    LEFT JOIN @repositories r ON r.upstream = $1 AND r.name = $2
    LEFT JOIN @links l ON l.repository_id = r.id AND l.digest = $3
    ORDER BY l.kind LIMIT 1`,
    [upstream, name, digest, credentialIds, grantees],
  );
  const { linked, stored } = present(row);
  const content = { linkedSize: linked ?? undefined, storedSize: stored ?? undefined };
  return { content, ...forRequester(present(row)) };
}

/** Without content, for a requester who asks for something that is remembered. */
export async function readForRequester(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest | undefined,
  { credentialIds = [], grantees = [] }: PullQuery,
): Promise<PullAnswer<undefined>> {
  const row = await on.row<RequesterRow>(
    `SELECT ${requesterColumns('$3', '$4', '$5')}
    FROM (SELECT 1) one LEFT JOIN @repositories r ON r.upstream = $1 AND r.name = $2`,
    [upstream, name, digest ?? null, credentialIds, grantees],
  );
  return { content: undefined, ...forRequester(present(row)) };
}

function toReferred(row: ReferredRow | undefined): PullAnswer<Referred> {
  const { tag_digest, checked_at_ms, digest, media_type, bytes, ...rest } = present(row);
  const tag =
    tag_digest === null || checked_at_ms === null
      ? undefined
      : { digest: tag_digest, checkedAtMs: checked_at_ms };
  const manifest =
    digest === null || media_type === null || bytes === null
      ? undefined
      : { digest, mediaType: media_type, bytes };
  return { content: { tag, manifest }, ...forRequester(rest) };
}

/** A Grant decides usually; then imports are not looked at. */
function forRequester({ version, grants, is_preloaded }: RequesterRow) {
  return { version, grants: grants ?? [], isPreloaded: grants === null && is_preloaded };
}

function present<Row>(row: Row | undefined): Row {
  if (row === undefined) throw new Error('internal error: a question about a pull without an answer');
  return row;
}
