import type { Digest } from '../../oci/digest.ts';
import type { TagRow } from '../../oci/pull-read.ts';
import type { Page } from '../../oci/pull-source.ts';
import type { Repository } from '../../oci/repository.ts';
import type { RecordedTag } from '../image-record.ts';
import type { Paged } from '../metadata-store.ts';
import { pageRange, toPage } from '../page.ts';
import { isPreloaded } from './preloads.ts';
import type { PostgresSession, Rows } from './session.ts';

export async function readTag(
  on: Rows,
  { upstream, name }: Repository,
  tag: string,
): Promise<TagRow | undefined> {
  return on.row<TagRow>(
    `SELECT t.digest, t.checked_at_ms AS "checkedAtMs"
    FROM @repositories r JOIN @tags t ON t.repository_id = r.id
    WHERE r.upstream = $1 AND r.name = $2 AND t.tag = $3`,
    [upstream, name, tag],
  );
}

export async function readTagPage(
  on: Rows,
  { upstream, name }: Repository,
  page: Page,
  preloadedFor?: readonly string[],
): Promise<Paged<string>> {
  const rows = await on.rows<{ tag: string }>(
    `SELECT t.tag
    FROM @repositories r JOIN @tags t ON t.repository_id = r.id
    WHERE r.upstream = $1 AND r.name = $2 AND t.tag > $3
      AND ($5::text[] IS NULL OR ${isPreloaded('r.id', 't.digest', '$5::text[]')})
    ORDER BY t.tag LIMIT $4`,
    [upstream, name, ...pageRange(page), preloadedFor ?? null],
  );
  return tagsPage(page, rows);
}

/** The tags that mean `digest`. */
export async function readTagPageOf(
  on: Rows,
  { upstream, name }: Repository,
  digest: Digest,
  page: Page,
): Promise<Paged<string>> {
  const rows = await on.rows<{ tag: string }>(
    `SELECT t.tag
    FROM @repositories r JOIN @tags t ON t.repository_id = r.id
    WHERE r.upstream = $1 AND r.name = $2 AND t.digest = $5 AND t.tag > $3 ORDER BY t.tag LIMIT $4`,
    [upstream, name, ...pageRange(page), digest],
  );
  return tagsPage(page, rows);
}

export async function putTag(
  on: PostgresSession,
  repositoryId: number,
  tag: string,
  { digest, checkedAtMs }: TagRow,
): Promise<void> {
  await on.changes(
    `INSERT INTO @tags (repository_id, tag, digest, checked_at_ms) VALUES ($1, $2, $3, $4)
    ON CONFLICT (repository_id, tag) DO UPDATE SET digest = excluded.digest, checked_at_ms = excluded.checked_at_ms`,
    [repositoryId, tag, digest, checkedAtMs],
  );
}

/** Sets the tags of an image, but for those that were set at that time or later; returns how many. */
export async function putNewerTags(
  on: PostgresSession,
  repositoryId: number,
  digest: Digest,
  tags: readonly RecordedTag[],
): Promise<number> {
  if (tags.length === 0) return 0;
  return on.changes(
    `INSERT INTO @tags AS t (repository_id, tag, digest, checked_at_ms)
    SELECT $1, n.tag, $2, n.at_ms FROM unnest($3::text[], $4::bigint[]) AS n (tag, at_ms)
    ON CONFLICT (repository_id, tag) DO UPDATE SET digest = excluded.digest, checked_at_ms = excluded.checked_at_ms
      WHERE excluded.checked_at_ms > t.checked_at_ms`,
    [repositoryId, digest, tags.map(({ tag }) => tag), tags.map(({ atMs }) => atMs)],
  );
}

export async function removeTag(on: PostgresSession, repositoryId: number, tag: string): Promise<boolean> {
  const removed = await on.changes('DELETE FROM @tags WHERE repository_id = $1 AND tag = $2', [
    repositoryId,
    tag,
  ]);
  return removed > 0;
}

/** Removes all tags that mean `digest`. */
export async function removeTagsOf(on: PostgresSession, repositoryId: number, digest: Digest): Promise<void> {
  await on.changes('DELETE FROM @tags WHERE repository_id = $1 AND digest = $2', [repositoryId, digest]);
}

function tagsPage(page: Page, rows: readonly { readonly tag: string }[]): Paged<string> {
  return toPage(
    page,
    rows.map(({ tag }) => tag),
  );
}
