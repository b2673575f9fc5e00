import type { Connection, Statement } from './connection.ts';

/** Ends of rights, by slot. */
export class EndedRightRows {
  readonly #count: Statement<[], { ends: number }>;
  readonly #upsert: Statement<[{ slot: number; processId: string }]>;
  readonly #select: Statement<[number, number, string]>;

  constructor(connection: Connection) {
    this.#count = connection.prepare('SELECT coalesce(max(ends), 0) AS ends FROM ended_rights');
    this.#upsert = connection.prepare(`
      INSERT INTO ended_rights (slot, ends, process_id)
      VALUES (@slot, (SELECT coalesce(max(ends), 0) + 1 FROM ended_rights), @processId)
      ON CONFLICT DO UPDATE SET ends = excluded.ends,
        process_id = iif(process_id = excluded.process_id, process_id, '')`);
    this.#select = connection.prepare(
      'SELECT 1 FROM ended_rights WHERE slot = ? AND ends > ? AND process_id <> ?',
    );
  }

  /** How many ends there have been. */
  count(): number {
    return this.#count.get()?.ends ?? 0;
  }

  add(slot: number, processId: string): void {
    this.#upsert.run({ slot, processId });
  }

  /** Whether another process has noted an end in one of the slots after the first `ends`. */
  hasAfter(ends: number, slots: readonly number[], processId: string): boolean {
    return slots.some(slot => this.#select.get(slot, ends, processId) !== undefined);
  }
}
