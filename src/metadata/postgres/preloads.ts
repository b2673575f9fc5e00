import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Preload } from '../metadata-store.ts';
import { exists } from './exists.ts';
import type { PostgresSession, Rows } from './session.ts';

/** How many preloads of a grantee are removed in one transaction. */
const END_ROWS = 100;

/** An SQL condition: the content `digest` was imported into a repository for one of the array `grantees`. */
export const isPreloaded = (repositoryId: string, digest: string, grantees: string) =>
  exists(`@preloads p
  WHERE p.repository_id = ${repositoryId} AND p.digest = ${digest} AND p.grantee = ANY(${grantees})`);

export async function hasPreload(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
  grantees: readonly string[],
): Promise<boolean> {
  const row = await on.row(
    `SELECT 1 FROM @repositories r
    WHERE r.upstream = $1 AND r.name = $2 AND ${isPreloaded('r.id', '$3', '$4::text[]')}`,
    [upstream, name, digest, grantees],
  );
  return row !== undefined;
}

/** The latest of each grantee. */
export async function listPreloads(on: Rows, { upstream, name }: Repository): Promise<readonly Preload[]> {
  return on.rows<Preload>(
    `SELECT p.grantee, max(p.created_at_ms) AS "atMs"
    FROM @repositories r JOIN @preloads p ON p.repository_id = r.id
    WHERE r.upstream = $1 AND r.name = $2 GROUP BY p.grantee ORDER BY p.grantee`,
    [upstream, name],
  );
}

export async function putPreloads(
  on: PostgresSession,
  repositoryId: number,
  digests: readonly Digest[],
  grantee: string,
  atMs: number,
): Promise<void> {
  await on.changes(
    `INSERT INTO @preloads (repository_id, digest, grantee, created_at_ms)
    SELECT $1, digest, $3, $4 FROM (SELECT DISTINCT unnest($2::text[]) AS digest) d
    ON CONFLICT (repository_id, digest, grantee) DO UPDATE SET created_at_ms = excluded.created_at_ms`,
    [repositoryId, digests, grantee, atMs],
  );
}

/** Removes some of the grantee's preloads; false if there was none left. */
export async function endSomePreloadsOf(on: PostgresSession, grantee: string): Promise<boolean> {
  const ended = await on.changes(
    `DELETE FROM @preloads WHERE grantee = $1 AND (repository_id, digest) IN
      (SELECT repository_id, digest FROM @preloads WHERE grantee = $1 LIMIT ${END_ROWS})`,
    [grantee],
  );
  return ended > 0;
}
