import type { PostgresSession, Rows } from './session.ts';

// Ends of rights, by slot.

/**
 * Call first in a write, alone to note an end, and otherwise to rely on what is noted. Ends are then committed in the order
 * in which they are counted.
 */
export async function lockEnds(
  on: PostgresSession,
  space: number,
  { alone }: { readonly alone: boolean },
): Promise<void> {
  await on.rows(`SELECT pg_advisory_xact_lock${alone ? '' : '_shared'}($1, 0)`, [space]);
}

/** Call with the lock, alone. */
export async function addEnd(on: PostgresSession, slot: number, processId: string): Promise<void> {
  await on.changes(
    `INSERT INTO @ended_rights AS e (slot, ends, process_id)
    VALUES ($1, (SELECT coalesce(max(ends), 0) + 1 FROM @ended_rights), $2)
    ON CONFLICT (slot) DO UPDATE SET ends = excluded.ends,
      process_id = CASE WHEN e.process_id = excluded.process_id THEN e.process_id ELSE '' END`,
    [slot, processId],
  );
}

/** Whether another process has noted an end in one of the slots after the first `ends`. */
export async function hasEndAfter(
  on: Rows,
  ends: number,
  slots: readonly number[],
  processId: string,
): Promise<boolean> {
  const found = await on.row(
    'SELECT 1 FROM @ended_rights WHERE slot = ANY($1::integer[]) AND ends > $2 AND process_id <> $3',
    [slots, ends, processId],
  );
  return found !== undefined;
}
