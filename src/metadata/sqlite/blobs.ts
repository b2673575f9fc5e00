import type { Digest } from '../../oci/digest.ts';
import type { BlobRecord, Totals } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';

interface TotalsRow {
  readonly repositories: number;
  readonly manifests: number;
  readonly manifest_bytes: number;
  readonly blobs: number;
  readonly blob_bytes: number;
}

/** Stored blobs. */
export class Blobs {
  readonly #select: Statement<[Digest], { size: number; key: string | null }>;
  readonly #insert: Statement<[Digest, number, string | null, number, number]>;
  readonly #delete: Statement<[Digest]>;
  readonly #touch: Statement<[number, Digest, number]>;
  readonly #selectTotals: Statement<[], TotalsRow>;

  constructor(connection: Connection) {
    this.#select = connection.prepare('SELECT size, key FROM blobs WHERE digest = ?');
    this.#insert = connection.prepare(`
      INSERT INTO blobs (digest, size, key, created_at_ms, used_at_ms) VALUES (?, ?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET used_at_ms = excluded.used_at_ms, key = excluded.key`);
    this.#delete = connection.prepare('DELETE FROM blobs WHERE digest = ?');
    this.#touch = connection.prepare('UPDATE blobs SET used_at_ms = ? WHERE digest = ? AND used_at_ms < ?');
    this.#selectTotals = connection.prepare(
      'SELECT repositories, manifests, manifest_bytes, blobs, blob_bytes FROM totals WHERE id = 1',
    );
  }

  stat(digest: Digest): BlobRecord | undefined {
    const row = this.#select.get(digest);
    return row && (row.key === null ? { size: row.size } : { size: row.size, key: row.key });
  }

  /** A row with another size was damaged: the bytes that are stored now were verified. */
  put(digest: Digest, size: number, key?: string): void {
    if (this.stat(digest)?.size !== size) this.remove(digest);
    const nowMs = Date.now();
    this.#insert.run(digest, size, key ?? null, nowMs, nowMs);
  }

  remove(digest: Digest): boolean {
    return this.#delete.run(digest).changes > 0;
  }

  noteUse(digest: Digest, atMs: number, unlessSinceMs: number): void {
    this.#touch.run(atMs, digest, unlessSinceMs);
  }

  totals(): Totals {
    const row = this.#selectTotals.get();
    if (row === undefined) {
      throw new Error('internal error: the index has lost its totals');
    }
    return {
      repositories: row.repositories,
      manifests: row.manifests,
      manifestBytes: row.manifest_bytes,
      blobs: row.blobs,
      blobBytes: row.blob_bytes,
    };
  }
}
