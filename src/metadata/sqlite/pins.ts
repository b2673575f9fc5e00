import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Connection, Statement } from './connection.ts';
import * as reachability from './reachability.ts';

/** Tags and digests that eviction must not remove. */
export class Pins {
  readonly #select: Statement<[string, string], { reference: string }>;
  readonly #selectOver: Statement<[Repository & { digest: Digest }], { reference: string }>;
  readonly #insert: Statement<[number, string, number]>;
  readonly #delete: Statement<[number, string]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare(`
      SELECT p.reference
      FROM repositories r JOIN pins p ON p.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? ORDER BY p.reference`);
    this.#selectOver = connection.prepare(`
      WITH RECURSIVE above (id, digest) AS (
        SELECT r.id, @digest FROM repositories r WHERE r.upstream = @upstream AND r.name = @name
        UNION
        SELECT above.id, g.digest FROM above
        JOIN reading_references n ON n.digest = above.digest
        JOIN readings g ON g.id = n.reading_id
        JOIN links k ON k.repository_id = above.id AND ${reachability.linksTo('k', 'g')})
      SELECT DISTINCT p.reference FROM above JOIN pins p ON p.repository_id = above.id
      WHERE p.reference = above.digest OR EXISTS (
        SELECT 1 FROM tags t WHERE t.repository_id = above.id AND t.tag = p.reference AND t.digest = above.digest)
      ORDER BY p.reference`);
    this.#insert = connection.prepare(
      'INSERT INTO pins (repository_id, reference, created_at_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    );
    this.#delete = connection.prepare('DELETE FROM pins WHERE repository_id = ? AND reference = ?');
  }

  list({ upstream, name }: Repository): readonly string[] {
    return this.#select.all(upstream, name).map(row => row.reference);
  }

  /** The pins that keep the content: on it, or on something above it. */
  listOver({ upstream, name }: Repository, digest: Digest): readonly string[] {
    return this.#selectOver.all({ upstream, name, digest }).map(row => row.reference);
  }

  put(repositoryId: number, reference: string): void {
    this.#insert.run(repositoryId, reference, Date.now());
  }

  remove(repositoryId: number, reference: string): boolean {
    return this.#delete.run(repositoryId, reference).changes > 0;
  }
}
