import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Preload } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';

/** How many preloads of a grantee are removed in one transaction. */
const END_ROWS = 100;

/**
 * An SQL condition: the content `digest` was imported into a repository for one of the grantees in the JSON list
 * `grantees`.
 */
export const isPreloaded = (repositoryId: string, digest: string, grantees: string) => `EXISTS (
  SELECT 1 FROM json_each(${grantees}) e JOIN preloads p ON p.grantee = e.value
  WHERE p.repository_id = ${repositoryId} AND p.digest = ${digest})`;

/** What was imported, and for whom. Preloads are removed with their Links. */
export class Preloads {
  readonly #selectExists: Statement<[Repository & { digest: Digest; grantees: string }]>;
  readonly #selectSums: Statement<[string, string], { grantee: string; at_ms: number }>;
  readonly #insert: Statement<[number, Digest, string, number]>;
  readonly #deleteOf: Statement<[{ grantee: string }]>;

  constructor(connection: Connection) {
    this.#selectExists = connection.prepare(`
      SELECT 1 FROM repositories r
      WHERE r.upstream = @upstream AND r.name = @name AND ${isPreloaded('r.id', '@digest', '@grantees')}`);
    this.#selectSums = connection.prepare(`
      SELECT p.grantee, max(p.created_at_ms) AS at_ms
      FROM repositories r JOIN preloads p ON p.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? GROUP BY p.grantee ORDER BY p.grantee`);
    this.#insert = connection.prepare(`
      INSERT INTO preloads (repository_id, digest, grantee, created_at_ms) VALUES (?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET created_at_ms = excluded.created_at_ms`);
    this.#deleteOf = connection.prepare(`
      DELETE FROM preloads WHERE grantee = @grantee AND (repository_id, digest) IN
        (SELECT repository_id, digest FROM preloads WHERE grantee = @grantee LIMIT ${END_ROWS})`);
  }

  has(repository: Repository, digest: Digest, grantees: readonly string[]): boolean {
    const row = this.#selectExists.get({ ...repository, digest, grantees: JSON.stringify(grantees) });
    return row !== undefined;
  }

  list({ upstream, name }: Repository): readonly Preload[] {
    return this.#selectSums.all(upstream, name).map(({ grantee, at_ms }) => ({ grantee, atMs: at_ms }));
  }

  put(repositoryId: number, digest: Digest, grantee: string, atMs: number): void {
    this.#insert.run(repositoryId, digest, grantee, atMs);
  }

  /** Removes some of the grantee's preloads; false if there was none left. */
  endSomeOf(grantee: string): boolean {
    return this.#deleteOf.run({ grantee }).changes > 0;
  }
}
