import type { Descriptor } from '../../oci/descriptor.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Manifest, ManifestView } from '../../oci/manifest.ts';
import type { Page } from '../../oci/pull-source.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Paged } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import { type NamedDescriptor, namedIn } from '../named-content.ts';
import { pageRange, toPage } from '../page.ts';
import { type ReferrerRow, toReferrer } from '../referrer-row.ts';
import { isPreloaded } from './preloads.ts';

interface ManifestRow {
  readonly media_type: string;
  readonly bytes: Buffer;
}

interface ReferrerQuery extends Repository {
  readonly subject: Digest;
  readonly artifactType: string | null;
  /** The grantees for which it must be preloaded, as a JSON list; `null` for no condition. */
  readonly grantees: string | null;
  readonly after: string;
  readonly rows: number;
}

/** The bytes of manifests, once for each digest, and their readings, one for each media type, with what that names. */
export class Manifests {
  readonly #selectBytes: Statement<[Digest], { bytes: Buffer }>;
  readonly #selectLinked: Statement<[string, string, Digest], ManifestRow>;
  readonly #selectReferrers: Statement<[ReferrerQuery], ReferrerRow>;
  readonly #selectReferrersOfType: Statement<[ReferrerQuery], ReferrerRow>;
  readonly #insertBytes: Statement<[Digest, number, number, number, Uint8Array]>;
  readonly #insertReading: Statement<[Digest, string, string | null, Digest | null, string]>;
  readonly #insertReference: Statement<
    [number | bigint, number, NamedDescriptor['kind'], Digest, number, string]
  >;
  readonly #touch: Statement<[number, Digest, number]>;

  constructor(connection: Connection) {
    this.#selectBytes = connection.prepare('SELECT bytes FROM manifests WHERE digest = ?');
    this.#selectLinked = connection.prepare(`
      SELECT l.media_type, m.bytes
      FROM repositories r
      JOIN links l ON l.repository_id = r.id AND l.kind = 'manifest' AND l.media_type IS NOT NULL
      JOIN manifests m ON m.digest = l.digest
      WHERE r.upstream = ? AND r.name = ? AND l.digest = ? AND NOT l.is_unproved`);
    const selectReferrers = (ofType: string) =>
      connection.prepare<[ReferrerQuery], ReferrerRow>(`
        SELECT g.digest, g.media_type, g.artifact_type, g.annotations, m.size
        FROM repositories r
        CROSS JOIN referrers e ON e.repository_id = r.id AND e.subject = @subject ${ofType}
        JOIN links l ON l.repository_id = r.id AND l.digest = e.digest AND l.kind = 'manifest' AND NOT l.is_unproved
        JOIN readings g ON g.digest = l.digest AND g.media_type = l.media_type
        JOIN manifests m ON m.digest = g.digest
        WHERE r.upstream = @upstream AND r.name = @name AND e.digest > @after
          AND (@grantees IS NULL OR ${isPreloaded('r.id', 'e.digest', '@grantees')})
        ORDER BY e.digest LIMIT @rows`);
    this.#selectReferrers = selectReferrers('');
    this.#selectReferrersOfType = selectReferrers('AND e.artifact_type = @artifactType');
    this.#insertBytes = connection.prepare(`
      INSERT INTO manifests (digest, created_at_ms, used_at_ms, size, bytes)
      VALUES (?, ?, ?, ?, ?)
      -- The same, unless the disk has damaged them.
      ON CONFLICT DO UPDATE SET bytes = excluded.bytes, used_at_ms = max(used_at_ms, excluded.used_at_ms)`);
    this.#insertReading = connection.prepare(`
      INSERT INTO readings (digest, media_type, artifact_type, subject, annotations)
      VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`);
    this.#insertReference = connection.prepare(`
      INSERT INTO reading_references (reading_id, position, kind, digest, size, media_type)
      VALUES (?, ?, ?, ?, ?, ?)`);
    this.#touch = connection.prepare(
      'UPDATE manifests SET used_at_ms = ? WHERE digest = ? AND used_at_ms < ?',
    );
  }

  readBytes(digest: Digest): Uint8Array | undefined {
    return this.#selectBytes.get(digest)?.bytes;
  }

  readLinked({ upstream, name }: Repository, digest: Digest): Manifest | undefined {
    const row = this.#selectLinked.get(upstream, name, digest);
    return row && { digest, mediaType: row.media_type, bytes: row.bytes };
  }

  /**
   * Stores the bytes, and what they name under this media type. Both are determined by digest and media type, so
   * existing rows are equal.
   */
  put({ digest, mediaType, bytes }: Manifest, view: ManifestView, atMs: number): void {
    this.#insertBytes.run(digest, atMs, atMs, bytes.byteLength, bytes);
    const { changes, lastInsertRowid } = this.#insertReading.run(
      digest,
      mediaType,
      view.artifactType ?? null,
      view.subject?.digest ?? null,
      JSON.stringify(view.annotations),
    );
    if (changes === 0) {
      return;
    }
    namedIn(view).forEach(({ kind, descriptor }, position) => {
      this.#insertReference.run(
        lastInsertRowid,
        position,
        kind,
        descriptor.digest,
        descriptor.size,
        descriptor.mediaType,
      );
    });
  }

  listReferrers(
    { upstream, name }: Repository,
    subject: Digest,
    artifactType: string | undefined,
    page: Page,
    preloadedFor?: readonly string[],
  ): Paged<Descriptor> {
    const [after, rows] = pageRange(page);
    const select = artifactType === undefined ? this.#selectReferrers : this.#selectReferrersOfType;
    const found = select.all({
      upstream,
      name,
      subject,
      artifactType: artifactType ?? null,
      grantees: preloadedFor === undefined ? null : JSON.stringify(preloadedFor),
      after,
      rows,
    });
    return toPage(page, found.map(toReferrer));
  }

  noteUse(digest: Digest, atMs: number, unlessSinceMs: number): void {
    this.#touch.run(atMs, digest, unlessSinceMs);
  }
}
