import type { Connection, Statement } from './connection.ts';

export interface ProcessRow {
  readonly id: string;
  readonly heartbeat: number;
}

/** Processes on this store, and the leases that they hold. A lease counts while its process has a row. */
export class Claims {
  readonly #insertProcess: Statement<[string]>;
  readonly #beat: Statement<[string]>;
  readonly #selectProcesses: Statement<[], ProcessRow>;
  readonly #deleteProcess: Statement<[string, number]>;
  readonly #upsert: Statement<[string, string]>;
  readonly #selectLive: Statement<[string]>;
  readonly #delete: Statement<[string, string]>;
  readonly #deleteOf: Statement<[string]>;

  constructor(connection: Connection) {
    this.#insertProcess = connection.prepare('INSERT INTO processes (id, heartbeat) VALUES (?, 1)');
    this.#beat = connection.prepare('UPDATE processes SET heartbeat = heartbeat + 1 WHERE id = ?');
    this.#selectProcesses = connection.prepare('SELECT id, heartbeat FROM processes');
    this.#deleteProcess = connection.prepare('DELETE FROM processes WHERE id = ? AND heartbeat = ?');
    this.#upsert = connection.prepare(`
      INSERT INTO claims (key, process_id) VALUES (?, ?)
      ON CONFLICT DO UPDATE SET process_id = excluded.process_id
      WHERE claims.process_id NOT IN (SELECT id FROM processes)`);
    this.#selectLive = connection.prepare(
      'SELECT 1 FROM claims JOIN processes ON id = process_id WHERE key = ?',
    );
    this.#delete = connection.prepare('DELETE FROM claims WHERE key = ? AND process_id = ?');
    this.#deleteOf = connection.prepare('DELETE FROM claims WHERE process_id = ?');
  }

  join(processId: string): void {
    this.#insertProcess.run(processId);
  }

  /** False when others have removed the process for dead. */
  beat(processId: string): boolean {
    return this.#beat.run(processId).changes > 0;
  }

  processes(): readonly ProcessRow[] {
    return this.#selectProcesses.all();
  }

  /** Removes the process with its leases, unless it has moved on from `heartbeat`. */
  removeProcess({ id, heartbeat }: ProcessRow): boolean {
    const isRemoved = this.#deleteProcess.run(id, heartbeat).changes > 0;
    if (isRemoved) {
      this.#deleteOf.run(id);
    }
    return isRemoved;
  }

  /** False when a process that has a row holds it, this one included. */
  take(key: string, processId: string): boolean {
    return this.#upsert.run(key, processId).changes > 0;
  }

  isHeld(key: string): boolean {
    return this.#selectLive.get(key) !== undefined;
  }

  release(key: string, processId: string): void {
    this.#delete.run(key, processId);
  }
}
