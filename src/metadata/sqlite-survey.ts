import type { Digest } from '../oci/digest.ts';
import { parseManifest } from '../oci/manifest.ts';
import { isIndexType } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';
import type { BlobLink, BlobObject, Content } from './metadata-store.ts';
import { Connection, type Statement } from './sqlite/connection.ts';
import { ImageRows } from './sqlite/image-rows.ts';
import * as reachability from './sqlite/reachability.ts';
import {
  isSound,
  joinCursor,
  MANIFESTS_PER_PAGE,
  MAX_REPOSITORIES_NAMED,
  page,
  ROWS_PER_PAGE,
  splitCursor,
} from './survey-pages.ts';
import {
  type Found,
  type LostContent,
  type SizedContent,
  type Survey,
  type SurveyedImage,
  type SurveyedManifest,
  withShared,
} from './survey.ts';

/**
 * As an SQL column, in a statement with repositories as `r`: whether something was imported into the repository under
 * this digest.
 */
const isImported = (digest: string) => `EXISTS (
  SELECT 1 FROM preloads p WHERE p.repository_id = r.id AND p.digest = ${digest}) AS is_imported`;

/**
 * As an SQL column: the size of the lists of referrers that are removed with the manifest. One look-up for each of its
 * Links; SQLite knows the length without reading the bytes.
 */
const referrersBytes = (digest: string) => `(
  SELECT coalesce(sum(length(d.bytes)), 0)
  FROM links l CROSS JOIN documents d ON d.repository_id = l.repository_id AND d.name = 'referrers ' || l.digest
  WHERE l.digest = ${digest} AND l.kind = 'manifest')`;

/** A manifest that is kept, or was used since @sinceMs, names it. */
const isNamedByKept = (digest: string) => `EXISTS (
  SELECT 1 FROM reading_references n
  JOIN readings g ON g.id = n.reading_id
  LEFT JOIN manifests m ON m.digest = g.digest
  WHERE n.digest = ${digest} AND (m.used_at_ms >= @sinceMs OR ${reachability.isKeptManifest('g.digest')}))`;

/** For a `ContentSearch`: blobs that were not used since, and are not being downloaded. */
const blobsWhere = (condition: string) => `
  SELECT 'blob' AS kind, b.digest, b.size FROM blobs b
  WHERE b.digest > @after AND b.digest <= @until AND b.used_at_ms < @sinceMs AND ${condition}
    AND NOT ${reachability.isBeingFilled('b.digest')}
  ORDER BY b.digest`;

/** For a `ContentSearch`. Nearly all are kept, which is found out by digest: only the rows of the others are read. */
const UNNEEDED_MANIFESTS = `
  SELECT 'manifest' AS kind, m.digest, m.size
  FROM manifests c CROSS JOIN manifests m ON m.digest = c.digest
  WHERE c.digest > @after AND c.digest <= @until AND NOT ${reachability.isKeptManifest('c.digest')}
    AND m.used_at_ms < @sinceMs
  ORDER BY c.digest`;

/** The least recently used content of a kind, for `evictable`. */
const oldest = (kind: Content['kind'], table: string) => `
  SELECT * FROM (
    SELECT '${kind}' AS kind, digest, size, used_at_ms FROM ${table}
    WHERE (used_at_ms, digest) > (@usedAtMs, @digest) AND used_at_ms < @sinceMs
    ORDER BY used_at_ms, digest LIMIT ${ROWS_PER_PAGE})`;

/** Opens a survey of the index in the file `path`, on a read-only connection of its own. */
export async function openSqliteSurvey(path: string): Promise<Survey & { close(): void }> {
  return new SqliteSurvey(await Connection.openReadOnly(path));
}

interface Span {
  readonly sinceMs: number;
  readonly after: string;
  readonly until: string;
}

interface LinkRow {
  readonly repository_id: number;
  readonly upstream: string | null;
  readonly name: string | null;
  readonly digest: Digest;
  readonly is_found: number;
}

interface ContentRow extends SizedContent {
  readonly is_found: number;
  readonly used_at_ms: number;
}

interface ImageRow {
  readonly repository_id: number;
  readonly upstream: string;
  readonly name: string;
  readonly tag: string | null;
  readonly digest: Digest;
  readonly is_pinned: number;
  readonly is_imported: number;
  /** Only for those without a tag. */
  readonly is_found?: number;
}

interface LostRow extends LostContent {
  readonly is_lost: number;
}

interface LinkedRow extends Content {
  /** `null` if it is not stored. */
  readonly size: number | null;
}

class SqliteSurvey implements Survey {
  readonly #connection: Connection;
  readonly #laterLinks: Statement<[{ repository: number; digest: string; thanMs: number }], LinkRow>;
  readonly #links: Statement<[{ repository: number; digest: string; sinceMs: number }], LinkRow>;
  readonly #unneededBlobs: ContentSearch;
  readonly #unnamedBlobs: ContentSearch;
  readonly #unlinkedBlobs: ContentSearch;
  readonly #unneededManifests: ContentSearch;
  readonly #byUse: Statement<[{ sinceMs: number; usedAtMs: number; digest: string }], ContentRow>;
  readonly #repositories: Statement<[string], Repository>;
  readonly #blobs: Statement<[string], SizedContent>;
  readonly #manifestBytes: Statement<[string], { digest: Digest; bytes: Buffer }>;
  readonly #damage: Statement<[string], { digest: Digest; is_stale: number }>;
  readonly #lost: Statement<[string], LostRow>;
  readonly #hasRow: Statement<[{ digest: Digest }]>;
  readonly #isStrayObject: Statement<[BlobObject], { stray: number }>;
  readonly #tags: Statement<[{ upstream: string; name: string; tag: string }], ImageRow>;
  readonly #untagged: Statement<[{ repository: number; digest: string }], ImageRow>;
  readonly #linked: Statement<[Repository & { digest: string; kind: string }], LinkedRow>;
  readonly #images: ImageRows;

  constructor(connection: Connection) {
    this.#connection = connection;
    this.#laterLinks = connection.prepare(`
      SELECT l.repository_id, r.upstream, r.name, l.digest,
        l.kind = 'blob' AND l.created_at_ms > @thanMs AS is_found
      FROM links l LEFT JOIN repositories r ON r.id = l.repository_id
      WHERE (l.repository_id, l.digest) > (@repository, @digest)
      ORDER BY l.repository_id, l.digest LIMIT ${ROWS_PER_PAGE}`);
    this.#links = connection.prepare(`
      SELECT l.repository_id, r.upstream, r.name, l.digest,
        r.id IS NOT NULL AND l.kind = 'blob' AND l.created_at_ms < @sinceMs
          AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = l.digest AND b.used_at_ms >= @sinceMs)
          AND NOT ${reachability.isPinnedIn('l.repository_id', 'l.digest')}
          AND NOT ${reachability.isMaimed('l.repository_id')}
          AND NOT ${reachability.isNamedIn('l.repository_id', 'l.digest')} AS is_found
      FROM links l LEFT JOIN repositories r ON r.id = l.repository_id
      WHERE (l.repository_id, l.digest) > (@repository, @digest)
      ORDER BY l.repository_id, l.digest LIMIT ${ROWS_PER_PAGE}`);
    this.#unneededBlobs = new ContentSearch(
      connection,
      'blobs',
      blobsWhere(`
        NOT ${isNamedByKept('b.digest')}
          AND NOT EXISTS (
            SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
            WHERE l.digest = b.digest AND l.kind = 'blob'
              AND (l.created_at_ms >= @sinceMs OR ${reachability.isPinnedIn('l.repository_id', 'l.digest')}
                OR ${reachability.isMaimed('l.repository_id')}))`),
    );
    this.#unnamedBlobs = new ContentSearch(
      connection,
      'blobs',
      blobsWhere(`NOT ${reachability.isNamed('b.digest')} AND NOT ${reachability.isLinkedBlob('b.digest')}`),
    );
    this.#unlinkedBlobs = new ContentSearch(
      connection,
      'blobs',
      blobsWhere(`NOT ${reachability.isLinked('b.digest')} AND NOT ${isNamedByKept('b.digest')}`),
    );
    this.#unneededManifests = new ContentSearch(connection, 'manifests', UNNEEDED_MANIFESTS);
    this.#byUse = connection.prepare(`
      SELECT c.kind, c.digest, c.used_at_ms,
        c.size + iif(c.kind = 'manifest', ${referrersBytes('c.digest')}, 0) AS size,
        ${reachability.isEvictable('c.digest')} AS is_found
      FROM (${oldest('blob', 'blobs')} UNION ALL ${oldest('manifest', 'manifests')}
        ORDER BY used_at_ms, digest LIMIT ${ROWS_PER_PAGE}) c
      ORDER BY c.used_at_ms, c.digest`);
    this.#repositories = connection.prepare(`
      SELECT DISTINCT r.upstream, r.name FROM links l JOIN repositories r ON r.id = l.repository_id
      WHERE l.digest = ? AND (r.upstream = '' OR l.media_type IS NOT NULL
        OR l.kind = 'blob' AND (${reachability.isNamedIn('r.id', 'l.digest')} OR NOT ${reachability.isNamed('l.digest')}))
      ORDER BY r.upstream, r.name LIMIT ${MAX_REPOSITORIES_NAMED}`);
    this.#blobs = connection.prepare(`
      SELECT 'blob' AS kind, digest, size FROM blobs WHERE digest > ? ORDER BY digest LIMIT ${ROWS_PER_PAGE}`);
    this.#manifestBytes = connection.prepare(`
      SELECT digest, bytes FROM manifests WHERE digest > ? ORDER BY digest LIMIT ${MANIFESTS_PER_PAGE}`);
    this.#damage = connection.prepare(`
      SELECT q.digest, NOT ${reachability.isLinked('q.digest')} AS is_stale
      FROM quarantine q WHERE q.digest > ? ORDER BY q.digest LIMIT ${ROWS_PER_PAGE}`);
    this.#lost = connection.prepare(`
      SELECT iif(${reachability.isLinkedManifest('q.digest')}, 'manifest', 'blob') AS kind, q.digest, q.reason,
        ${reachability.isLost('q.digest')} AS is_lost
      FROM quarantine q WHERE q.digest > ? ORDER BY q.digest LIMIT ${ROWS_PER_PAGE}`);
    this.#hasRow = connection.prepare(`
      SELECT 1 FROM blobs WHERE digest = @digest UNION ALL SELECT 1 FROM quarantine WHERE digest = @digest
      UNION ALL SELECT 1 WHERE ${reachability.isHostedBlob('@digest')}`);
    this.#isStrayObject = connection.prepare(
      `SELECT ${reachability.isUnknownObject('@digest', '@key')} AS stray`,
    );
    this.#tags = connection.prepare(`
      SELECT t.repository_id, r.upstream, r.name, t.tag, t.digest,
        EXISTS (
          SELECT 1 FROM pins p
          WHERE p.repository_id = t.repository_id AND p.reference IN (t.tag, t.digest)) AS is_pinned,
        ${isImported('t.digest')}
      FROM repositories r JOIN tags t ON t.repository_id = r.id
      WHERE (r.upstream, r.name, t.tag) > (@upstream, @name, @tag)
      ORDER BY r.upstream, r.name, t.tag LIMIT ${ROWS_PER_PAGE}`);
    this.#untagged = connection.prepare(`
      SELECT l.repository_id, r.upstream, r.name, NULL AS tag, l.digest,
        ${reachability.isPinnedIn('l.repository_id', 'l.digest')} AS is_pinned, ${isImported('l.digest')},
        EXISTS (
          SELECT 1 FROM readings g JOIN manifests m ON m.digest = g.digest
          WHERE ${reachability.linksTo('l', 'g')} AND g.subject IS NULL)
          AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.digest = l.digest AND t.repository_id = l.repository_id)
          AND NOT ${reachability.isNamedIn('l.repository_id', 'l.digest')} AS is_found
      FROM links l JOIN repositories r ON r.id = l.repository_id
      WHERE (l.repository_id, l.digest) > (@repository, @digest) AND l.kind = 'manifest'
      ORDER BY l.repository_id, l.digest LIMIT ${ROWS_PER_PAGE}`);
    this.#linked = connection.prepare(`
      SELECT l.kind, l.digest, coalesce(b.size, m.size) AS size
      FROM repositories r JOIN links l ON l.repository_id = r.id
      LEFT JOIN blobs b ON b.digest = l.digest AND l.kind = 'blob'
      LEFT JOIN manifests m ON m.digest = l.digest AND l.kind = 'manifest'
      WHERE r.upstream = @upstream AND r.name = @name AND (l.digest, l.kind) > (@digest, @kind)
      ORDER BY l.digest, l.kind LIMIT ${ROWS_PER_PAGE}`);
    this.#images = new ImageRows(connection);
  }

  async laterLinks(thanMs: number, after?: string) {
    return linksPage(await this.#all(this.#laterLinks, { ...linkCursor(after), thanMs }));
  }

  async idleLinks(unusedSinceMs: number, after?: string) {
    return linksPage(await this.#all(this.#links, { ...linkCursor(after), sinceMs: unusedSinceMs }));
  }

  unneeded(kind: Content['kind'], unusedSinceMs: number, after = '') {
    return (kind === 'blob' ? this.#unneededBlobs : this.#unneededManifests).find(unusedSinceMs, after);
  }

  unnamedBlobs(unusedSinceMs: number, after = '') {
    return this.#unnamedBlobs.find(unusedSinceMs, after);
  }

  unlinked(kind: Content['kind'], unusedSinceMs: number, after = '') {
    return (kind === 'blob' ? this.#unlinkedBlobs : this.#unneededManifests).find(unusedSinceMs, after);
  }

  async evictable(unusedSinceMs: number, after?: string) {
    const [usedAtMs, digest] = after === undefined ? [-1, ''] : splitCursor(after);
    const rows = await this.#all(this.#byUse, { sinceMs: unusedSinceMs, usedAtMs: Number(usedAtMs), digest });
    return page(rows, toContent, row => joinCursor(row.used_at_ms, row.digest));
  }

  repositoriesOf(digest: Digest) {
    return this.#all(this.#repositories, digest);
  }

  async blobs(after = '') {
    const rows = await this.#all(this.#blobs, after);
    return page(
      rows,
      row => row,
      row => row.digest,
    );
  }

  async damagedManifests(after = ''): Promise<Found<SizedContent>> {
    const rows = await this.#all(this.#manifestBytes, after);
    return page(
      rows,
      ({ digest, bytes }) =>
        isSound(digest, bytes) ? undefined : { kind: 'manifest' as const, digest, size: bytes.length },
      row => row.digest,
      MANIFESTS_PER_PAGE,
    );
  }

  async lost(after = '') {
    const rows = await this.#all(this.#lost, after);
    return page(
      rows,
      ({ is_lost, ...content }) => (is_lost === 1 ? content : undefined),
      row => row.digest,
    );
  }

  async staleDamage(after = '') {
    const rows = await this.#all(this.#damage, after);
    return page(
      rows,
      row => (row.is_stale === 1 ? row.digest : undefined),
      row => row.digest,
    );
  }

  withoutRow(digests: readonly Digest[]) {
    return this.#connection.read(() => digests.filter(digest => this.#hasRow.get({ digest }) === undefined));
  }

  strayObjects(objects: readonly BlobObject[]) {
    return this.#connection.read(() =>
      objects.filter(({ digest, key }) => this.#isStrayObject.get({ digest, key })?.stray === 1),
    );
  }

  async tags(after?: string) {
    const [upstream, name, tag] = after === undefined ? ['', '', ''] : splitCursor(after);
    const rows = await this.#all(this.#tags, { upstream, name, tag });
    return page(rows, toImage, row => joinCursor(row.upstream, row.name, row.tag ?? ''));
  }

  async untagged(after?: string) {
    const [repository, digest] = after === undefined ? [0, ''] : splitCursor(after);
    const rows = await this.#all(this.#untagged, { repository: Number(repository), digest });
    return page(
      rows,
      row => (row.is_found === 1 ? toImage(row) : undefined),
      row => joinCursor(row.repository_id, row.digest),
    );
  }

  async linked({ upstream, name }: Repository, after?: string) {
    const [digest, kind] = after === undefined ? ['', ''] : splitCursor(after);
    const rows = await this.#all(this.#linked, { upstream, name, digest, kind });
    return page(
      rows,
      row => (row.size === null ? undefined : { ...row, size: row.size }),
      row => joinCursor(row.digest, row.kind),
    );
  }

  image(repository: Repository, digest: Digest, tag?: string): Promise<readonly SurveyedManifest[]> {
    return this.#connection.read(() => {
      const digests = this.#images.tree(repository, digest);
      const tree = new Set(digests);
      const isKept = (each: Digest): boolean => {
        // If an image is removed by digest, its tags are removed, too.
        const mayBeTagged = each !== digest || tag !== undefined;
        const ownTag = each === digest ? tag : undefined;
        return (
          (mayBeTagged && this.#images.hasOtherTag(repository, each, ownTag)) ||
          this.#images.isManifestNeededOutside(repository, each, tree)
        );
      };
      return withShared(
        digests.map(each => this.#manifest(repository, each, { tree, isKept: isKept(each) })),
      );
    });
  }

  close(): void {
    this.#connection.close();
  }

  #manifest(
    repository: Repository,
    digest: Digest,
    { tree, isKept }: { readonly tree: ReadonlySet<Digest>; readonly isKept: boolean },
  ): SurveyedManifest {
    const row = this.#images.manifest(repository, digest);
    const isWrong = row !== undefined && isIndexType(row.media_type) && !isSound(digest, row.bytes);
    if (row === undefined || isWrong) {
      const isDamaged = isWrong || this.#images.isDamaged(digest);
      return {
        digest,
        isHeld: false,
        isDamaged,
        isShared: isKept,
        size: 0,
        mediaType: undefined,
        usedAtMs: 0,
        children: [],
        blobs: [],
      };
    }
    const { size, media_type: mediaType, used_at_ms: usedAtMs, bytes } = row;
    const children = isIndexType(mediaType) ? parseManifest(bytes, mediaType).manifests : [];
    const blobs = this.#images.blobs(digest, mediaType).map(blob => ({
      ...blob,
      isShared: this.#images.isNamedOutside(repository, blob.digest, tree),
    }));
    return {
      digest,
      isHeld: true,
      isDamaged: false,
      isShared: isKept,
      size,
      mediaType,
      usedAtMs,
      children,
      blobs,
    };
  }

  #all<P, Row>(statement: Statement<[P], Row>, parameters: P): Promise<readonly Row[]> {
    return this.#connection.read(() => statement.all(parameters));
  }
}

/** Sorts after every digest. */
const AFTER_ALL = '~';

/**
 * Looks through the content of a table, a page of rows by digest at a time. Only what is found leaves the database: to hand
 * over a row takes longer than to see that it is not meant.
 */
class ContentSearch {
  readonly #connection: Connection;
  readonly #end: Statement<[string], { digest: Digest }>;
  readonly #found: Statement<[Span], SizedContent>;

  /** `sql` finds those after `@after` up to `@until`, in order. */
  constructor(connection: Connection, table: 'blobs' | 'manifests', sql: string) {
    this.#connection = connection;
    this.#end = connection.prepare(
      `SELECT digest FROM ${table} WHERE digest > ? ORDER BY digest LIMIT 1 OFFSET ${ROWS_PER_PAGE - 1}`,
    );
    this.#found = connection.prepare(sql);
  }

  find(sinceMs: number, after: string): Promise<Found<SizedContent>> {
    return this.#connection.read(() => {
      const next = this.#end.get(after)?.digest;
      return { entries: this.#found.all({ sinceMs, after, until: next ?? AFTER_ALL }), next };
    });
  }
}

function linkCursor(after: string | undefined): { repository: number; digest: string } {
  const [repository, digest] = after === undefined ? [0, ''] : splitCursor(after);
  return { repository: Number(repository), digest };
}

function linksPage(rows: readonly LinkRow[]): Found<BlobLink> {
  return page(
    rows,
    ({ is_found, upstream, name, digest }) =>
      is_found === 1 && upstream !== null && name !== null
        ? { repository: { upstream, name }, digest }
        : undefined,
    row => joinCursor(row.repository_id, row.digest),
  );
}

function toContent({ kind, digest, size, is_found }: ContentRow): SizedContent | undefined {
  return is_found === 1 ? { kind, digest, size } : undefined;
}

function toImage(row: ImageRow): SurveyedImage {
  const { upstream, name, tag, digest } = row;
  return {
    repository: { upstream, name },
    tag: tag ?? undefined,
    digest,
    isPinned: row.is_pinned === 1,
    isImported: row.is_imported === 1,
  };
}
