import { type Lease, LeaseLost, type LeaseState } from '../../lib/lease.ts';
import type { PostgresSession, Rows } from './session.ts';

// The processes on this index, and their Leases. A Lease is held while its process has a row.

/** Without a heartbeat for this long a process is dead: more than any pause of a live one. */
export const DEAD_AFTER_MS = 5_000;

/** The same for one at whose address nobody listens any more: a heartbeat and the time that the next one may take. */
const GONE_AFTER_MS = 2_000;

/** After so long, nobody continues the work of a Lease that was left: what is unfinished is usually kept for a day. */
const LEFT_FOR_DAYS = 90;

/** Which acquisition of which Lease. */
export type LeaseName = Pick<Lease, 'key' | 'epoch'>;

/** Who a process is. */
export interface ProcessIdentity {
  readonly id: string;
  /** For people. */
  readonly address: string;
  /** The id of the store's folder. */
  readonly folder: string;
  /** Where other replicas reach this one; `undefined` if there are none. */
  readonly replica: string | undefined;
  /** Whether it is a thread of a process that has a row of its own. */
  readonly isThread: boolean;
}

/** Call within a write. Returns the name of the Presence that begins, or of the one that has just begun. */
export async function join(
  on: PostgresSession,
  { id, address, folder, replica, isThread }: ProcessIdentity,
): Promise<string> {
  await passEpochs(on);
  const row = await on.row<PresenceRow>(
    `INSERT INTO @processes (id, address, folder, replica, is_thread, beat_at)
    VALUES ($1, $2, $3, $4, $5, clock_timestamp())
    ON CONFLICT (id) DO UPDATE SET beat_at = excluded.beat_at RETURNING presence::text AS name`,
    [id, address, folder, replica ?? null, isThread],
  );
  if (row === undefined) throw new Error('internal error: a process without a row');
  return row.name;
}

interface PresenceRow {
  readonly name: string;
}

/**
 * Raises the next epoch to the time: after a backup was restored, none comes again that was given out since it was made,
 * under which the spool may have bytes. Epochs are given out more slowly than milliseconds pass.
 */
async function passEpochs(on: PostgresSession): Promise<void> {
  // Nobody takes an epoch meanwhile.
  await on.rows('LOCK TABLE @leases IN SHARE ROW EXCLUSIVE MODE');
  await on.rows(
    `SELECT setval(epochs.name, epochs.now_ms)
    FROM (SELECT pg_get_serial_sequence('@leases', 'epoch')::regclass AS name,
      (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms) epochs
    WHERE coalesce(pg_sequence_last_value(epochs.name), 0) < epochs.now_ms`,
  );
}

/** Shows that the process lives. The name of its Presence; `undefined` if others have removed it as dead. */
export async function beat(on: PostgresSession, id: string): Promise<string | undefined> {
  const row = await on.row<PresenceRow>(
    'UPDATE @processes SET beat_at = clock_timestamp() WHERE id = $1 RETURNING presence::text AS name',
    [id],
  );
  return row?.name;
}

/** Whether the process has a row, which then stays until the transaction ends. */
export async function hasJoined(on: PostgresSession, id: string): Promise<boolean> {
  return (await on.row('SELECT 1 FROM @processes WHERE id = $1 FOR KEY SHARE', [id])) !== undefined;
}

/** Whether the Presence with this name lasts, as it then does until the transaction ends. */
export async function isPresent(on: PostgresSession, name: string): Promise<boolean> {
  return (
    (await on.row('SELECT 1 FROM @processes WHERE presence::text = $1 FOR KEY SHARE', [name])) !== undefined
  );
}

/** Whether the process has a row and, if `sender` is given, the Presence of that name has not ended. */
export async function arePresent(on: Rows, id: string, sender: string | undefined): Promise<boolean> {
  const rows = await on.rows('SELECT 1 FROM @processes WHERE id = $1 OR presence::text = $2', [
    id,
    sender ?? null,
  ]);
  return rows.length === (sender === undefined ? 1 : 2);
}

export interface OtherProcess {
  readonly id: string;
  readonly folder: string;
  readonly replica: string | null;
  readonly address: string;
}

/** The other processes. */
export async function otherProcesses(on: Rows, id: string): Promise<readonly OtherProcess[]> {
  return on.rows('SELECT id, folder, replica, address FROM @processes WHERE id <> $1', [id]);
}

/** Threads are not counted. */
export async function hasOthers(on: Rows, id: string): Promise<boolean> {
  return (
    (await on.row('SELECT 1 FROM @processes WHERE id <> $1 AND NOT is_thread LIMIT 1', [id])) !== undefined
  );
}

/**
 * Removes processes without a heartbeat for DEAD_AFTER_MS; their Leases end. Returns their addresses. One that is in the
 * middle of a write is left to a later call: a heartbeat must not wait for it. A heartbeat in the future, from before the
 * clock was set back, counts as one of now.
 */
export async function removeSuspended(on: PostgresSession): Promise<readonly string[]> {
  const rows = await on.rows<{ address: string }>(
    `WITH ahead AS (
      UPDATE @processes SET beat_at = clock_timestamp() WHERE id IN (
        SELECT id FROM @processes WHERE beat_at > clock_timestamp() + make_interval(secs => $1)
        FOR NO KEY UPDATE SKIP LOCKED))
    DELETE FROM @processes WHERE id IN (
      SELECT id FROM @processes WHERE beat_at < clock_timestamp() - make_interval(secs => $1) FOR UPDATE SKIP LOCKED)
    RETURNING address`,
    [DEAD_AFTER_MS / 1000],
  );
  return rows.map(({ address }) => address);
}

/** Removes processes that certainly write no more, so that others may continue their work in place. */
export async function removeGone(on: PostgresSession, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await on.changes('DELETE FROM @processes WHERE id = ANY($1)', [ids]);
  await on.changes(
    'UPDATE @leases SET process_id = NULL, used_at = clock_timestamp() WHERE process_id = ANY($1)',
    [ids],
  );
}

/** Removes Leases that were left long ago, as by replicas whose folders were lost: nobody else would look for them. */
export async function removeLongLeft(on: PostgresSession): Promise<void> {
  // None that somebody is just taking, or that a process which comes back finds to be its own.
  await on.changes(
    `DELETE FROM @leases WHERE epoch IN (
      SELECT l.epoch FROM @leases l
      WHERE l.used_at < clock_timestamp() - make_interval(days => $1)
        AND NOT EXISTS (SELECT 1 FROM @processes p WHERE p.id = l.process_id)
      FOR UPDATE SKIP LOCKED)`,
    [LEFT_FOR_DAYS],
  );
}

export async function countProcesses(on: Rows): Promise<number> {
  const row = await on.row<{ live: number }>('SELECT count(*) AS live FROM @processes WHERE NOT is_thread');
  return row?.live ?? 0;
}

/** As `MetadataStore.endLeaseOfGone`; `folder`: that of this process. */
export async function endLeaseOfGone(
  on: PostgresSession,
  { key, epoch }: LeaseName,
  folder: string,
): Promise<boolean> {
  const ended = await on.changes(
    `DELETE FROM @leases l USING @processes p
    WHERE l.key = $1 AND l.epoch = $2 AND p.id = l.process_id AND p.replica IS NOT NULL AND p.folder <> $3
      AND p.beat_at < clock_timestamp() - make_interval(secs => $4)`,
    [key, epoch, folder, GONE_AFTER_MS / 1000],
  );
  return ended > 0;
}

interface LeaseRow {
  readonly epoch: number;
  readonly process_id: string | null;
  readonly holder: string | null;
  readonly elsewhere: string | null;
}

/** A Lease, with the id of the process that holds it or has left it. */
type NamedLeaseState = LeaseState & { readonly processId: string | undefined };

/** `folder`: that of this process. */
export async function readLease(on: Rows, key: string, folder: string): Promise<NamedLeaseState | undefined> {
  const row = await on.row<LeaseRow>(
    `SELECT l.epoch, l.process_id, p.address AS holder,
      CASE WHEN p.folder <> $2 THEN p.replica END AS elsewhere
    FROM @leases l LEFT JOIN @processes p ON p.id = l.process_id WHERE l.key = $1`,
    [key, folder],
  );
  return row && stateOf(row);
}

function stateOf({ epoch, process_id: processId, holder, elsewhere }: LeaseRow): NamedLeaseState {
  return {
    epoch,
    processId: processId ?? undefined,
    isHeld: holder !== null,
    holder: holder ?? undefined,
    elsewhere: elsewhere ?? undefined,
  };
}

/** The result of an attempt to acquire a Lease. */
export type Taking =
  | { readonly taken: Pick<Lease, 'epoch' | 'left'> }
  /** A process with a row holds it, which may be this one. */
  | { readonly held: NamedLeaseState }
  /** Nobody holds it, but this process has no row, or somebody has left work behind. */
  | 'left';

/**
 * Takes a Lease of which the index knows nothing. Every replica that wants a new image tries this at the same moment, and all but
 * one wait for that one's commit.
 */
export async function takeNewLease(
  on: PostgresSession,
  key: string,
  { id, folder }: Pick<ProcessIdentity, 'id' | 'folder'>,
): Promise<Taking> {
  const taken = await on.row<{ epoch: number }>(
    `INSERT INTO @leases (key, process_id) SELECT $1, id FROM @processes WHERE id = $2 FOR KEY SHARE
    ON CONFLICT (key) DO NOTHING RETURNING epoch`,
    [key, id],
  );
  if (taken !== undefined) return { taken: { epoch: taken.epoch, left: undefined } };
  // Another statement, so that it sees the row that the first one may have waited for. Nothing was written, so no sync is needed.
  const row = await on.row<LeaseRow>(
    `SELECT l.epoch, l.process_id, p.address AS holder,
      CASE WHEN p.folder <> $2 THEN p.replica END AS elsewhere, set_config('synchronous_commit', 'off', true)
    FROM @leases l JOIN @processes p ON p.id = l.process_id WHERE l.key = $1`,
    [key, folder],
  );
  return row === undefined ? 'left' : { held: stateOf(row) };
}

/** Takes a Lease that may have been left behind. `undefined` if a process with a row holds it, including this one. */
export async function takeLease(
  on: PostgresSession,
  key: string,
  processId: string,
): Promise<Pick<Lease, 'epoch' | 'left'> | undefined> {
  const before = await on.row<{ epoch: number; process_id: string | null }>(
    'SELECT epoch, process_id FROM @leases WHERE key = $1 FOR UPDATE',
    [key],
  );
  // Another statement, which sees a holder that came back while this one waited.
  if (before?.process_id != null && (await isAlive(on, before.process_id))) return undefined;
  if (before !== undefined) await on.changes('DELETE FROM @leases WHERE epoch = $1', [before.epoch]);
  // Another process may be taking it, too.
  const taken = await on.row<{ epoch: number }>(
    'INSERT INTO @leases (key, process_id) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING RETURNING epoch',
    [key, processId],
  );
  return (
    taken && {
      epoch: taken.epoch,
      left: before && { epoch: before.epoch, mayWrite: before.process_id !== null },
    }
  );
}

/** Whether the process has a row now. */
export async function isAlive(on: Rows, processId: string): Promise<boolean> {
  return (await on.row('SELECT 1 FROM @processes WHERE id = $1', [processId])) !== undefined;
}

/** Throws LeaseLost unless the Lease is this process's, and will be until the transaction ends. */
export async function requireLease(
  on: PostgresSession,
  { key, epoch }: Lease,
  processId: string,
): Promise<void> {
  const row = await on.row('SELECT 1 FROM @leases WHERE epoch = $1 AND process_id = $2 FOR SHARE', [
    epoch,
    processId,
  ]);
  if (row === undefined) throw new LeaseLost(key);
}

/** Like `requireLease`, for a connection that belongs to no process: the Lease was neither acquired again nor released. */
export async function requireNotTaken(on: PostgresSession, { key, epoch }: LeaseName): Promise<void> {
  const row = await on.row('SELECT 1 FROM @leases WHERE epoch = $1 FOR SHARE', [epoch]);
  if (row === undefined) throw new LeaseLost(key);
}

/** Those of these Leases that are this process's, for work that is done. */
export async function releaseLeases(
  on: PostgresSession,
  epochs: readonly number[],
  processId: string,
): Promise<void> {
  await on.changes('DELETE FROM @leases WHERE epoch = ANY($1) AND process_id = $2', [epochs, processId]);
}

/** The same for work that the next holder may continue. */
export async function setLeasesAside(
  on: PostgresSession,
  epochs: readonly number[],
  processId: string,
): Promise<void> {
  await on.changes(
    `UPDATE @leases SET process_id = NULL, used_at = clock_timestamp()
    WHERE epoch = ANY($1) AND process_id = $2`,
    [epochs, processId],
  );
}

/** A transaction's id with its epoch, which is never used again (`xid8`). */
export type TransactionId = bigint;

/** Call within a write. All transactions before `oldest` have ended; `own` is this one. */
export async function transactionsUnderWay(
  on: PostgresSession,
): Promise<{ readonly oldest: TransactionId; readonly own: TransactionId }> {
  const row = await on.row<{ oldest: string; own: string }>(
    'SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS oldest, pg_current_xact_id()::text AS own',
  );
  if (row === undefined) throw new Error('internal error: a transaction without an id');
  return { oldest: BigInt(row.oldest), own: BigInt(row.own) };
}

/** The epochs of all Leases of this process, which it has until the transaction ends. */
export async function ownEpochs(on: PostgresSession, processId: string): Promise<ReadonlySet<number>> {
  const rows = await on.rows<{ epoch: number }>('SELECT epoch FROM @leases WHERE process_id = $1 FOR SHARE', [
    processId,
  ]);
  return new Set(rows.map(({ epoch }) => epoch));
}
