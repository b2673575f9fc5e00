import type { Digest } from '../oci/digest.ts';
import { Connection, type Statement } from './sqlite/connection.ts';
import { BLOBS_IN, IN_BUCKET } from './store-identity.ts';
import { isLinkedManifest, isLost } from './sqlite/reachability.ts';
import type { LostContent } from './survey.ts';

/** How many rows are read at a time. */
const ROWS_PER_PAGE = 1_000;

export interface SnapshotBlob {
  readonly digest: Digest;
  readonly size: number;
}

/** A copy of an index as it was at one moment, in a file of its own. The caller closes it; the file stays. */
export class IndexSnapshot {
  readonly path: string;
  readonly #source: string;
  readonly #connection: Connection;
  readonly #blobs: Statement<[string], SnapshotBlob>;

  private constructor(path: string, source: string, connection: Connection) {
    this.path = path;
    this.#source = source;
    this.#connection = connection;
    this.#blobs = connection.prepare(
      `SELECT digest, size FROM blobs WHERE digest > ? ORDER BY digest LIMIT ${ROWS_PER_PAGE}`,
    );
  }

  /**
   * Copies the index in `from` to the new file `to` in one read transaction, while others may write. Work in progress
   * is left out: processes, their Leases, and uploads, whose bytes are not blobs yet.
   */
  static async take(from: string, to: string): Promise<IndexSnapshot> {
    const source = await Connection.openReadOnly(from);
    try {
      source.execute(`VACUUM INTO '${to.replaceAll("'", "''")}'`);
    } finally {
      source.close();
    }
    const copy = await Connection.open(to);
    copy.execute(
      'DELETE FROM leases; DELETE FROM processes; DELETE FROM uploads; PRAGMA journal_mode = DELETE',
    );
    return new IndexSnapshot(to, from, copy);
  }

  /** The number and total size of blobs that it says are stored. */
  totals(): { readonly blobs: number; readonly blobBytes: number } {
    const row = this.#connection
      .prepare<[], { blobs: number; blob_bytes: number }>('SELECT blobs, blob_bytes FROM totals WHERE id = 1')
      .get();
    return { blobs: row?.blobs ?? 0, blobBytes: row?.blob_bytes ?? 0 };
  }

  /** Whether the blobs are in a bucket, whose objects the rows name. */
  get isOfBucket(): boolean {
    const select = this.#connection.prepare<[string], { value: string }>(
      'SELECT value FROM settings WHERE name = ?',
    );
    return select.get(BLOBS_IN)?.value === IN_BUCKET;
  }

  /** Ordered by digest. */
  *blobs(): Generator<SnapshotBlob, void> {
    for (let page = this.#blobs.all(''); page.length > 0; page = this.#blobs.all(page.at(-1)?.digest ?? '')) {
      yield* page;
    }
  }

  /** Ordered by digest. */
  lost(): readonly LostContent[] {
    const select = this.#connection.prepare<[], LostContent>(`
      SELECT iif(${isLinkedManifest('q.digest')}, 'manifest', 'blob') AS kind, q.digest, q.reason
      FROM quarantine q WHERE ${isLost('q.digest')} ORDER BY q.digest`);
    return select.all();
  }

  /**
   * Whether the index has removed the row of a blob since the snapshot, other than for damage: it was garbage, or was evicted.
   * False if that cannot be found out.
   */
  async hasRemoved(digest: string): Promise<boolean> {
    let live: Connection | undefined;
    try {
      live = await Connection.openReadOnly(this.#source);
      const select = live.prepare<[{ digest: string }], { removed: number }>(`
        SELECT NOT EXISTS (SELECT 1 FROM blobs WHERE digest = @digest)
          AND NOT EXISTS (SELECT 1 FROM quarantine WHERE digest = @digest) AS removed`);
      return select.get({ digest })?.removed === 1;
    } catch {
      return false;
    } finally {
      live?.close();
    }
  }

  close(): void {
    this.#connection.close();
  }
}
