import type { Repository } from '../../oci/repository.ts';
import type { EndedGrants, Grant } from '../metadata-store.ts';
import type { PostgresSession, Rows } from './session.ts';

/** How many Grants of a credential are removed in one transaction. */
const END_ROWS = 100;

/** How many are examined in one transaction. */
const LOOK_ROWS = 500;

/** The Grants of `credentialIds`, or all. */
export async function readGrants(
  on: Rows,
  { upstream, name }: Repository,
  credentialIds?: readonly string[],
): Promise<readonly Grant[]> {
  return on.rows<Grant>(
    `SELECT g.credential_id AS "credentialId", g.verified_at_ms AS "verifiedAtMs"
    FROM @repositories r JOIN @grants g ON g.repository_id = r.id
    WHERE r.upstream = $1 AND r.name = $2 AND ($3::text[] IS NULL OR g.credential_id = ANY($3::text[]))
    ORDER BY g.credential_id`,
    [upstream, name, credentialIds ?? null],
  );
}

export async function putGrant(
  on: PostgresSession,
  repositoryId: number,
  { credentialId, verifiedAtMs }: Grant,
): Promise<void> {
  await on.changes(
    `INSERT INTO @grants (repository_id, credential_id, verified_at_ms) VALUES ($1, $2, $3)
    ON CONFLICT (repository_id, credential_id) DO UPDATE SET verified_at_ms = excluded.verified_at_ms`,
    [repositoryId, credentialId, verifiedAtMs],
  );
}

export async function endGrant(
  on: PostgresSession,
  { upstream, name }: Repository,
  credentialId: string,
): Promise<void> {
  await on.changes(
    `DELETE FROM @grants g USING @repositories r
    WHERE r.upstream = $1 AND r.name = $2 AND g.repository_id = r.id AND g.credential_id = $3`,
    [upstream, name, credentialId],
  );
}

/** Removes some of the credential's Grants; false if there was none left. */
export async function endSomeGrantsOf(on: PostgresSession, credentialId: string): Promise<boolean> {
  const ended = await on.changes(
    `DELETE FROM @grants WHERE credential_id = $1 AND repository_id IN
      (SELECT repository_id FROM @grants WHERE credential_id = $1 LIMIT ${END_ROWS})`,
    [credentialId],
  );
  return ended > 0;
}

/** `after`: a position in the order of all Grants, as in `EndedGrants.next`. */
export async function endGrantsBefore(
  on: PostgresSession,
  beforeMs: number,
  after: string | undefined,
): Promise<EndedGrants> {
  const row = await on.row<{ ended: number; next: string | null }>(
    `WITH looked AS (
      SELECT repository_id, credential_id, verified_at_ms FROM @grants
      WHERE (repository_id, credential_id) > ($2, $3)
      ORDER BY repository_id, credential_id LIMIT ${LOOK_ROWS}),
    ended AS (
      DELETE FROM @grants g USING looked
      WHERE g.repository_id = looked.repository_id AND g.credential_id = looked.credential_id
        AND g.verified_at_ms < $1
      RETURNING 1)
    SELECT (SELECT count(*) FROM ended) AS ended, (
      SELECT repository_id || ' ' || credential_id FROM looked
      ORDER BY repository_id DESC, credential_id DESC LIMIT 1) AS next`,
    [beforeMs, ...parsePosition(after)],
  );
  return { ended: row?.ended ?? 0, next: row?.next ?? undefined };
}

function parsePosition(text: string | undefined): [repositoryId: number, credentialId: string] {
  if (text === undefined) return [-1, ''];
  const end = text.indexOf(' ');
  return [Number(text.slice(0, end)), text.slice(end + 1)];
}
