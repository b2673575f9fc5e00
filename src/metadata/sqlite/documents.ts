import type { Repository } from '../../oci/repository.ts';
import type { Document } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';

interface Row {
  readonly media_type: string;
  readonly checked_at_ms: number;
  readonly bytes: Buffer;
}

/** Documents of upstreams other than manifests. */
export class Documents {
  readonly #select: Statement<[string, string, string], Row>;
  readonly #upsert: Statement<[number, string, string, number, Uint8Array]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare(`
      SELECT d.media_type, d.checked_at_ms, d.bytes
      FROM repositories r JOIN documents d ON d.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND d.name = ?`);
    this.#upsert = connection.prepare(`
      INSERT INTO documents (repository_id, name, media_type, checked_at_ms, bytes) VALUES (?, ?, ?, ?, ?)
      ON CONFLICT DO UPDATE
      SET media_type = excluded.media_type, checked_at_ms = excluded.checked_at_ms, bytes = excluded.bytes`);
  }

  read(repository: Repository, name: string): Document | undefined {
    const row = this.#select.get(repository.upstream, repository.name, name);
    return row && { mediaType: row.media_type, checkedAtMs: row.checked_at_ms, bytes: row.bytes };
  }

  put(repositoryId: number, name: string, { mediaType, checkedAtMs, bytes }: Document): void {
    this.#upsert.run(repositoryId, name, mediaType, checkedAtMs, bytes);
  }
}
