import type { LeftLease } from '../../lib/lease.ts';
import type { Connection, Statement } from './connection.ts';

/** The end of the id of a thread, which is counted with its process. */
export const THREAD = '-thread';

/** A live process, with the number of its last heartbeat. */
export interface ProcessRow {
  readonly id: string;
  readonly heartbeat: number;
}

/** The state of a Lease. */
export interface LeaseRow {
  readonly epoch: number;
  /** The current or last holder; `undefined` if it was given back. */
  readonly processId: string | undefined;
  /** Whether that process has a row. */
  readonly isHeld: boolean;
  /** That process, for people; `undefined` if it has no row. */
  readonly holder: string | undefined;
}

/**
 * How many epochs are skipped when a process starts. Leases are acquired without a sync, so the index may not remember
 * the last ones after a power failure, while files named after their epochs are still there. Far fewer are lost at once:
 * the system writes what is not synced within half a minute.
 */
const SKIPPED_EPOCHS = 1_000_000;

/** The processes on this store, and their Leases. A Lease is held while its process has a row. */
export class LeaseRows {
  readonly #insertProcess: Statement<[string, string]>;
  readonly #skipEpochs: Statement<[]>;
  readonly #beginEpochs: Statement<[]>;
  readonly #beat: Statement<[string]>;
  readonly #selectProcesses: Statement<[], ProcessRow>;
  readonly #selectOther: Statement<[string]>;
  readonly #deleteProcess: Statement<[string, number]>;
  readonly #select: Statement<[string], { epoch: number; process_id: string | null; holder: string | null }>;
  readonly #selectOwn: Statement<[number, string]>;
  readonly #selectProcess: Statement<[string]>;
  readonly #insert: Statement<[string, string]>;
  readonly #deleteEpoch: Statement<[number]>;
  readonly #delete: Statement<[number, string]>;
  readonly #setAside: Statement<[number, string]>;
  readonly #setAsideOf: Statement<[string]>;

  constructor(connection: Connection) {
    this.#insertProcess = connection.prepare(
      'INSERT INTO processes (id, heartbeat, address) VALUES (?, 1, ?)',
    );
    this.#skipEpochs = connection.prepare(
      `UPDATE sqlite_sequence SET seq = seq + ${SKIPPED_EPOCHS} WHERE name = 'leases'`,
    );
    this.#beginEpochs = connection.prepare(
      `INSERT INTO sqlite_sequence (name, seq) VALUES ('leases', ${SKIPPED_EPOCHS})`,
    );
    this.#beat = connection.prepare('UPDATE processes SET heartbeat = heartbeat + 1 WHERE id = ?');
    this.#selectProcesses = connection.prepare('SELECT id, heartbeat FROM processes');
    this.#selectOther = connection.prepare(
      `SELECT 1 FROM processes WHERE id <> ? AND id NOT LIKE '%${THREAD}' LIMIT 1`,
    );
    this.#deleteProcess = connection.prepare('DELETE FROM processes WHERE id = ? AND heartbeat = ?');
    this.#select = connection.prepare(`
      SELECT l.epoch, l.process_id, p.address AS holder
      FROM leases l LEFT JOIN processes p ON p.id = l.process_id WHERE l.key = ?`);
    this.#selectOwn = connection.prepare('SELECT 1 FROM leases WHERE epoch = ? AND process_id = ?');
    this.#selectProcess = connection.prepare('SELECT 1 FROM processes WHERE id = ?');
    this.#insert = connection.prepare('INSERT INTO leases (key, process_id) VALUES (?, ?)');
    this.#deleteEpoch = connection.prepare('DELETE FROM leases WHERE epoch = ?');
    this.#delete = connection.prepare('DELETE FROM leases WHERE epoch = ? AND process_id = ?');
    this.#setAside = connection.prepare(
      'UPDATE leases SET process_id = NULL WHERE epoch = ? AND process_id = ?',
    );
    this.#setAsideOf = connection.prepare('UPDATE leases SET process_id = NULL WHERE process_id = ?');
  }

  /** `address` names the process for people. */
  join(processId: string, address: string): void {
    this.#insertProcess.run(processId, address);
  }

  /**
   * Must be on disk before this process acquires a Lease without a sync: no epoch is ever used twice. Never call it in a
   * write that is not synced, since the next process would skip to the same epochs after a power failure.
   */
  skipEpochs(): void {
    if (this.#skipEpochs.run().changes === 0) this.#beginEpochs.run();
  }

  /** False if others have removed the process as dead. */
  beat(processId: string): boolean {
    return this.#beat.run(processId).changes > 0;
  }

  processes(): readonly ProcessRow[] {
    return this.#selectProcesses.all();
  }

  /** Threads are not counted. */
  hasOthers(processId: string): boolean {
    return this.#selectOther.get(processId) !== undefined;
  }

  /**
   * Removes the process unless its heartbeat has changed from `heartbeat`; its Leases end with it. `isGone`: it
   * certainly writes no more, so others may continue its ingests in place.
   */
  removeProcess({ id, heartbeat }: ProcessRow, { isGone }: { readonly isGone: boolean }): void {
    const isRemoved = this.#deleteProcess.run(id, heartbeat).changes > 0;
    if (isRemoved && isGone) {
      this.#setAsideOf.run(id);
    }
  }

  read(key: string): LeaseRow | undefined {
    const row = this.#select.get(key);
    if (row === undefined) return undefined;
    const { epoch, process_id: processId, holder } = row;
    return {
      epoch,
      processId: processId ?? undefined,
      isHeld: holder !== null,
      holder: holder ?? undefined,
    };
  }

  /** `undefined` if a process with a row holds it, including this one. */
  take(key: string, processId: string): { epoch: number; left: LeftLease | undefined } | undefined {
    const before = this.read(key);
    if (before?.isHeld === true) {
      return undefined;
    }
    if (before !== undefined) {
      this.#deleteEpoch.run(before.epoch);
    }
    const epoch = Number(this.#insert.run(key, processId).lastInsertRowid);
    return { epoch, left: before && { epoch: before.epoch, mayWrite: before.processId !== undefined } };
  }

  hasProcess(processId: string): boolean {
    return this.#selectProcess.get(processId) !== undefined;
  }

  isOwn(epoch: number, processId: string): boolean {
    return this.#selectOwn.get(epoch, processId) !== undefined;
  }

  /** For work that is done. Like `setAside`, it has no effect if the Lease belongs to another process by now. */
  release(epoch: number, processId: string): void {
    this.#delete.run(epoch, processId);
  }

  /** For work that the next holder may continue. */
  setAside(epoch: number, processId: string): void {
    this.#setAside.run(epoch, processId);
  }
}
