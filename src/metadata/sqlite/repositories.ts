import type { Digest } from '../../oci/digest.ts';
import type { Page } from '../../oci/pull-source.ts';
import type { Repository } from '../../oci/repository.ts';
import type { ComingManifest, OwnerBytes, Paged, Usage } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import { type PageRange, pageRange, toPage } from '../page.ts';

/** How many rows of a removed repository are deleted in one transaction: about 3 ms. */
const SWEEP_ROWS = 20;

/** Tables whose rows belong to a repository, with the columns that identify a row in it. */
const OWNED_TABLES = {
  tags: 'tag',
  links: 'digest, kind',
  documents: 'name',
  grants: 'credential_id',
  pins: 'reference',
  preloads: 'digest, grantee',
} as const;

interface OwnerBytesRow {
  readonly name: string;
  readonly bytes: number;
  readonly uncollected_bytes: number;
}

interface UsageRow {
  readonly repositories: number | null;
  readonly bytes: number | null;
  readonly uncollected_bytes: number | null;
  /** `null` if there is no such repository. */
  readonly id: number | null;
  readonly tags: number | null;
  readonly has_manifest: 0 | 1;
  readonly has_tag: 0 | 1;
}

/** Repositories by name. Their ids are for joins within one transaction and must not be kept. */
export class Repositories {
  readonly #selectId: Statement<[string, string], { id: number }>;
  readonly #insert: Statement<[string, string, number]>;
  readonly #selectHasEntries: Statement<[string, string]>;
  readonly #selectNames: Statement<[string, ...PageRange], { name: string }>;
  readonly #selectBytes: Statement<[string], OwnerBytesRow>;
  readonly #selectUsage: Statement<[Digest | null, string | null, string, string, string], UsageRow>;
  readonly #selectTag: Statement<[number | null, string]>;
  readonly #delete: Statement<[string, string]>;
  readonly #selectRemoved: Statement<[], { id: number }>;
  readonly #deleteRemoved: Statement<[number]>;
  readonly #sweeps: readonly Statement<[{ id: number }]>[];

  constructor(connection: Connection) {
    this.#selectId = connection.prepare('SELECT id FROM repositories WHERE upstream = ? AND name = ?');
    this.#insert = connection.prepare(
      'INSERT INTO repositories (upstream, name, created_at_ms) VALUES (?, ?, ?)',
    );
    this.#selectHasEntries = connection.prepare(
      'SELECT 1 FROM repositories WHERE upstream = ? AND name = ? AND entries > 0',
    );
    this.#selectNames = connection.prepare(
      'SELECT name FROM repositories WHERE upstream = ? AND entries > 0 AND name > ? ORDER BY name LIMIT ?',
    );
    this.#selectBytes = connection.prepare(`
      SELECT name, bytes, uncollected_bytes FROM owners
      WHERE name IN (SELECT value FROM json_each(?)) AND (bytes > 0 OR uncollected_bytes > 0)`);
    this.#selectUsage = connection.prepare(`
      SELECT o.repositories, o.bytes, o.uncollected_bytes, r.id, r.tags,
        EXISTS (
          SELECT 1 FROM links l
          WHERE l.repository_id = r.id AND l.digest = ? AND l.kind = 'manifest' AND NOT l.is_unproved) AS has_manifest,
        EXISTS (SELECT 1 FROM tags t WHERE t.repository_id = r.id AND t.tag = ?) AS has_tag
      FROM (SELECT 1)
      LEFT JOIN owners o ON o.name = ?
      LEFT JOIN repositories r ON r.upstream = ? AND r.name = ?`);
    this.#selectTag = connection.prepare('SELECT 1 FROM tags WHERE repository_id = ? AND tag = ?');
    this.#delete = connection.prepare('DELETE FROM repositories WHERE upstream = ? AND name = ?');
    this.#selectRemoved = connection.prepare('SELECT id FROM removed_repositories LIMIT 1');
    this.#deleteRemoved = connection.prepare('DELETE FROM removed_repositories WHERE id = ?');
    this.#sweeps = Object.entries(OWNED_TABLES).map(([table, key]) =>
      connection.prepare(
        `DELETE FROM ${table} WHERE repository_id = @id AND (${key}) IN ` +
          `(SELECT ${key} FROM ${table} WHERE repository_id = @id LIMIT ${SWEEP_ROWS})`,
      ),
    );
  }

  id({ upstream, name }: Repository): number | undefined {
    return this.#selectId.get(upstream, name)?.id;
  }

  /** Call within a write. */
  idOrNew(repository: Repository): number {
    return this.id(repository) ?? this.create(repository);
  }

  /** Call within a write, for a repository that does not exist. */
  create({ upstream, name }: Repository): number {
    return Number(this.#insert.run(upstream, name, Date.now()).lastInsertRowid);
  }

  hasEntries({ upstream, name }: Repository): boolean {
    return this.#selectHasEntries.get(upstream, name) !== undefined;
  }

  list(upstream: string, page: Page): Paged<string> {
    const rows = this.#selectNames.all(upstream, ...pageRange(page));
    return toPage(
      page,
      rows.map(row => row.name),
    );
  }

  readOwnerBytes(owners: readonly string[]): ReadonlyMap<string, OwnerBytes> {
    const rows = this.#selectBytes.all(JSON.stringify(owners));
    return new Map(
      rows.map(({ name, bytes, uncollected_bytes }) => [
        name,
        { bytes, uncollectedBytes: uncollected_bytes },
      ]),
    );
  }

  readUsage(owner: string, { upstream, name }: Repository, coming?: ComingManifest): Usage {
    // Nearly all have one tag.
    const [tag, ...furtherTags] = new Set(coming?.tags);
    const row = this.#selectUsage.get(coming?.digest ?? null, tag ?? null, owner, upstream, name);
    const isNew = (further: string) => this.#selectTag.get(row?.id ?? null, further) === undefined;
    const newTag = tag === undefined || row?.has_tag === 1 ? 0 : 1;
    return {
      bytes: row?.bytes ?? 0,
      uncollectedBytes: row?.uncollected_bytes ?? 0,
      repositories: row?.repositories ?? 0,
      isKnown: typeof row?.id === 'number',
      tags: row?.tags ?? 0,
      hasManifest: row?.has_manifest === 1,
      newTags: newTag + furtherTags.filter(isNew).length,
    };
  }

  /** From now on nothing of it is found; its rows are deleted later. */
  remove({ upstream, name }: Repository): void {
    this.#delete.run(upstream, name);
  }

  /** Whether there are rows of removed repositories. */
  hasRemoved(): boolean {
    return this.#selectRemoved.get() !== undefined;
  }

  /** Deletes some rows of removed repositories. */
  sweep(): void {
    const removed = this.#selectRemoved.get();
    if (removed === undefined) {
      return;
    }
    const swept = this.#sweeps.some(sweep => sweep.run({ id: removed.id }).changes > 0);
    if (!swept) {
      this.#deleteRemoved.run(removed.id);
    }
  }
}
