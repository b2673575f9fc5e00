import type { GoneReplica, ReplicaPlace } from '../metadata-store.ts';
import type { ProcessIdentity } from './leases.ts';
import type { PostgresSession, Rows } from './session.ts';

// The replicas, from the rows of their processes, and from those of their servers, which remain when a server dies.

/** For how long a replica is reported that disappeared: longer than anybody takes to respond to an alert. */
const TOLD_FOR_HOURS = 1;

export async function listReplicas(on: Rows): Promise<readonly ReplicaPlace[]> {
  return on.rows(
    'SELECT DISTINCT folder AS id, replica AS address FROM @processes WHERE replica IS NOT NULL ORDER BY folder',
  );
}

export async function listGoneReplicas(on: Rows): Promise<readonly GoneReplica[]> {
  return on.rows<GoneReplica>(
    `SELECT folder AS id, address, (extract(epoch FROM gone_since) * 1000)::bigint AS "goneSinceMs"
    FROM @serving_replicas WHERE gone_since > clock_timestamp() - make_interval(hours => $1) ORDER BY address`,
    [TOLD_FOR_HOURS],
  );
}

/**
 * Call within a write when the process serves: from now on it is reported if it disappears without shutting down. Its
 * predecessor at the address, or on the folder, is no longer reported.
 */
export async function beginServing(
  on: PostgresSession,
  { id, folder, replica }: Pick<ProcessIdentity, 'id' | 'folder' | 'replica'>,
): Promise<void> {
  if (replica === undefined) return;
  await on.changes(
    `DELETE FROM @serving_replicas
    WHERE folder = $1 AND address <> $2 OR gone_since < clock_timestamp() - make_interval(hours => $3)`,
    [folder, replica, TOLD_FOR_HOURS],
  );
  await on.changes(
    `INSERT INTO @serving_replicas (address, folder, process_id) VALUES ($1, $2, $3)
    ON CONFLICT (address) DO UPDATE
    SET folder = excluded.folder, process_id = excluded.process_id, gone_since = NULL`,
    [replica, folder, id],
  );
}

/** Call within the write that removes the row of the process, after that. */
export async function endServing(on: PostgresSession, processId: string): Promise<void> {
  await on.changes('DELETE FROM @serving_replicas WHERE process_id = $1', [processId]);
}
