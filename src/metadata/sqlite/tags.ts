import type { Digest } from '../../oci/digest.ts';
import type { Manifest } from '../../oci/manifest.ts';
import type { TagRow } from '../../oci/pull-read.ts';
import type { Page } from '../../oci/pull-source.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Paged } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import { type PageRange, pageRange, toPage } from '../page.ts';
import { isPreloaded } from './preloads.ts';

interface Row {
  readonly digest: Digest;
  readonly checked_at_ms: number;
}

interface TaggedRow extends Row {
  readonly media_type: string | null;
  readonly bytes: Buffer | null;
}

/** A tag with its manifest. */
export interface Tagged {
  readonly tag: TagRow;
  readonly manifest: Manifest | undefined;
}

/** The digests of tags. */
export class Tags {
  readonly #select: Statement<[string, string, string], Row>;
  readonly #selectTagged: Statement<[string, string, string], TaggedRow>;
  readonly #selectNames: Statement<[string, string, ...PageRange], { tag: string }>;
  readonly #selectPreloaded: Statement<[string, string, string, ...PageRange], { tag: string }>;
  readonly #selectOf: Statement<[string, string, Digest, ...PageRange], { tag: string }>;
  readonly #upsert: Statement<[number, string, Digest, number]>;
  readonly #upsertNewer: Statement<[number, string, Digest, number]>;
  readonly #delete: Statement<[number, string]>;
  readonly #deleteOf: Statement<[number, Digest]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare(`
      SELECT t.digest, t.checked_at_ms
      FROM repositories r JOIN tags t ON t.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND t.tag = ?`);
    this.#selectTagged = connection.prepare(`
      SELECT t.digest, t.checked_at_ms, l.media_type, m.bytes
      FROM repositories r
      JOIN tags t ON t.repository_id = r.id
      LEFT JOIN links l ON l.repository_id = r.id AND l.digest = t.digest AND l.kind = 'manifest'
        AND NOT l.is_unproved
      LEFT JOIN manifests m ON m.digest = l.digest
      WHERE r.upstream = ? AND r.name = ? AND t.tag = ?`);
    this.#selectNames = connection.prepare(`
      SELECT t.tag
      FROM repositories r JOIN tags t ON t.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND t.tag > ? ORDER BY t.tag LIMIT ?`);
    this.#selectPreloaded = connection.prepare(`
      SELECT t.tag
      FROM repositories r JOIN tags t ON t.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND ${isPreloaded('r.id', 't.digest', '?')}
        AND t.tag > ? ORDER BY t.tag LIMIT ?`);
    this.#selectOf = connection.prepare(`
      SELECT t.tag
      FROM repositories r JOIN tags t INDEXED BY tags_by_digest ON t.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND t.digest = ? AND t.tag > ? ORDER BY t.tag LIMIT ?`);
    const upsert = `
      INSERT INTO tags (repository_id, tag, digest, checked_at_ms) VALUES (?, ?, ?, ?)
      ON CONFLICT DO UPDATE SET digest = excluded.digest, checked_at_ms = excluded.checked_at_ms`;
    this.#upsert = connection.prepare(upsert);
    this.#upsertNewer = connection.prepare(`${upsert} WHERE excluded.checked_at_ms > checked_at_ms`);
    this.#delete = connection.prepare('DELETE FROM tags WHERE repository_id = ? AND tag = ?');
    // Without the hint, SQLite would use the primary key and scan every tag of the repository.
    this.#deleteOf = connection.prepare(
      'DELETE FROM tags INDEXED BY tags_by_digest WHERE repository_id = ? AND digest = ?',
    );
  }

  read({ upstream, name }: Repository, tag: string): TagRow | undefined {
    const row = this.#select.get(upstream, name, tag);
    return row && toTagRow(row);
  }

  readTagged({ upstream, name }: Repository, tag: string): Tagged | undefined {
    const row = this.#selectTagged.get(upstream, name, tag);
    if (row === undefined) {
      return undefined;
    }
    const isHeld = row.media_type !== null && row.bytes !== null;
    const manifest = isHeld ? { digest: row.digest, mediaType: row.media_type, bytes: row.bytes } : undefined;
    return { tag: toTagRow(row), manifest };
  }

  list({ upstream, name }: Repository, page: Page, preloadedFor?: readonly string[]): Paged<string> {
    const range = pageRange(page);
    const rows =
      preloadedFor === undefined
        ? this.#selectNames.all(upstream, name, ...range)
        : this.#selectPreloaded.all(upstream, name, JSON.stringify(preloadedFor), ...range);
    return toPage(
      page,
      rows.map(row => row.tag),
    );
  }

  /** The tags that mean `digest`. */
  listOf({ upstream, name }: Repository, digest: Digest, page: Page): Paged<string> {
    const rows = this.#selectOf.all(upstream, name, digest, ...pageRange(page));
    return toPage(
      page,
      rows.map(row => row.tag),
    );
  }

  put(repositoryId: number, tag: string, row: TagRow): void {
    this.#upsert.run(repositoryId, tag, row.digest, row.checkedAtMs);
  }

  /** The same unless the tag was set at that time or later; returns whether it was not. */
  putIfNewer(repositoryId: number, tag: string, row: TagRow): boolean {
    return this.#upsertNewer.run(repositoryId, tag, row.digest, row.checkedAtMs).changes > 0;
  }

  remove(repositoryId: number, tag: string): boolean {
    return this.#delete.run(repositoryId, tag).changes > 0;
  }

  /** Removes all tags that mean `digest`. */
  removeOf(repositoryId: number, digest: Digest): void {
    this.#deleteOf.run(repositoryId, digest);
  }
}

function toTagRow(row: Row): TagRow {
  return { digest: row.digest, checkedAtMs: row.checked_at_ms };
}
