import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import * as reachability from './reachability.ts';
import type { PostgresSession, Rows } from './session.ts';

export async function listPins(on: Rows, { upstream, name }: Repository): Promise<readonly string[]> {
  const rows = await on.rows<{ reference: string }>(
    `SELECT p.reference FROM @repositories r JOIN @pins p ON p.repository_id = r.id
    WHERE r.upstream = $1 AND r.name = $2 ORDER BY p.reference`,
    [upstream, name],
  );
  return rows.map(({ reference }) => reference);
}

/** The pins that keep the content: on it, or on something above it. */
export async function listPinsOver(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
): Promise<readonly string[]> {
  const rows = await on.rows<{ reference: string }>(
    `WITH RECURSIVE above (id, digest) AS (
      SELECT r.id, $3::text COLLATE "C" FROM @repositories r WHERE r.upstream = $1 AND r.name = $2
      UNION
      SELECT above.id, g.digest FROM above
      JOIN @reading_references n ON n.digest = above.digest
      JOIN @readings g ON g.id = n.reading_id
      JOIN @links k ON k.repository_id = above.id AND ${reachability.linksTo('k', 'g')})
    SELECT DISTINCT p.reference FROM above JOIN @pins p ON p.repository_id = above.id
    WHERE p.reference = above.digest OR EXISTS (
      SELECT 1 FROM @tags t WHERE t.repository_id = above.id AND t.tag = p.reference AND t.digest = above.digest)
    ORDER BY p.reference`,
    [upstream, name, digest],
  );
  return rows.map(({ reference }) => reference);
}

export async function putPin(on: PostgresSession, repositoryId: number, reference: string): Promise<void> {
  await on.changes(
    'INSERT INTO @pins (repository_id, reference, created_at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
    [repositoryId, reference, Date.now()],
  );
}

export async function removePin(
  on: PostgresSession,
  repositoryId: number,
  reference: string,
): Promise<boolean> {
  const removed = await on.changes('DELETE FROM @pins WHERE repository_id = $1 AND reference = $2', [
    repositoryId,
    reference,
  ]);
  return removed > 0;
}
