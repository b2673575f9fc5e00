import type { Repository } from '../../oci/repository.ts';
import type { Connection, Statement } from './connection.ts';

/** What upkeep must not take: tags and digests of repositories. */
export class Pins {
  readonly #select: Statement<[string, string], { reference: string }>;
  readonly #insert: Statement<[number, string, number]>;
  readonly #delete: Statement<[number, string]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare(`
      SELECT p.reference
      FROM repositories r JOIN pins p ON p.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? ORDER BY p.reference`);
    this.#insert = connection.prepare(
      'INSERT INTO pins (repository_id, reference, created_at_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    );
    this.#delete = connection.prepare('DELETE FROM pins WHERE repository_id = ? AND reference = ?');
  }

  list({ upstream, name }: Repository): readonly string[] {
    return this.#select.all(upstream, name).map(row => row.reference);
  }

  put(repositoryId: number, reference: string): void {
    this.#insert.run(repositoryId, reference, Date.now());
  }

  remove(repositoryId: number, reference: string): boolean {
    return this.#delete.run(repositoryId, reference).changes > 0;
  }
}
