import type { Descriptor } from '../../oci/descriptor.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Manifest, ManifestView } from '../../oci/manifest.ts';
import type { Page } from '../../oci/pull-source.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Paged } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import { pageRange, toPage } from './page.ts';

/** The one kind of manifest that has blobs but no config. */
const ARTIFACT_MANIFEST = 'application/vnd.oci.artifact.manifest.v1+json';

interface ManifestRow {
  readonly digest: Digest;
  readonly media_type: string;
  readonly bytes: Buffer;
}

interface ReferrerQuery extends Repository {
  readonly subject: Digest;
  readonly artifactType: string | null;
  readonly after: string;
  readonly rows: number;
}

interface ReferrerRow {
  readonly digest: Digest;
  readonly media_type: string;
  readonly artifact_type: string | null;
  readonly annotations: string;
  readonly size: number;
}

type ReferenceKind = 'manifest' | 'config' | 'blob';

/** Manifests and what they name. */
export class Manifests {
  readonly #select: Statement<[Digest], ManifestRow>;
  readonly #selectLinked: Statement<[string, string, Digest], ManifestRow>;
  readonly #selectReferrers: Statement<[ReferrerQuery], ReferrerRow>;
  readonly #insert: Statement<
    [Digest, string, string, string | null, Digest | null, string, number, number, number, Uint8Array]
  >;
  readonly #insertReference: Statement<[number | bigint, number, ReferenceKind, Digest, number, string]>;
  readonly #touch: Statement<[number, Digest, number]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare('SELECT digest, media_type, bytes FROM manifests WHERE digest = ?');
    this.#selectLinked = connection.prepare(`
      SELECT m.digest, m.media_type, m.bytes
      FROM repositories r
      JOIN links l ON l.repository_id = r.id AND l.kind = 'manifest'
      JOIN manifests m ON m.digest = l.digest
      WHERE r.upstream = ? AND r.name = ? AND l.digest = ?`);
    this.#selectReferrers = connection.prepare(`
      SELECT m.digest, m.media_type, m.artifact_type, m.annotations, m.size
      FROM manifests m
      WHERE m.subject = @subject
        AND EXISTS (
          SELECT 1 FROM repositories r JOIN links l ON l.repository_id = r.id
          WHERE r.upstream = @upstream AND r.name = @name AND l.digest = m.digest AND l.kind = 'manifest')
        AND (@artifactType IS NULL OR m.artifact_type = @artifactType)
        AND m.digest > @after
      ORDER BY m.digest LIMIT @rows`);
    this.#insert = connection.prepare(`
      INSERT INTO manifests
        (digest, kind, media_type, artifact_type, subject, annotations, created_at_ms, used_at_ms, size, bytes)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`);
    this.#insertReference = connection.prepare(`
      INSERT INTO manifest_references (manifest_id, position, kind, digest, size, media_type)
      VALUES (?, ?, ?, ?, ?, ?)`);
    this.#touch = connection.prepare(
      'UPDATE manifests SET used_at_ms = ? WHERE digest = ? AND used_at_ms < ?',
    );
  }

  read(digest: Digest): Manifest | undefined {
    return toManifest(this.#select.get(digest));
  }

  readLinked({ upstream, name }: Repository, digest: Digest): Manifest | undefined {
    return toManifest(this.#selectLinked.get(upstream, name, digest));
  }

  /** Keeps it with what it names; nothing happens when it is held already. */
  put(manifest: Manifest, view: ManifestView, atMs: number): void {
    const { changes, lastInsertRowid } = this.#insert.run(
      manifest.digest,
      view.kind,
      manifest.mediaType,
      view.artifactType ?? null,
      view.subject?.digest ?? null,
      JSON.stringify(view.annotations),
      atMs,
      atMs,
      manifest.bytes.byteLength,
      manifest.bytes,
    );
    if (changes === 0) {
      return;
    }
    references(view).forEach(({ kind, descriptor }, position) => {
      const { digest, size, mediaType } = descriptor;
      this.#insertReference.run(lastInsertRowid, position, kind, digest, size, mediaType);
    });
  }

  listReferrers(
    { upstream, name }: Repository,
    subject: Digest,
    artifactType: string | undefined,
    page: Page,
  ): Paged<Descriptor> {
    const [after, rows] = pageRange(page);
    const found = this.#selectReferrers.all({
      upstream,
      name,
      subject,
      artifactType: artifactType ?? null,
      after,
      rows,
    });
    return toPage(page, found.map(toReferrer));
  }

  noteUse(digest: Digest, atMs: number, unlessSinceMs: number): void {
    this.#touch.run(atMs, digest, unlessSinceMs);
  }
}

function references(view: ManifestView): readonly { kind: ReferenceKind; descriptor: Descriptor }[] {
  const hasConfig = view.kind === 'manifest' && view.mediaType !== ARTIFACT_MANIFEST;
  return [
    ...view.manifests.map(descriptor => ({ kind: 'manifest' as const, descriptor })),
    ...view.blobs.map((descriptor, index) => ({
      kind: hasConfig && index === 0 ? ('config' as const) : ('blob' as const),
      descriptor,
    })),
  ];
}

function toManifest(row: ManifestRow | undefined): Manifest | undefined {
  return row && { digest: row.digest, mediaType: row.media_type, bytes: row.bytes };
}

/** As the distribution spec wants an entry of the referrers list ("Listing Referrers"). */
function toReferrer(row: ReferrerRow): Descriptor {
  const annotations: Record<string, string> = JSON.parse(row.annotations);
  return {
    mediaType: row.media_type,
    digest: row.digest,
    size: row.size,
    ...(row.artifact_type === null ? {} : { artifactType: row.artifact_type }),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
  };
}
