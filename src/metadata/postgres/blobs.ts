import type { Digest } from '../../oci/digest.ts';
import type { BlobRecord, SizedDigest, Totals } from '../metadata-store.ts';
import type { PostgresSession, Rows } from './session.ts';

export async function statBlob(on: Rows, digest: Digest): Promise<BlobRecord | undefined> {
  const row = await on.row<{ size: number; key: string | null }>(
    'SELECT size, key FROM @blobs WHERE digest = $1',
    [digest],
  );
  return row && (row.key === null ? { size: row.size } : { size: row.size, key: row.key });
}

/** Those that are not stored. */
export async function missingBlobs(on: Rows, blobs: readonly SizedDigest[]): Promise<readonly Digest[]> {
  if (blobs.length === 0) return [];
  const rows = await on.rows<{ digest: Digest }>('SELECT digest FROM @blobs WHERE digest = ANY($1)', [
    blobs.map(({ digest }) => digest),
  ]);
  const stored = new Set(rows.map(({ digest }) => digest));
  return blobs.map(({ digest }) => digest).filter(digest => !stored.has(digest));
}

/** A row with another size was damaged: the bytes that are stored now were verified. */
export async function putBlob(
  on: PostgresSession,
  digest: Digest,
  size: number,
  key?: string,
): Promise<void> {
  await on.changes('DELETE FROM @blobs WHERE digest = $1 AND size <> $2', [digest, size]);
  await on.changes(
    `INSERT INTO @blobs (digest, size, key, created_at_ms, used_at_ms) VALUES ($1, $2, $3, $4, $4)
    ON CONFLICT (digest) DO UPDATE SET used_at_ms = excluded.used_at_ms, key = excluded.key`,
    [digest, size, key ?? null, Date.now()],
  );
}

export async function removeBlob(on: PostgresSession, digest: Digest): Promise<boolean> {
  return (await on.changes('DELETE FROM @blobs WHERE digest = $1', [digest])) > 0;
}

/** How much is stored. */
export async function readTotals(on: Rows): Promise<Totals> {
  const row = await on.row<Totals>(
    `SELECT sum(repositories)::bigint AS repositories, sum(manifests)::bigint AS manifests,
      sum(manifest_bytes)::bigint AS "manifestBytes", sum(blobs)::bigint AS blobs,
      sum(blob_bytes)::bigint AS "blobBytes"
    FROM @totals`,
  );
  if (row === undefined) throw new Error('internal error: the index has lost its totals');
  return row;
}
