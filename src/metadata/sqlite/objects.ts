import type { Digest } from '../../oci/digest.ts';
import type { BlobObject, ComingObject, GivenUpObject } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import * as reachability from './reachability.ts';

/** Objects that no row of a blob names: those that are about to be made, and those that are to be removed. */
export class Objects {
  readonly #announce: Statement<[string, Digest, string | null, number, number]>;
  readonly #settle: Statement<[string]>;
  readonly #giveUp: Statement<[number, string]>;
  readonly #giveUpAbandoned: Statement<[{ nowMs: number; beforeMs: number }]>;
  readonly #select: Statement<[string]>;
  readonly #keep: Statement<[string]>;
  readonly #selectIsUnknown: Statement<[BlobObject], { unknown: number }>;
  readonly #insertGivenUp: Statement<[string, Digest, number]>;
  readonly #selectGivenUp: Statement<[number, number], { key: string; upload_id: string | null }>;
  readonly #forget: Statement<[string]>;

  constructor(connection: Connection) {
    this.#announce = connection.prepare(
      'INSERT INTO objects (key, digest, upload_id, epoch, since_ms) VALUES (?, ?, ?, ?, ?)',
    );
    this.#settle = connection.prepare('DELETE FROM objects WHERE key = ? AND epoch IS NOT NULL');
    this.#giveUp = connection.prepare(
      'UPDATE objects SET epoch = NULL, since_ms = ? WHERE key = ? AND epoch IS NOT NULL',
    );
    this.#giveUpAbandoned = connection.prepare(`
      UPDATE objects SET epoch = NULL, since_ms = @nowMs
      WHERE epoch IS NOT NULL AND since_ms < @beforeMs AND NOT EXISTS (
        SELECT 1 FROM leases c JOIN processes p ON p.id = c.process_id WHERE c.epoch = objects.epoch)`);
    this.#select = connection.prepare('SELECT 1 FROM objects WHERE key = ?');
    this.#keep = connection.prepare('DELETE FROM objects WHERE key = ? AND epoch IS NULL');
    this.#selectIsUnknown = connection.prepare(
      `SELECT ${reachability.isUnknownObject('@digest', '@key')} AS unknown`,
    );
    this.#insertGivenUp = connection.prepare('INSERT INTO objects (key, digest, since_ms) VALUES (?, ?, ?)');
    this.#selectGivenUp = connection.prepare(`
      SELECT key, upload_id FROM objects WHERE epoch IS NULL AND since_ms < ? ORDER BY since_ms LIMIT ?`);
    this.#forget = connection.prepare('DELETE FROM objects WHERE key = ?');
  }

  announce({ key, digest, uploadId }: ComingObject, epoch: number): void {
    this.#announce.run(key, digest, uploadId ?? null, epoch, Date.now());
  }

  /** Whether it is announced or given up. */
  has(key: string): boolean {
    return this.#select.get(key) !== undefined;
  }

  /** Call when a row is about to name the object. False if it was given up. */
  settle(key: string): boolean {
    return this.#settle.run(key).changes > 0;
  }

  giveUp(key: string): void {
    this.#giveUp.run(Date.now(), key);
  }

  giveUpAbandoned(beforeMs: number): void {
    this.#giveUpAbandoned.run({ nowMs: Date.now(), beforeMs });
  }

  /** Call for an object that lost its row, but may still be of use. */
  keep(key: string): void {
    this.#keep.run(key);
  }

  /** Whether neither a row nor anything else says that the object should be there. */
  isUnknown({ key, digest }: BlobObject): boolean {
    return this.#selectIsUnknown.get({ key, digest })?.unknown === 1;
  }

  giveUpStray(object: BlobObject): boolean {
    const isStray = this.isUnknown(object);
    if (isStray) this.#insertGivenUp.run(object.key, object.digest, Date.now());
    return isStray;
  }

  listGivenUp(beforeMs: number, limit: number): readonly GivenUpObject[] {
    return this.#selectGivenUp
      .all(beforeMs, limit)
      .map(({ key, upload_id: uploadId }) => ({ key, uploadId: uploadId ?? undefined }));
  }

  forget(key: string): void {
    this.#forget.run(key);
  }
}
