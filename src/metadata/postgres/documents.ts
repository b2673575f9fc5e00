import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Document } from '../metadata-store.ts';
import type { PostgresSession, Rows } from './session.ts';

// Upstream's lists of referrers. Triggers remove each with the manifest that it is about, so there is none without that.

/** The manifest $3, if it is stored and linked in the repository. */
const SUBJECT = `
  FROM @repositories r
  JOIN @links l ON l.repository_id = r.id AND l.kind = 'manifest' AND l.media_type IS NOT NULL
  JOIN @manifests m ON m.digest = l.digest
  WHERE r.upstream = $1 AND r.name = $2 AND l.digest = $3`;

export async function readReferrersList(
  on: Rows,
  { upstream, name }: Repository,
  subject: Digest,
): Promise<Document | undefined> {
  return on.row<Document>(
    `SELECT d.media_type AS "mediaType", d.checked_at_ms AS "checkedAtMs", d.bytes
    FROM @repositories r JOIN @documents d ON d.repository_id = r.id
    WHERE r.upstream = $1 AND r.name = $2 AND d.subject = $3`,
    [upstream, name, subject],
  );
}

/** Whether `putReferrersList` would write anything. */
export async function hasSubject(
  on: Rows,
  { upstream, name }: Repository,
  subject: Digest,
): Promise<boolean> {
  return (await on.row(`SELECT 1 ${SUBJECT}`, [upstream, name, subject])) !== undefined;
}

/** Writes nothing unless the manifest is stored and linked. */
export async function putReferrersList(
  on: PostgresSession,
  { upstream, name }: Repository,
  subject: Digest,
  { mediaType, checkedAtMs, bytes }: Document,
): Promise<void> {
  await on.changes(
    `INSERT INTO @documents (repository_id, subject, media_type, checked_at_ms, bytes)
    SELECT r.id, l.digest, $4, $5, $6 ${SUBJECT}
    ON CONFLICT (repository_id, subject) DO UPDATE SET
      media_type = excluded.media_type, checked_at_ms = excluded.checked_at_ms, bytes = excluded.bytes`,
    [upstream, name, subject, mediaType, checkedAtMs, bytes],
  );
}
