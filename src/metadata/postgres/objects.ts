import type { BlobObject, ComingObject, GivenUpObject } from '../metadata-store.ts';
import * as reachability from './reachability.ts';
import type { PostgresSession, Rows } from './session.ts';

// Objects that no row of a blob names: those that are about to be made, and those that are to be removed.

export async function announceObject(
  on: PostgresSession,
  { key, digest, uploadId }: ComingObject,
  epoch: number,
): Promise<void> {
  await on.changes(
    'INSERT INTO @objects (key, digest, upload_id, epoch, since_ms) VALUES ($1, $2, $3, $4, $5)',
    [key, digest, uploadId ?? null, epoch, Date.now()],
  );
}

/** Whether it is announced or given up. */
export async function hasObject(on: Rows, key: string): Promise<boolean> {
  return (await on.row('SELECT 1 FROM @objects WHERE key = $1', [key])) !== undefined;
}

/** Call when a row is about to name the object. False if it was given up. */
export async function settleObject(on: PostgresSession, key: string): Promise<boolean> {
  return (await on.changes('DELETE FROM @objects WHERE key = $1 AND epoch IS NOT NULL', [key])) > 0;
}

export async function giveUpObject(on: PostgresSession, key: string): Promise<void> {
  await on.changes('UPDATE @objects SET epoch = NULL, since_ms = $1 WHERE key = $2 AND epoch IS NOT NULL', [
    Date.now(),
    key,
  ]);
}

export async function giveUpAbandonedObjects(on: PostgresSession, beforeMs: number): Promise<void> {
  await on.changes(
    `UPDATE @objects o SET epoch = NULL, since_ms = $1
    WHERE epoch IS NOT NULL AND since_ms < $2 AND NOT EXISTS (
      SELECT 1 FROM @leases c JOIN @processes p ON p.id = c.process_id WHERE c.epoch = o.epoch)`,
    [Date.now(), beforeMs],
  );
}

/** Call for an object that lost its row, but may still be of use. */
export async function keepObject(on: PostgresSession, key: string): Promise<void> {
  await on.changes('DELETE FROM @objects WHERE key = $1 AND epoch IS NULL', [key]);
}

/** Those of which neither a row nor anything else says that they should be there. */
export async function unknownObjects(
  on: Rows,
  objects: readonly BlobObject[],
): Promise<readonly BlobObject[]> {
  if (objects.length === 0) return [];
  const rows = await on.rows<BlobObject>(
    `SELECT given.digest, given.key FROM unnest($1::text[], $2::text[]) AS given (digest, key)
    WHERE ${reachability.isUnknownObject('given.digest', 'given.key')}`,
    [objects.map(({ digest }) => digest), objects.map(({ key }) => key)],
  );
  const unknown = new Set(rows.map(textOf));
  return objects.filter(object => unknown.has(textOf(object)));
}

function textOf({ digest, key }: BlobObject): string {
  return `${digest} ${key}`;
}

export async function giveUpStrayObjects(
  on: PostgresSession,
  objects: readonly BlobObject[],
): Promise<readonly BlobObject[]> {
  const strays = await unknownObjects(on, objects);
  await on.changes(
    `INSERT INTO @objects (key, digest, since_ms)
    SELECT key, digest, $3 FROM unnest($1::text[], $2::text[]) AS given (key, digest)`,
    [strays.map(({ key }) => key), strays.map(({ digest }) => digest), Date.now()],
  );
  return strays;
}

export async function listGivenUpObjects(
  on: Rows,
  beforeMs: number,
  limit: number,
): Promise<readonly GivenUpObject[]> {
  const rows = await on.rows<{ key: string; uploadId: string | null }>(
    `SELECT key, upload_id AS "uploadId" FROM @objects
    WHERE epoch IS NULL AND since_ms < $1 ORDER BY since_ms LIMIT $2`,
    [beforeMs, limit],
  );
  return rows.map(({ key, uploadId }) => ({ key, uploadId: uploadId ?? undefined }));
}

export async function forgetObjects(on: PostgresSession, keys: readonly string[]): Promise<void> {
  await on.changes('DELETE FROM @objects WHERE key = ANY($1)', [keys]);
}
