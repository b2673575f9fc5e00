import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { SurveyedBlob } from '../survey.ts';
import type { Connection, Statement } from './connection.ts';
import * as reachability from './reachability.ts';

interface ManifestRow {
  readonly media_type: string;
  readonly size: number;
  readonly used_at_ms: number;
  readonly bytes: Buffer;
}

interface BlobRow {
  readonly digest: Digest;
  readonly size: number;
  readonly media_type: string;
  readonly kind: 'config' | 'blob';
  readonly is_held: number;
  readonly is_damaged: number;
  readonly used_at_ms: number | null;
}

/** The parts of an image as its repository reads it. */
export class ImageRows {
  readonly #selectTree: Statement<[Repository & { digest: Digest }], { digest: Digest }>;
  readonly #selectManifest: Statement<[Repository & { digest: Digest }], ManifestRow>;
  readonly #selectBlobs: Statement<[Digest, string], BlobRow>;
  readonly #selectNamers: Statement<[Digest, number], { digest: Digest }>;
  readonly #selectNamersHere: Statement<[Repository & { digest: Digest; limit: number }], { digest: Digest }>;
  readonly #selectManifestElsewhere: Statement<[Repository & { digest: Digest }]>;
  readonly #selectBlobElsewhere: Statement<[Repository & { digest: Digest }]>;
  readonly #selectOtherTag: Statement<[Repository & { digest: Digest; tag: string }]>;
  readonly #selectDamage: Statement<[Digest]>;

  constructor(connection: Connection) {
    this.#selectTree = connection.prepare(`
      WITH RECURSIVE tree (digest) AS (
        SELECT @digest
        UNION
        SELECT n.digest FROM tree
        JOIN repositories r ON r.upstream = @upstream AND r.name = @name
        JOIN links l ON l.repository_id = r.id AND l.digest = tree.digest
        JOIN readings g ON ${reachability.linksTo('l', 'g')}
        JOIN reading_references n ON n.reading_id = g.id AND n.kind = 'manifest')
      SELECT digest FROM tree`);
    this.#selectManifest = connection.prepare(`
      SELECT g.media_type, m.size, m.used_at_ms, m.bytes
      FROM repositories r
      JOIN links l ON l.repository_id = r.id AND l.digest = @digest
      JOIN readings g ON ${reachability.linksTo('l', 'g')}
      JOIN manifests m ON m.digest = g.digest
      WHERE r.upstream = @upstream AND r.name = @name`);
    this.#selectBlobs = connection.prepare(`
      SELECT n.digest, n.size, n.media_type, n.kind, b.digest IS NOT NULL AS is_held, b.used_at_ms,
        EXISTS (SELECT 1 FROM quarantine q WHERE q.digest = n.digest) AS is_damaged
      FROM readings g
      JOIN reading_references n ON n.reading_id = g.id AND n.kind <> 'manifest'
      LEFT JOIN blobs b ON b.digest = n.digest
      WHERE g.digest = ? AND g.media_type = ? ORDER BY n.position`);
    this.#selectNamers = connection.prepare(`
      SELECT DISTINCT g.digest FROM reading_references n JOIN readings g ON g.id = n.reading_id
      WHERE n.digest = ? LIMIT ?`);
    this.#selectNamersHere = connection.prepare(`
      SELECT DISTINCT g.digest FROM reading_references n
      JOIN readings g ON g.id = n.reading_id
      JOIN repositories r ON r.upstream = @upstream AND r.name = @name
      JOIN links k ON k.repository_id = r.id AND ${reachability.linksTo('k', 'g')}
      WHERE n.digest = @digest AND n.kind = 'manifest' LIMIT @limit`);
    // As in the conditions of a removal: Links of what a mirrored repository has lost by eviction keep nothing.
    this.#selectManifestElsewhere = connection.prepare(`
      SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
      WHERE l.digest = @digest AND l.kind = 'manifest' AND (l.media_type IS NOT NULL OR r.upstream = '')
        AND NOT (r.upstream = @upstream AND r.name = @name) LIMIT 1`);
    this.#selectBlobElsewhere = connection.prepare(`
      SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
      WHERE l.digest = @digest AND (r.upstream = '' OR ${reachability.isPinnedIn('r.id', 'l.digest')})
        AND NOT (r.upstream = @upstream AND r.name = @name) LIMIT 1`);
    this.#selectOtherTag = connection.prepare(`
      SELECT 1 FROM tags t JOIN repositories r ON r.id = t.repository_id
      WHERE t.digest = @digest AND r.upstream = @upstream AND r.name = @name AND t.tag <> @tag LIMIT 1`);
    this.#selectDamage = connection.prepare('SELECT 1 FROM quarantine WHERE digest = ?');
  }

  /** The manifest and everything below it, stored or not. */
  tree({ upstream, name }: Repository, digest: Digest): readonly Digest[] {
    return this.#selectTree.all({ upstream, name, digest }).map(row => row.digest);
  }

  manifest({ upstream, name }: Repository, digest: Digest): ManifestRow | undefined {
    return this.#selectManifest.get({ upstream, name, digest });
  }

  isDamaged(digest: Digest): boolean {
    return this.#selectDamage.get(digest) !== undefined;
  }

  /** The blobs that the manifest names under this media type. */
  blobs(manifest: Digest, mediaType: string): readonly Omit<SurveyedBlob, 'isShared'>[] {
    return this.#selectBlobs.all(manifest, mediaType).map(row => ({
      digest: row.digest,
      size: row.size,
      mediaType: row.media_type,
      isConfig: row.kind === 'config',
      isHeld: row.is_held === 1,
      isDamaged: row.is_damaged === 1,
      usedAtMs: row.used_at_ms ?? 0,
    }));
  }

  /**
   * Whether the blob is named by a manifest that is not in `tree`, or another repository keeps it without one. To find one
   * outside it is enough to look at one more manifest than the tree has.
   */
  isNamedOutside({ upstream, name }: Repository, digest: Digest, tree: ReadonlySet<Digest>): boolean {
    return (
      this.#selectNamers.all(digest, tree.size + 1).some(namer => !tree.has(namer.digest)) ||
      this.#selectBlobElsewhere.get({ upstream, name, digest }) !== undefined
    );
  }

  /** Whether another repository has the manifest, or a manifest of this one that is not in `tree` names it. */
  isManifestNeededOutside(
    { upstream, name }: Repository,
    digest: Digest,
    tree: ReadonlySet<Digest>,
  ): boolean {
    return (
      this.#selectManifestElsewhere.get({ upstream, name, digest }) !== undefined ||
      this.#selectNamersHere
        .all({ upstream, name, digest, limit: tree.size + 1 })
        .some(namer => !tree.has(namer.digest))
    );
  }

  /** Whether a tag of the repository other than `tag` means the manifest. */
  hasOtherTag({ upstream, name }: Repository, digest: Digest, tag: string | undefined): boolean {
    return this.#selectOtherTag.get({ upstream, name, digest, tag: tag ?? '' }) !== undefined;
  }
}
