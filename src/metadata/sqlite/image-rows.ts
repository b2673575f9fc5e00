import type { Digest } from '../../oci/digest.ts';
import type { SurveyedBlob } from '../survey.ts';
import type { Connection, Statement } from './connection.ts';

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

/** What an image is made of, row by row. */
export class ImageRows {
  readonly #selectTree: Statement<[Digest], { digest: Digest }>;
  readonly #selectManifest: Statement<[Digest], ManifestRow>;
  readonly #selectBlobs: Statement<[Digest], BlobRow>;
  readonly #selectNamers: Statement<[Digest, number], { digest: Digest }>;
  readonly #selectDamage: Statement<[Digest]>;

  constructor(connection: Connection) {
    this.#selectTree = connection.prepare(`
      WITH RECURSIVE tree (digest) AS (
        SELECT ?
        UNION
        SELECT n.digest FROM tree
        JOIN manifests m ON m.digest = tree.digest
        JOIN manifest_references n ON n.manifest_id = m.id AND n.kind = 'manifest')
      SELECT digest FROM tree`);
    this.#selectManifest = connection.prepare(
      'SELECT media_type, size, used_at_ms, bytes FROM manifests WHERE digest = ?',
    );
    this.#selectBlobs = connection.prepare(`
      SELECT n.digest, n.size, n.media_type, n.kind, b.digest IS NOT NULL AS is_held, b.used_at_ms,
        EXISTS (SELECT 1 FROM quarantine q WHERE q.digest = n.digest) AS is_damaged
      FROM manifests m
      JOIN manifest_references n ON n.manifest_id = m.id AND n.kind <> 'manifest'
      LEFT JOIN blobs b ON b.digest = n.digest
      WHERE m.digest = ? ORDER BY n.position`);
    this.#selectNamers = connection.prepare(`
      SELECT DISTINCT m.digest FROM manifest_references n JOIN manifests m ON m.id = n.manifest_id
      WHERE n.digest = ? LIMIT ?`);
    this.#selectDamage = connection.prepare('SELECT 1 FROM quarantine WHERE digest = ?');
  }

  /** The manifest and all below it, held or not. */
  tree(digest: Digest): readonly Digest[] {
    return this.#selectTree.all(digest).map(row => row.digest);
  }

  manifest(digest: Digest): ManifestRow | undefined {
    return this.#selectManifest.get(digest);
  }

  isDamaged(digest: Digest): boolean {
    return this.#selectDamage.get(digest) !== undefined;
  }

  blobs(manifest: Digest): readonly Omit<SurveyedBlob, 'isShared'>[] {
    return this.#selectBlobs.all(manifest).map(row => ({
      digest: row.digest,
      size: row.size,
      mediaType: row.media_type,
      isConfig: row.kind === 'config',
      isHeld: row.is_held === 1,
      isDamaged: row.is_damaged === 1,
      usedAtMs: row.used_at_ms ?? 0,
    }));
  }

  /** Whether a manifest that is not in `tree` names the blob: of one more than the tree has, one is outside. */
  isNamedOutside(digest: Digest, tree: ReadonlySet<Digest>): boolean {
    return this.#selectNamers.all(digest, tree.size + 1).some(namer => !tree.has(namer.digest));
  }
}
