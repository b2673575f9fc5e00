import type { Repository } from '../../oci/repository.ts';
import type { Upload } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';

interface Row {
  readonly id: string;
  readonly upstream: string;
  readonly name: string;
  readonly requester: string;
  readonly started_at_ms: number;
  readonly touched_at_ms: number;
}

/** Unfinished uploads. Their number is limited for each repository and requester, so counting reads few rows. */
export class UploadRows {
  readonly #select: Statement<[string], Row>;
  readonly #count: Statement<[string, string], { uploads: number }>;
  readonly #countOf: Statement<[string], { uploads: number }>;
  readonly #selectUntouched: Statement<[number, number], Row>;
  readonly #upsert: Statement<[string, string, string, string, number, number]>;
  readonly #delete: Statement<[string]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare('SELECT * FROM uploads WHERE id = ?');
    this.#count = connection.prepare(
      'SELECT count(*) AS uploads FROM uploads WHERE upstream = ? AND name = ?',
    );
    this.#countOf = connection.prepare('SELECT count(*) AS uploads FROM uploads WHERE requester = ?');
    this.#selectUntouched = connection.prepare(
      'SELECT * FROM uploads WHERE touched_at_ms < ? ORDER BY touched_at_ms LIMIT ?',
    );
    this.#upsert = connection.prepare(`
      INSERT INTO uploads (id, upstream, name, requester, started_at_ms, touched_at_ms) VALUES (?, ?, ?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET touched_at_ms = excluded.touched_at_ms`);
    this.#delete = connection.prepare('DELETE FROM uploads WHERE id = ?');
  }

  read(id: string): Upload | undefined {
    const row = this.#select.get(id);
    return row && toUpload(row);
  }

  count({ upstream, name }: Repository): number {
    return this.#count.get(upstream, name)?.uploads ?? 0;
  }

  countOf(requester: string): number {
    return this.#countOf.get(requester)?.uploads ?? 0;
  }

  listUntouched(sinceMs: number, limit: number): readonly Upload[] {
    return this.#selectUntouched.all(sinceMs, limit).map(toUpload);
  }

  put({ id, repository, requester, startedAtMs, touchedAtMs }: Upload): void {
    this.#upsert.run(id, repository.upstream, repository.name, requester, startedAtMs, touchedAtMs);
  }

  remove(id: string): boolean {
    return this.#delete.run(id).changes > 0;
  }
}

function toUpload(row: Row): Upload {
  return {
    id: row.id,
    repository: { upstream: row.upstream, name: row.name },
    requester: row.requester,
    startedAtMs: row.started_at_ms,
    touchedAtMs: row.touched_at_ms,
  };
}
