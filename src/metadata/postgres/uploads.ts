import type { Repository } from '../../oci/repository.ts';
import type { Upload } from '../metadata-store.ts';
import type { PostgresSession, Rows } from './session.ts';

// Unfinished uploads. Their number is limited for each repository and requester, so counting reads few rows.

interface Row extends Repository, Omit<Upload, 'repository'> {}

const COLUMNS = `id, upstream, name, requester, started_at_ms AS "startedAtMs", touched_at_ms AS "touchedAtMs"`;

export async function readUpload(on: Rows, id: string): Promise<Upload | undefined> {
  const row = await on.row<Row>(`SELECT ${COLUMNS} FROM @uploads WHERE id = $1`, [id]);
  return row && toUpload(row);
}

export async function countUploads(on: Rows, { upstream, name }: Repository): Promise<number> {
  const row = await on.row<{ uploads: number }>(
    'SELECT count(*) AS uploads FROM @uploads WHERE upstream = $1 AND name = $2',
    [upstream, name],
  );
  return row?.uploads ?? 0;
}

export async function countUploadsOf(on: Rows, requester: string): Promise<number> {
  const row = await on.row<{ uploads: number }>(
    'SELECT count(*) AS uploads FROM @uploads WHERE requester = $1',
    [requester],
  );
  return row?.uploads ?? 0;
}

/** Least recently touched first. */
export async function listUploads(
  on: Rows,
  touchedBeforeMs: number,
  limit: number,
): Promise<readonly Upload[]> {
  const rows = await on.rows<Row>(
    `SELECT ${COLUMNS} FROM @uploads WHERE touched_at_ms < $1 ORDER BY touched_at_ms LIMIT $2`,
    [touchedBeforeMs, limit],
  );
  return rows.map(toUpload);
}

export async function putUpload(
  on: PostgresSession,
  { id, repository: { upstream, name }, requester, startedAtMs, touchedAtMs }: Upload,
): Promise<void> {
  await on.changes(
    `INSERT INTO @uploads (id, upstream, name, requester, started_at_ms, touched_at_ms)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (id) DO UPDATE SET touched_at_ms = excluded.touched_at_ms`,
    [id, upstream, name, requester, startedAtMs, touchedAtMs],
  );
}

export async function removeUpload(on: PostgresSession, id: string): Promise<boolean> {
  return (await on.changes('DELETE FROM @uploads WHERE id = $1', [id])) > 0;
}

function toUpload({ upstream, name, ...upload }: Row): Upload {
  return { ...upload, repository: { upstream, name } };
}
