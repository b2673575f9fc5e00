import type { Digest } from '../../oci/digest.ts';
import type { Manifest } from '../../oci/manifest.ts';
import type { Repository } from '../../oci/repository.ts';
import { MAX_NAMINGS, type Naming } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import * as reachability from './reachability.ts';

export type LinkKind = 'manifest' | 'blob';

/**
 * How many manifests that name a blob are searched, newest first: a common layer, or one that somebody names for this
 * purpose, may be named by very many.
 */
const MAX_NAMES_SEARCHED = 200;

interface Sizes {
  readonly linked: number | null;
  readonly stored: number | null;
}

const NO_SIZES: Sizes = { linked: null, stored: null };

/** Which content belongs to which repository. A Link that is not proved keeps content, but gives no right. */
export class LinkRows {
  readonly #selectExists: Statement<[string, string, Digest]>;
  readonly #selectSize: Statement<[string, string, Digest], { size: number }>;
  readonly #selectSizeIn: Statement<[number, Digest], { size: number }>;
  readonly #selectSizes: Statement<[Digest, string, string], Sizes>;
  readonly #selectNamedSize: Statement<[Repository & { digest: Digest }], { size: number }>;
  readonly #selectNamings: Statement<[{ digest: Digest }], Repository & { size: number }>;
  readonly #insert: Statement<[number, Digest, LinkKind, string | null, number, number]>;
  readonly #delete: Statement<[number, Digest, LinkKind]>;
  readonly #deleteUnnamed: Statement<[{ id: number; digest: Digest }]>;
  readonly #selectManifest: Statement<[number, Digest]>;
  readonly #lower: Statement<[Repository & { digest: Digest; toMs: number }]>;

  constructor(connection: Connection) {
    this.#selectExists = connection.prepare(`
      SELECT 1 FROM repositories r JOIN links l ON l.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND l.digest = ? AND NOT l.is_unproved LIMIT 1`);
    this.#selectSize = connection.prepare(`
      SELECT l.size FROM repositories r JOIN links l ON l.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND l.digest = ? AND NOT l.is_unproved LIMIT 1`);
    this.#selectSizeIn = connection.prepare(
      'SELECT size FROM links WHERE repository_id = ? AND digest = ? AND NOT is_unproved LIMIT 1',
    );
    this.#selectSizes = connection.prepare(`
      SELECT l.size AS linked, b.size AS stored
      FROM (SELECT ? AS digest) d
      LEFT JOIN blobs b ON b.digest = d.digest
      LEFT JOIN repositories r ON r.upstream = ? AND r.name = ?
      LEFT JOIN links l ON l.repository_id = r.id AND l.digest = d.digest AND NOT l.is_unproved
      LIMIT 1`);
    // The newest manifest first: blobs are mostly requested just after the manifest that names them. Each step goes to
    // the next older one, past the rows of a manifest that names the blob many times; the first that is linked ends the
    // search. By its key, all that a manifest names would be read to find the size.
    const namers = `
      WITH RECURSIVE namers (reading_id) AS (
        SELECT max(reading_id) FROM reading_references WHERE digest = @digest
        UNION ALL
        SELECT (
          SELECT max(o.reading_id) FROM reading_references o
          WHERE o.digest = @digest AND o.reading_id < namers.reading_id)
        FROM namers WHERE namers.reading_id IS NOT NULL
        ORDER BY 1 DESC LIMIT ${MAX_NAMES_SEARCHED})`;
    const size = `(
        SELECT o.size FROM reading_references o INDEXED BY reading_references_by_digest
        WHERE o.digest = @digest AND o.reading_id = n.reading_id LIMIT 1) AS size`;
    this.#selectNamedSize = connection.prepare(`${namers}
      SELECT ${size}
      FROM namers n
      CROSS JOIN readings g ON g.id = n.reading_id
      CROSS JOIN repositories r ON r.upstream = @upstream AND r.name = @name
      CROSS JOIN links l ON l.repository_id = r.id AND ${reachability.linksTo('l', 'g')}
        AND NOT l.is_unproved
      LIMIT 1`);
    this.#selectNamings = connection.prepare(`${namers}
      SELECT r.upstream, r.name, ${size}
      FROM namers n
      CROSS JOIN readings g ON g.id = n.reading_id
      CROSS JOIN links l ON ${reachability.linksTo('l', 'g')} AND NOT l.is_unproved
      CROSS JOIN repositories r ON r.id = l.repository_id
      LIMIT ${MAX_NAMINGS}`);
    // Written again, its time is renewed: a client that pushes the blob a second time may take as long to push its
    // manifest as the first time.
    this.#insert = connection.prepare(`
      INSERT INTO links (repository_id, digest, kind, media_type, size, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET created_at_ms = excluded.created_at_ms, media_type = excluded.media_type,
        size = excluded.size, is_unproved = 0`);
    this.#delete = connection.prepare(
      'DELETE FROM links WHERE repository_id = ? AND digest = ? AND kind = ?',
    );
    this.#deleteUnnamed = connection.prepare(`
      DELETE FROM links AS l
      WHERE l.repository_id = @id AND l.digest = @digest AND l.kind = 'manifest'
        AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.digest = @digest AND t.repository_id = @id)
        AND NOT ${reachability.isPinnedIn('@id', '@digest')}
        AND NOT ${reachability.isNamedIn('@id', '@digest')}`);
    this.#selectManifest = connection.prepare(
      "SELECT 1 FROM links WHERE repository_id = ? AND digest = ? AND kind = 'manifest'",
    );
    this.#lower = connection.prepare(`
      UPDATE links SET created_at_ms = @toMs
      WHERE repository_id = (SELECT id FROM repositories WHERE upstream = @upstream AND name = @name)
        AND digest = @digest AND kind = 'blob' AND created_at_ms > @toMs`);
  }

  has({ upstream, name }: Repository, digest: Digest): boolean {
    return this.#selectExists.get(upstream, name, digest) !== undefined;
  }

  /** The size in the Link; `undefined` without one. */
  size({ upstream, name }: Repository, digest: Digest): number | undefined {
    return this.#selectSize.get(upstream, name, digest)?.size;
  }

  /** The same for the repository with this id. */
  sizeIn(repositoryId: number, digest: Digest): number | undefined {
    return this.#selectSizeIn.get(repositoryId, digest)?.size;
  }

  /** The size in the Link, and that of the stored blob, whichever repository it belongs to; null without one. */
  sizes({ upstream, name }: Repository, digest: Digest): Sizes {
    return this.#selectSizes.get(digest, upstream, name) ?? NO_SIZES;
  }

  /** The size in the Link, or else in a manifest that is linked here. */
  namedSize(repository: Repository, digest: Digest): number | undefined {
    return this.size(repository, digest) ?? this.#sizeByManifest(repository, digest);
  }

  namings(digest: Digest): readonly Naming[] {
    const rows = this.#selectNamings.all({ digest });
    return rows.map(({ size, ...repository }) => ({ repository, size }));
  }

  isNamed(repository: Repository, digest: Digest): boolean {
    return this.#sizeByManifest(repository, digest) !== undefined;
  }

  putBlob(repositoryId: number, digest: Digest, size: number): void {
    this.#insert.run(repositoryId, digest, 'blob', null, size, Date.now());
  }

  /** From now on the repository reads these bytes with this media type. */
  putManifest(repositoryId: number, { digest, mediaType, bytes }: Manifest): void {
    this.#insert.run(repositoryId, digest, 'manifest', mediaType, bytes.byteLength, Date.now());
  }

  /** Sets back the time of a blob's Link that a wrong clock put in the future. */
  lower({ upstream, name }: Repository, digest: Digest, toMs: number): void {
    this.#lower.run({ upstream, name, digest, toMs });
  }

  remove(repositoryId: number, digest: Digest, kind: LinkKind): boolean {
    return this.#delete.run(repositoryId, digest, kind).changes > 0;
  }

  /** Removes a manifest's Link unless something in the repository names it: then false. */
  removeUnnamed(id: number, digest: Digest): boolean {
    this.#deleteUnnamed.run({ id, digest });
    return this.#selectManifest.get(id, digest) === undefined;
  }

  #sizeByManifest({ upstream, name }: Repository, digest: Digest): number | undefined {
    return this.#selectNamedSize.get({ upstream, name, digest })?.size;
  }
}
