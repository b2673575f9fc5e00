import type { Digest } from '../oci/digest.ts';
import { parseManifest } from '../oci/manifest.ts';
import { INDEX_TYPES } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';
import type { BlobLink, BlobObject, Content } from './metadata-store.ts';
import { Database } from './postgres/database.ts';
import { exists } from './postgres/exists.ts';
import * as images from './postgres/image-rows.ts';
import { unknownObjects } from './postgres/objects.ts';
import type { PostgresSettings } from './postgres/postgres-settings.ts';
import * as reachability from './postgres/reachability.ts';
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

/** One question at a time is enough, and leaves the database to those who serve. */
const SURVEY_CONNECTIONS = 1;

/** Opens a survey of the index in a PostgreSQL database, on a connection of its own. */
export async function openPostgresSurvey(
  settings: PostgresSettings,
): Promise<Survey & { close(): Promise<void> }> {
  return new PostgresSurvey(
    new Database({ ...settings, poolSize: SURVEY_CONNECTIONS }, { isForSurvey: true }),
  );
}

/**
 * As an SQL column, in a statement with repositories as `r`: whether something was imported into the repository under
 * this digest.
 */
const isImported = (digest: string) =>
  `${exists(`@preloads p WHERE p.repository_id = r.id AND p.digest = ${digest}`)} AS "isImported"`;

/** As an SQL column: the size of the lists of referrers that are removed with the manifest. */
const referrersBytes = (digest: string) => `(
  SELECT coalesce(sum(length(d.bytes)), 0)::bigint
  FROM @links l JOIN @documents d ON d.repository_id = l.repository_id AND d.subject = l.digest
  WHERE l.digest = ${digest} AND l.kind = 'manifest')`;

/** A Link of the blob that is new or pinned, whichever repository's. */
const isKeptByLink = (digest: string, sinceMs: string) =>
  exists(`@links l JOIN @repositories r ON r.id = l.repository_id
  WHERE l.digest = ${digest} AND l.kind = 'blob'
    AND (l.created_at_ms >= ${sinceMs} OR ${reachability.isPinnedIn('l.repository_id', 'l.digest')})`);

// Pages of a table, of which `is_found` selects rows. $1: the time; $2: the digest after which to begin.

const blobsThat = (condition: string) => `
  SELECT 'blob' AS kind, b.digest, b.size, b.used_at_ms, b.used_at_ms < $1 AND ${condition} AS is_found
  FROM @blobs b WHERE b.digest > $2 ORDER BY b.digest LIMIT ${ROWS_PER_PAGE}`;

const BLOBS = {
  unneeded: blobsThat(`NOT ${reachability.isNamedByKept('b.digest', '$1')}
    AND NOT ${isKeptByLink('b.digest', '$1')} AND NOT ${reachability.isBeingFilled('b.digest')}`),
  unnamed: blobsThat(`NOT ${reachability.isNamed('b.digest')} AND NOT ${reachability.isLinkedBlob('b.digest')}
    AND NOT ${reachability.isBeingFilled('b.digest')}`),
  unlinked: blobsThat(`NOT ${reachability.isLinked('b.digest')}
    AND NOT ${reachability.isNamedByKept('b.digest', '$1')} AND NOT ${reachability.isBeingFilled('b.digest')}`),
};

const UNNEEDED_MANIFESTS = `
  SELECT 'manifest' AS kind, m.digest, m.size, m.used_at_ms,
    m.used_at_ms < $1 AND NOT ${reachability.isKeptManifest('m.digest')} AS is_found
  FROM @manifests m WHERE m.digest > $2 ORDER BY m.digest LIMIT ${ROWS_PER_PAGE}`;

/** The least recently used content of a kind. */
const oldest = (kind: Content['kind'], table: string) => `(
  SELECT '${kind}' AS kind, digest, size, used_at_ms FROM ${table}
  WHERE (used_at_ms, digest) > ($2, $3) AND used_at_ms < $1
  ORDER BY used_at_ms, digest LIMIT ${ROWS_PER_PAGE})`;

/** $2 and $3: the time and digest after which to begin. */
const BY_USE = `
  SELECT content.kind, content.digest, content.used_at_ms,
    content.size + CASE WHEN content.kind = 'manifest' THEN ${referrersBytes('content.digest')} ELSE 0 END AS size,
    ${reachability.isEvictable('content.digest')} AS is_found
  FROM (${oldest('blob', '@blobs')} UNION ALL ${oldest('manifest', '@manifests')}
    ORDER BY used_at_ms, digest LIMIT ${ROWS_PER_PAGE}) content
  ORDER BY content.used_at_ms, content.digest`;

/** $1: the digest after which to begin. */
const LOST = `
  SELECT CASE WHEN ${reachability.isLinkedManifest('q.digest')} THEN 'manifest' ELSE 'blob' END AS kind,
    q.digest, q.reason,
    (${reachability.isHosted('q.digest')} OR ${reachability.isUnderPin('q.digest')})
      AND NOT ${reachability.isStoredBlob('q.digest')}
      AND NOT ${exists('@manifests m WHERE m.digest = q.digest')} AS is_lost
  FROM @quarantine q WHERE q.digest > $1 ORDER BY q.digest LIMIT ${ROWS_PER_PAGE}`;

/** A page of Links, of which `condition` selects some. $1: the time; $2 to $4: the Link after which to begin. */
const linksThat = (condition: string) => `
  SELECT l.repository_id, r.upstream, r.name, l.digest, l.kind,
    r.id IS NOT NULL AND l.kind = 'blob' AND ${condition} AS is_found
  FROM @links l LEFT JOIN @repositories r ON r.id = l.repository_id
  WHERE (l.repository_id, l.digest, l.kind) > ($2, $3, $4)
  ORDER BY l.repository_id, l.digest, l.kind LIMIT ${ROWS_PER_PAGE}`;

const LINKS = {
  later: linksThat('l.created_at_ms > $1'),
  idle: linksThat(`l.created_at_ms < $1
    AND NOT ${exists('@blobs b WHERE b.digest = l.digest AND b.used_at_ms >= $1')}
    AND NOT ${reachability.isPinnedIn('l.repository_id', 'l.digest')}
    AND NOT ${reachability.isNamedIn('l.repository_id', 'l.digest')}`),
};

/** $1 to $3: the tag after which to begin. Of each repository the tags are read in the order of their index. */
const TAGS = `
  SELECT r.id AS repository_id, r.upstream, r.name, t.tag, t.digest,
    ${exists('@pins p WHERE p.repository_id = r.id AND p.reference IN (t.tag, t.digest)')} AS "isPinned",
    ${isImported('t.digest')}, true AS is_found
  FROM @repositories r
  CROSS JOIN LATERAL (
    SELECT tag, digest FROM @tags
    WHERE repository_id = r.id AND tag > CASE WHEN (r.upstream, r.name) = ($1, $2) THEN $3 ELSE '' END
    ORDER BY tag LIMIT ${ROWS_PER_PAGE}) t
  WHERE (r.upstream, r.name) >= ($1, $2)
  ORDER BY r.upstream, r.name, t.tag LIMIT ${ROWS_PER_PAGE}`;

const UNTAGGED = `
  SELECT l.repository_id, r.upstream, r.name, NULL AS tag, l.digest,
    ${reachability.isPinnedIn('l.repository_id', 'l.digest')} AS "isPinned", ${isImported('l.digest')},
    ${exists(`@readings g JOIN @manifests m ON m.digest = g.digest
      WHERE ${reachability.linksTo('l', 'g')} AND g.subject IS NULL`)}
      AND NOT ${exists('@tags t WHERE t.digest = l.digest AND t.repository_id = l.repository_id')}
      AND NOT ${reachability.isNamedIn('l.repository_id', 'l.digest')} AS is_found
  FROM @links l JOIN @repositories r ON r.id = l.repository_id
  WHERE (l.repository_id, l.digest) > ($1, $2) AND l.kind = 'manifest'
  ORDER BY l.repository_id, l.digest LIMIT ${ROWS_PER_PAGE}`;

const REPOSITORIES = `
  SELECT DISTINCT r.upstream, r.name FROM @links l JOIN @repositories r ON r.id = l.repository_id
  WHERE l.digest = $1 AND (r.upstream = '' OR l.media_type IS NOT NULL
    OR l.kind = 'blob' AND (${reachability.isNamedIn('r.id', 'l.digest')} OR NOT ${reachability.isNamed('l.digest')}))
  ORDER BY r.upstream, r.name LIMIT ${MAX_REPOSITORIES_NAMED}`;

const LINKED = `
  SELECT l.kind, l.digest, CASE
    WHEN l.kind = 'blob' THEN (SELECT b.size FROM @blobs b WHERE b.digest = l.digest)
    ELSE (SELECT m.size FROM @manifests m WHERE m.digest = l.digest) END AS size
  FROM @links l
  WHERE l.repository_id = (SELECT id FROM @repositories WHERE upstream = $1 AND name = $2)
    AND (l.digest, l.kind) > ($3, $4)
  ORDER BY l.digest, l.kind LIMIT ${ROWS_PER_PAGE}`;

interface ContentRow extends SizedContent {
  readonly is_found: boolean;
  readonly used_at_ms: number;
}

interface LinkRow {
  readonly repository_id: number;
  readonly upstream: string | null;
  readonly name: string | null;
  readonly digest: Digest;
  readonly kind: Content['kind'];
  readonly is_found: boolean;
}

interface ImageRow {
  readonly repository_id: number;
  readonly upstream: string;
  readonly name: string;
  readonly tag: string | null;
  readonly digest: Digest;
  readonly isPinned: boolean;
  readonly isImported: boolean;
  readonly is_found: boolean;
}

class PostgresSurvey implements Survey {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  laterLinks(thanMs: number, after?: string) {
    return this.#links(LINKS.later, thanMs, after);
  }

  idleLinks(unusedSinceMs: number, after?: string) {
    return this.#links(LINKS.idle, unusedSinceMs, after);
  }

  unneeded(kind: Content['kind'], unusedSinceMs: number, after = '') {
    return this.#contents(kind === 'blob' ? BLOBS.unneeded : UNNEEDED_MANIFESTS, unusedSinceMs, after);
  }

  unnamedBlobs(unusedSinceMs: number, after = '') {
    return this.#contents(BLOBS.unnamed, unusedSinceMs, after);
  }

  unlinked(kind: Content['kind'], unusedSinceMs: number, after = '') {
    return this.#contents(kind === 'blob' ? BLOBS.unlinked : UNNEEDED_MANIFESTS, unusedSinceMs, after);
  }

  async evictable(unusedSinceMs: number, after?: string) {
    const [usedAtMs, digest] = after === undefined ? ['-1', ''] : splitCursor(after);
    const rows = await this.#database.rows<ContentRow>(BY_USE, [unusedSinceMs, Number(usedAtMs), digest]);
    return page(rows, toContent, row => joinCursor(row.used_at_ms, row.digest));
  }

  repositoriesOf(digest: Digest) {
    return this.#database.rows<Repository>(REPOSITORIES, [digest]);
  }

  async blobs(after = '') {
    const rows = await this.#database.rows<SizedContent>(
      `SELECT 'blob' AS kind, digest, size FROM @blobs WHERE digest > $1 ORDER BY digest LIMIT ${ROWS_PER_PAGE}`,
      [after],
    );
    return page(
      rows,
      row => row,
      row => row.digest,
    );
  }

  async damagedManifests(after = ''): Promise<Found<SizedContent>> {
    const rows = await this.#database.rows<{ digest: Digest; bytes: Buffer }>(
      `SELECT digest, bytes FROM @manifests WHERE digest > $1 ORDER BY digest LIMIT ${MANIFESTS_PER_PAGE}`,
      [after],
    );
    return page(
      rows,
      ({ digest, bytes }) =>
        isSound(digest, bytes) ? undefined : { kind: 'manifest' as const, digest, size: bytes.length },
      row => row.digest,
      MANIFESTS_PER_PAGE,
    );
  }

  async lost(after = '') {
    const rows = await this.#database.rows<LostContent & { is_lost: boolean }>(LOST, [after]);
    return page(
      rows,
      ({ is_lost, ...content }) => (is_lost ? content : undefined),
      row => row.digest,
    );
  }

  async staleDamage(after = '') {
    const rows = await this.#database.rows<{ digest: Digest; is_stale: boolean }>(
      `SELECT q.digest, NOT ${reachability.isLinked('q.digest')} AS is_stale
      FROM @quarantine q WHERE q.digest > $1 ORDER BY q.digest LIMIT ${ROWS_PER_PAGE}`,
      [after],
    );
    return page(
      rows,
      row => (row.is_stale ? row.digest : undefined),
      row => row.digest,
    );
  }

  async withoutRow(digests: readonly Digest[]) {
    const rows = await this.#database.rows<{ digest: Digest }>(
      `SELECT given.digest FROM unnest($1::text[]) AS given (digest)
      WHERE NOT ${reachability.isStoredBlob('given.digest')}
        AND NOT ${reachability.isDamaged('given.digest')}
        AND NOT ${reachability.isHostedBlob('given.digest')}`,
      [digests],
    );
    const without = new Set(rows.map(({ digest }) => digest));
    return digests.filter(digest => without.has(digest));
  }

  strayObjects(objects: readonly BlobObject[]) {
    return unknownObjects(this.#database, objects);
  }

  async tags(after?: string) {
    const [upstream, name, tag] = after === undefined ? ['', '', ''] : splitCursor(after);
    const rows = await this.#database.rows<ImageRow>(TAGS, [upstream, name, tag]);
    return page(rows, toImage, row => joinCursor(row.upstream, row.name, row.tag ?? ''));
  }

  async untagged(after?: string) {
    const [repository, digest] = after === undefined ? ['0', ''] : splitCursor(after);
    // Clients of the administration API can send any cursor.
    const rows = await this.#database.rows<ImageRow>(UNTAGGED, [Number(repository) || 0, digest]);
    return page(rows, toImage, row => joinCursor(row.repository_id, row.digest));
  }

  async linked({ upstream, name }: Repository, after?: string) {
    const [digest, kind] = after === undefined ? ['', ''] : splitCursor(after);
    const rows = await this.#database.rows<Content & { readonly size: number | null }>(LINKED, [
      upstream,
      name,
      digest,
      kind,
    ]);
    return page(
      rows,
      row => (row.size === null ? undefined : { ...row, size: row.size }),
      row => joinCursor(row.digest, row.kind),
    );
  }

  image(repository: Repository, digest: Digest, tag?: string): Promise<readonly SurveyedManifest[]> {
    return this.#database.read(async session => {
      const tree = await images.readTree(session, repository, digest);
      const rows = await images.readManifestRows(session, repository, tree, {
        tag,
        indexTypes: [...INDEX_TYPES],
      });
      const parts = rows.map(row => ({ row, held: toHeld(row) }));
      const held = parts.flatMap(part => part.held ?? []);
      const blobs = await images.readBlobRows(session, repository, tree, held);
      const manifests = parts.map(part => toManifest(part, blobs));
      return withShared(manifests);
    });
  }

  close(): Promise<void> {
    return this.#database.close();
  }

  async #contents(sql: string, sinceMs: number, after: string): Promise<Found<SizedContent>> {
    const rows = await this.#database.rows<ContentRow>(sql, [sinceMs, after]);
    return page(rows, toContent, row => row.digest);
  }

  async #links(sql: string, atMs: number, after: string | undefined): Promise<Found<BlobLink>> {
    const [repository, digest, kind] = after === undefined ? ['0', '', ''] : splitCursor(after);
    const rows = await this.#database.rows<LinkRow>(sql, [atMs, Number(repository), digest, kind]);
    return page(rows, toLink, row => joinCursor(row.repository_id, row.digest, row.kind));
  }
}

/** What is stored of a manifest; `undefined` if nothing is, or if it is an index with damaged bytes. */
function toHeld({ digest, mediaType, size, usedAtMs, bytes }: images.ManifestRow) {
  if (mediaType === null || size === null || usedAtMs === null) return undefined;
  if (bytes !== null && !isSound(digest, bytes)) return undefined;
  const children = bytes === null ? [] : parseManifest(bytes, mediaType).manifests;
  return { digest, mediaType, size, usedAtMs, children };
}

function toManifest(
  { row, held }: { readonly row: images.ManifestRow; readonly held: ReturnType<typeof toHeld> },
  all: readonly images.BlobRow[],
): SurveyedManifest {
  const { digest, isDamaged, isKept } = row;
  if (held === undefined) {
    return {
      digest,
      isHeld: false,
      isDamaged: isDamaged || row.mediaType !== null,
      isShared: isKept,
      size: 0,
      mediaType: undefined,
      usedAtMs: 0,
      children: [],
      blobs: [],
    };
  }
  const blobs = all.flatMap(({ manifest, ...blob }) => (manifest === digest ? [blob] : []));
  return { ...held, isHeld: true, isDamaged: false, isShared: isKept, blobs };
}

function toContent({ kind, digest, size, is_found }: ContentRow): SizedContent | undefined {
  return is_found ? { kind, digest, size } : undefined;
}

function toLink({ is_found, upstream, name, digest }: LinkRow): BlobLink | undefined {
  return is_found && upstream !== null && name !== null
    ? { repository: { upstream, name }, digest }
    : undefined;
}

function toImage(row: ImageRow): SurveyedImage | undefined {
  const { upstream, name, tag, digest, isPinned, isImported: imported, is_found } = row;
  if (!is_found) return undefined;
  return { repository: { upstream, name }, tag: tag ?? undefined, digest, isPinned, isImported: imported };
}
