import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Connection, Statement } from './connection.ts';

export type LinkKind = 'manifest' | 'blob';

/** Which content belongs to which repository. */
export class Links {
  readonly #selectExists: Statement<[string, string, Digest]>;
  readonly #selectSize: Statement<[string, string, Digest], { size: number }>;
  readonly #selectNamedSize: Statement<[Repository & { digest: Digest }], { size: number }>;
  readonly #insert: Statement<[number, Digest, LinkKind, number, number]>;
  readonly #delete: Statement<[number, Digest, LinkKind]>;

  constructor(connection: Connection) {
    this.#selectExists = connection.prepare(`
      SELECT 1 FROM repositories r JOIN links l ON l.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND l.digest = ? LIMIT 1`);
    this.#selectSize = connection.prepare(`
      SELECT l.size FROM repositories r JOIN links l ON l.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND l.digest = ? LIMIT 1`);
    // The newest manifest first: what is asked for is mostly what was named a moment ago.
    this.#selectNamedSize = connection.prepare(`
      SELECT n.size
      FROM manifest_references n
      CROSS JOIN manifests m ON m.id = n.manifest_id
      CROSS JOIN repositories r ON r.upstream = @upstream AND r.name = @name
      CROSS JOIN links l ON l.repository_id = r.id AND l.digest = m.digest AND l.kind = 'manifest'
      WHERE n.digest = @digest
      ORDER BY n.manifest_id DESC LIMIT 1`);
    // Made again, it is as new: whoever pushed the blob a second time is as far from pushing its manifest as at first.
    this.#insert = connection.prepare(`
      INSERT INTO links (repository_id, digest, kind, size, created_at_ms) VALUES (?, ?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET created_at_ms = excluded.created_at_ms`);
    this.#delete = connection.prepare(
      'DELETE FROM links WHERE repository_id = ? AND digest = ? AND kind = ?',
    );
  }

  has({ upstream, name }: Repository, digest: Digest): boolean {
    return this.#selectExists.get(upstream, name, digest) !== undefined;
  }

  /** By the Link, else by a manifest that is linked here. */
  namedSize({ upstream, name }: Repository, digest: Digest): number | undefined {
    const row =
      this.#selectSize.get(upstream, name, digest) ?? this.#selectNamedSize.get({ upstream, name, digest });
    return row?.size;
  }

  put(repositoryId: number, digest: Digest, kind: LinkKind, size: number): void {
    this.#insert.run(repositoryId, digest, kind, size, Date.now());
  }

  remove(repositoryId: number, digest: Digest, kind: LinkKind): boolean {
    return this.#delete.run(repositoryId, digest, kind).changes > 0;
  }
}
