import type { Digest } from '../../oci/digest.ts';
import type { BlobLink, Content, Damage } from '../metadata-store.ts';
import { exists } from './exists.ts';
import { columnsOf } from './links.ts';
import * as reachability from './reachability.ts';
import type { PostgresSession, Rows } from './session.ts';

// Removals by upkeep. Each checks in its own transaction, under the lock of the digest, that nothing needs the content by
// now.

/** Columns with the time of a last use. Each has an index, so no query scans a table. */
const TIMES = [
  ['@blobs', 'digest', 'used_at_ms'],
  ['@manifests', 'digest', 'used_at_ms'],
  ['@uploads', 'id', 'touched_at_ms'],
] as const;
/** For each table, in one transaction of some milliseconds. */
const LOWERED_AT_ONCE = 20;

/** Removes the Links of blobs that no manifest of their repository and no pin names. Returns how many. */
export async function expireLinks(
  on: PostgresSession,
  links: readonly BlobLink[],
  sinceMs: number,
): Promise<number> {
  let expired = 0;
  for (const round of inRounds(links)) {
    expired += await on.changes(
      `DELETE FROM @links l
      USING unnest($1::text[], $2::text[], $3::text[]) AS given (upstream, name, digest), @repositories r
      WHERE r.upstream = given.upstream AND r.name = given.name
        AND l.repository_id = r.id AND l.digest = given.digest AND l.kind = 'blob' AND l.created_at_ms < $4
        AND NOT ${exists('@blobs b WHERE b.digest = l.digest AND b.used_at_ms >= $4')}
        AND NOT ${reachability.isPinnedIn('l.repository_id', 'l.digest')}
        AND NOT ${reachability.isNamedIn('l.repository_id', 'l.digest')}`,
      [...columnsOf(round), sinceMs],
    );
  }
  return expired;
}

/**
 * Each digest once in a round: of several Links of one blob, the last one that goes says who is charged for it, and the rows
 * of one statement go in any order.
 */
function inRounds(links: readonly BlobLink[]): readonly (readonly BlobLink[])[] {
  const rounds: BlobLink[][] = [];
  const seen = new Map<Digest, number>();
  for (const link of links) {
    const at = seen.get(link.digest) ?? 0;
    seen.set(link.digest, at + 1);
    (rounds[at] ??= []).push(link);
  }
  return rounds;
}

/** Conditions for a row of content that may be removed, of `digest`, by the kind of the content. */
type Condition = Record<Content['kind'], string>;

const UNUSED_MANIFEST = `NOT ${reachability.isKeptManifest('content.digest')}`;

export const UNNEEDED: Condition = {
  manifest: UNUSED_MANIFEST,
  blob: `NOT ${reachability.isKeptByLink('content.digest', '$2')} AND NOT ${reachability.isNamed('content.digest')}
    AND NOT ${reachability.isBeingFilled('content.digest')}`,
};

export const UNLINKED: Condition = {
  manifest: UNUSED_MANIFEST,
  blob: `NOT ${reachability.isLinked('content.digest')} AND NOT ${reachability.isNamed('content.digest')}
    AND NOT ${reachability.isBeingFilled('content.digest')}`,
};

export const EVICTABLE: Condition = {
  manifest: reachability.isEvictable('content.digest'),
  blob: reachability.isEvictable('content.digest'),
};

/** Removes the rows of those that meet the condition and were not used since; returns these. */
export async function removeContent(
  on: PostgresSession,
  contents: readonly Content[],
  condition: Condition,
  sinceMs: number,
): Promise<readonly Content[]> {
  const removed: Content[] = [];
  // What one kind names may be needed until that is gone.
  for (const run of runsOfOneKind(contents)) {
    const [{ kind } = { kind: 'blob' as const }] = run;
    const rows = await on.rows<{ digest: Digest }>(
      `DELETE FROM ${kind === 'blob' ? '@blobs' : '@manifests'} content
      WHERE content.digest = ANY($1) AND content.used_at_ms < $2 AND ${condition[kind]}
      RETURNING content.digest`,
      [run.map(({ digest }) => digest), sinceMs],
    );
    const digests = new Set(rows.map(({ digest }) => digest));
    if (kind === 'manifest') await forgetReadings(on, [...digests]);
    removed.push(...run.filter(({ digest }) => digests.delete(digest)));
  }
  return removed;
}

/** Call when the bytes of manifests are gone for good. */
async function forgetReadings(on: PostgresSession, digests: readonly Digest[]): Promise<void> {
  if (digests.length === 0) return;
  await on.changes("UPDATE @links SET media_type = NULL WHERE digest = ANY($1) AND kind = 'manifest'", [
    digests,
  ]);
  await on.changes('DELETE FROM @readings WHERE digest = ANY($1)', [digests]);
}

function runsOfOneKind(contents: readonly Content[]): readonly (readonly Content[])[] {
  const runs: Content[][] = [];
  for (const content of contents) {
    const last = runs.at(-1);
    if (last?.[0]?.kind === content.kind) last.push(content);
    else runs.push([content]);
  }
  return runs;
}

/** When the oldest of the imports that are running began; later than any time if none is. */
export async function readImportingSinceMs(on: Rows): Promise<number> {
  const row = await on.row<{ ms: number }>(`SELECT ${reachability.importingSinceMs} AS ms`);
  return row?.ms ?? Number.MAX_SAFE_INTEGER;
}

/** Those of which nothing says that bytes should be stored. */
export async function strayDigests(on: Rows, digests: readonly Digest[]): Promise<readonly Digest[]> {
  const rows = await on.rows<{ digest: Digest }>(
    `SELECT given.digest FROM unnest($1::text[]) AS given (digest) WHERE ${reachability.isStray('given.digest')}`,
    [digests],
  );
  return rows.map(({ digest }) => digest);
}

/**
 * Removes the row, so that the content is not served; returns who has lost it, `undefined` if there was no row. What a
 * manifest names is still needed, since the manifest may be stored again.
 */
export async function quarantine(
  on: PostgresSession,
  { kind, digest }: Content,
  reason: string,
): Promise<'hosted' | 'mirrored' | undefined> {
  const table = kind === 'blob' ? '@blobs' : '@manifests';
  const removed = await on.changes(`DELETE FROM ${table} WHERE digest = $1`, [digest]);
  if (removed === 0) return undefined;
  await on.changes(
    'INSERT INTO @quarantine (digest, found_at_ms, reason) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING',
    [digest, Date.now(), reason],
  );
  const row = await on.row<{ hosted: boolean }>(`SELECT ${reachability.isHosted('$1')} AS hosted`, [digest]);
  return row?.hosted === true ? 'hosted' : 'mirrored';
}

export function readDamage(on: Rows, digest: Digest): Promise<Damage | undefined> {
  return on.row<Damage>('SELECT found_at_ms AS "foundAtMs", reason FROM @quarantine WHERE digest = $1', [
    digest,
  ]);
}

export async function countDamaged(on: Rows): Promise<number> {
  return (await on.row<{ damaged: number }>('SELECT count(*) AS damaged FROM @quarantine'))?.damaged ?? 0;
}

/** Call when the content was stored again, or is not needed any more. */
export async function endDamage(on: PostgresSession, digests: readonly Digest[]): Promise<void> {
  await on.changes('DELETE FROM @quarantine WHERE digest = ANY($1)', [digests]);
}

export async function hasLaterUses(on: Rows, thanMs: number): Promise<boolean> {
  const row = await on.row(
    TIMES.map(([table, , time]) => `SELECT 1 FROM ${table} WHERE ${time} > $1`).join(' UNION ALL ') +
      ' LIMIT 1',
    [thanMs],
  );
  return row !== undefined;
}

export async function lowerUses(on: PostgresSession, laterThanMs: number, toMs: number): Promise<number> {
  let lowered = 0;
  for (const [table, key, time] of TIMES) {
    lowered += await on.changes(
      `UPDATE ${table} SET ${time} = $2
      WHERE ${key} IN (SELECT ${key} FROM ${table} WHERE ${time} > $1 ORDER BY ${key} LIMIT ${LOWERED_AT_ONCE})`,
      [laterThanMs, toMs],
    );
  }
  return lowered;
}

/** Records uses, of content that is stored, unless one was recorded less than `resolutionMs` before. */
export async function putUses(
  on: PostgresSession,
  uses: readonly (readonly [digest: Digest, atMs: number])[],
  resolutionMs: number,
): Promise<void> {
  for (const table of ['@manifests', '@blobs']) {
    await on.changes(
      // Locked in the order of digests: other processes record uses of the same content.
      `WITH used AS (
        SELECT c.digest, u.at_ms FROM ${table} c
        JOIN unnest($1::text[], $2::bigint[]) AS u (digest, at_ms) ON u.digest = c.digest
        WHERE c.used_at_ms < u.at_ms - $3
        ORDER BY c.digest FOR NO KEY UPDATE OF c)
      UPDATE ${table} c SET used_at_ms = used.at_ms FROM used WHERE c.digest = used.digest`,
      [uses.map(([digest]) => digest), uses.map(([, atMs]) => atMs), resolutionMs],
    );
  }
}
