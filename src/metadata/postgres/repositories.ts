import type { Digest } from '../../oci/digest.ts';
import type { Page } from '../../oci/pull-source.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { ComingManifest, OwnerBytes, Paged, Usage } from '../metadata-store.ts';
import { pageRange, toPage } from '../page.ts';
import type { PostgresSession, Rows } from './session.ts';

/** How many rows of a removed repository are deleted in one transaction: some milliseconds. */
const SWEEP_ROWS = 20;

/** Tables whose rows belong to a repository, with the columns that identify a row in it. Links come last: they need locks. */
const OWNED_TABLES = {
  tags: 'tag',
  documents: 'subject',
  grants: 'credential_id',
  pins: 'reference',
  preloads: 'digest, grantee',
} as const;

/**
 * What a write does in a repository. Its Links and tags are counted in its row, which is locked against others who count;
 * for anything else it is enough that the repository is not removed.
 */
export type RepositoryLock = 'counted' | 'kept';

const LOCKS: Record<RepositoryLock, string> = { counted: 'FOR NO KEY UPDATE', kept: 'FOR KEY SHARE' };

/** Locks the repository until the write ends. Its id is for this transaction; `undefined` if there is none. */
export async function repositoryId(
  on: PostgresSession,
  { upstream, name }: Repository,
  lock: RepositoryLock,
): Promise<number | undefined> {
  const row = await on.row<{ id: number }>(
    `SELECT id FROM @repositories WHERE upstream = $1 AND name = $2 ${LOCKS[lock]}`,
    [upstream, name],
  );
  return row?.id;
}

/** The same; creates it if there is none. */
export async function repositoryIdOrNew(
  on: PostgresSession,
  repository: Repository,
  lock: RepositoryLock,
): Promise<number> {
  const { upstream, name } = repository;
  for (;;) {
    const known = await repositoryId(on, repository, lock);
    if (known !== undefined) return known;
    const made = await on.row<{ id: number }>(
      `INSERT INTO @repositories (upstream, name, created_at_ms) VALUES ($1, $2, $3)
      ON CONFLICT DO NOTHING RETURNING id`,
      [upstream, name, Date.now()],
    );
    // Otherwise another process has just made it.
    if (made !== undefined) return made.id;
  }
}

/** The same for several, 'counted': returns the id of each. */
export async function repositoryIdsOrNew(
  on: PostgresSession,
  repositories: readonly Repository[],
): Promise<(repository: Repository) => number> {
  const ids = new Map<string, number>();
  for (const repository of inLockingOrder(repositories)) {
    ids.set(repositoryText(repository), await repositoryIdOrNew(on, repository, 'counted'));
  }
  return repository => {
    const id = ids.get(repositoryText(repository));
    if (id === undefined) throw new Error('internal error: a repository without an id');
    return id;
  };
}

/** In the order in which every write that needs several locks them, each once. */
export function inLockingOrder(repositories: readonly Repository[]): readonly Repository[] {
  const byText = new Map(repositories.map(repository => [repositoryText(repository), repository]));
  return [...byText].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, repository]) => repository);
}

export async function hasEntries(on: Rows, { upstream, name }: Repository): Promise<boolean> {
  const row = await on.row('SELECT 1 FROM @repositories WHERE upstream = $1 AND name = $2 AND entries > 0', [
    upstream,
    name,
  ]);
  return row !== undefined;
}

export async function listNames(on: Rows, upstream: string, page: Page): Promise<Paged<string>> {
  const rows = await on.rows<{ name: string }>(
    'SELECT name FROM @repositories WHERE upstream = $1 AND entries > 0 AND name > $2 ORDER BY name LIMIT $3',
    [upstream, ...pageRange(page)],
  );
  return toPage(
    page,
    rows.map(row => row.name),
  );
}

export async function readOwnerBytes(
  on: Rows,
  owners: readonly string[],
): Promise<ReadonlyMap<string, OwnerBytes>> {
  const rows = await on.rows<{ name: string } & OwnerBytes>(
    `SELECT name, sum(bytes)::bigint AS bytes, sum(uncollected_bytes)::bigint AS "uncollectedBytes"
    FROM @owners WHERE name = ANY($1) GROUP BY name
    HAVING sum(bytes) > 0 OR sum(uncollected_bytes) > 0`,
    [owners],
  );
  return new Map(rows.map(({ name, ...bytes }) => [name, bytes]));
}

export async function readUsage(
  on: Rows,
  owner: string,
  { upstream, name }: Repository,
  coming?: ComingManifest,
): Promise<Usage> {
  const tags = [...new Set(coming?.tags)];
  const row = await on.row<Omit<Usage, 'newTags'> & { oldTags: number }>(
    `SELECT o.repositories, o.bytes, o.uncollected AS "uncollectedBytes",
      r.id IS NOT NULL AS "isKnown", coalesce(r.tags, 0) AS tags,
      EXISTS (
        SELECT 1 FROM @links l WHERE l.repository_id = r.id AND l.digest = $4 AND l.kind = 'manifest') AS "hasManifest",
      (SELECT count(*) FROM @tags t WHERE t.repository_id = r.id AND t.tag = ANY($5)) AS "oldTags"
    FROM (
      SELECT coalesce(sum(repositories), 0)::bigint AS repositories, coalesce(sum(bytes), 0)::bigint AS bytes,
        coalesce(sum(uncollected_bytes), 0)::bigint AS uncollected
      FROM @owners WHERE name = $1) o
    LEFT JOIN @repositories r ON r.upstream = $2 AND r.name = $3`,
    [owner, upstream, name, coming?.digest ?? null, tags],
  );
  if (row === undefined) throw new Error('internal error: a sum without a row');
  const { oldTags, ...usage } = row;
  return { ...usage, newTags: tags.length - oldTags };
}

/** From now on nothing of it is found; its rows are deleted later. False if there was none. */
export async function removeRepository(
  on: PostgresSession,
  { upstream, name }: Repository,
): Promise<boolean> {
  const removed = await on.changes('DELETE FROM @repositories WHERE upstream = $1 AND name = $2', [
    upstream,
    name,
  ]);
  return removed > 0;
}

/** Whether there are rows of removed repositories. */
export async function hasRemoved(on: Rows): Promise<boolean> {
  return (await on.row('SELECT 1 FROM @removed_repositories LIMIT 1')) !== undefined;
}

/**
 * Deletes some rows of a removed repository. False if there is none that nobody else is sweeping. `lock` locks digests in
 * the same write.
 */
export async function sweep(
  on: PostgresSession,
  lock: (digests: readonly Digest[]) => Promise<void>,
): Promise<boolean> {
  const removed = await on.row<{ id: number }>(
    'SELECT id FROM @removed_repositories LIMIT 1 FOR UPDATE SKIP LOCKED',
  );
  if (removed === undefined) return false;
  const { id } = removed;
  for (const [table, key] of Object.entries(OWNED_TABLES)) {
    const swept = await on.changes(
      `DELETE FROM @${table} WHERE repository_id = $1
        AND (${key}) IN (SELECT ${key} FROM @${table} WHERE repository_id = $1 LIMIT ${SWEEP_ROWS})`,
      [id],
    );
    if (swept > 0) return true;
  }
  const links = await on.rows<{ digest: Digest }>(
    `SELECT digest FROM @links WHERE repository_id = $1 LIMIT ${SWEEP_ROWS}`,
    [id],
  );
  if (links.length === 0) {
    await on.changes('DELETE FROM @removed_repositories WHERE id = $1', [id]);
    return true;
  }
  const digests = links.map(({ digest }) => digest);
  await lock(digests);
  await on.changes('DELETE FROM @links WHERE repository_id = $1 AND digest = ANY($2)', [id, digests]);
  return true;
}
