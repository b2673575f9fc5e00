// A survey of an index in memory, for tests. Everything is one page.
import { digestAlgorithm, type Digest, digestOf } from '../oci/digest.ts';
import { isIndexType, OCI_ARTIFACT_MANIFEST } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';
import * as reachability from './memory/reachability.fixture.ts';
import { isStray } from './memory/objects.fixture.ts';
import { isIdleLink, lostContent } from './memory/removals.fixture.ts';
import { find } from './memory/repositories.fixture.ts';
import {
  linkKey,
  type ManifestRow,
  type Reading,
  readingKey,
  type RepositoryRows,
  type Tables,
} from './memory/tables.fixture.ts';
import type { BlobLink, BlobObject, Content } from './metadata-store.ts';
import {
  type Found,
  type SizedContent,
  type Survey,
  type SurveyedBlob,
  type SurveyedImage,
  type SurveyedManifest,
  withShared,
} from './survey.ts';

/** As many as `repositoriesOf` returns. */
const SOME = 3;

interface UsedContent extends SizedContent {
  readonly usedAtMs: number;
}

export class MemorySurvey implements Survey {
  readonly #tables: Tables;

  constructor(tables: Tables) {
    this.#tables = tables;
  }

  async laterLinks(thanMs: number) {
    return all(this.#blobLinks(({ link }) => link.createdAtMs > thanMs));
  }

  async idleLinks(unusedSinceMs: number) {
    return all(this.#blobLinks(placed => isIdleLink(this.#tables, placed, unusedSinceMs)));
  }

  async unneeded(kind: Content['kind'], unusedSinceMs: number) {
    if (kind === 'manifest') return this.#unkeptManifests(unusedSinceMs);
    const isKept = (digest: Digest) =>
      reachability
        .linksOf(this.#tables, digest, ['blob'])
        .some(({ rows, link }) => link.createdAtMs >= unusedSinceMs || rows.pins.has(digest));
    return all(
      this.#blobsBefore(unusedSinceMs).filter(
        ({ digest }) => !isKept(digest) && !this.#isNamedByKept(digest, unusedSinceMs),
      ),
    );
  }

  async unnamedBlobs(unusedSinceMs: number) {
    return all(
      this.#blobsBefore(unusedSinceMs).filter(
        ({ digest }) =>
          reachability.namersOf(this.#tables, digest).length === 0 &&
          reachability.linksOf(this.#tables, digest, ['blob']).length === 0,
      ),
    );
  }

  async unlinked(kind: Content['kind'], unusedSinceMs: number) {
    if (kind === 'manifest') return this.#unkeptManifests(unusedSinceMs);
    return all(
      this.#blobsBefore(unusedSinceMs).filter(
        ({ digest }) =>
          reachability.linksOf(this.#tables, digest).length === 0 &&
          !this.#isNamedByKept(digest, unusedSinceMs),
      ),
    );
  }

  async evictable(unusedSinceMs: number) {
    const listBytes = (digest: Digest) =>
      reachability
        .linksOf(this.#tables, digest, ['manifest'])
        .reduce((sum, { rows }) => sum + (rows.referrersLists.get(digest)?.bytes.byteLength ?? 0), 0);
    const found = this.#contents()
      .filter(
        ({ digest, usedAtMs }) => usedAtMs < unusedSinceMs && reachability.isEvictable(this.#tables, digest),
      )
      .toSorted((a, b) => a.usedAtMs - b.usedAtMs || compare(a.digest, b.digest));
    return all(
      found.map(({ kind, digest, size }) => ({
        kind,
        digest,
        size: size + (kind === 'manifest' ? listBytes(digest) : 0),
      })),
    );
  }

  async repositoriesOf(digest: Digest): Promise<readonly Repository[]> {
    const isNamed = reachability.namersOf(this.#tables, digest).length > 0;
    const isHere = ({ rows, link }: reachability.PlacedLink) =>
      rows.repository.upstream === '' ||
      link.mediaType !== undefined ||
      (link.kind === 'blob' && (!isNamed || reachability.namersIn(this.#tables, rows, digest).length > 0));
    const found = reachability.linksOf(this.#tables, digest).filter(isHere);
    const repositories = [...new Set(found.map(({ rows }) => rows.repository))];
    return repositories.toSorted(compareRepositories).slice(0, SOME);
  }

  async blobs() {
    return all(this.#blobsBefore(Number.POSITIVE_INFINITY, { alsoFilled: true }));
  }

  async damagedManifests() {
    const damaged = this.#tables.manifests
      .values()
      .filter(row => !isSound(row))
      .map(({ digest, bytes }) => ({ kind: 'manifest' as const, digest, size: bytes.byteLength }));
    return all(damaged.toSorted(byDigest));
  }

  async lost() {
    return all(lostContent(this.#tables));
  }

  async staleDamage() {
    const { damage } = this.#tables;
    const stale = damage
      .values()
      .filter(({ digest }) => reachability.linksOf(this.#tables, digest).length === 0);
    return all(stale.toSorted(byDigest).map(({ digest }) => digest));
  }

  async withoutRow(digests: readonly Digest[]) {
    const { blobs, damage } = this.#tables;
    return digests.filter(
      digest => !blobs.has(digest) && !damage.has(digest) && !reachability.isHostedBlob(this.#tables, digest),
    );
  }

  async strayObjects(objects: readonly BlobObject[]) {
    return objects.filter(object => isStray(this.#tables, object));
  }

  async tags() {
    return all(
      this.#repositories().flatMap(rows =>
        rows.tags.keys().flatMap(tag => {
          const digest = rows.tags.get(tag)?.digest;
          return digest === undefined ? [] : [imageOf(rows, digest, tag)];
        }),
      ),
    );
  }

  async untagged() {
    const isUntagged = (rows: RepositoryRows, reading: Reading) =>
      reachability.isReadIn(rows, reading) &&
      reading.view.subject === undefined &&
      this.#tables.manifests.has(reading.digest) &&
      !rows.tags.values().some(tag => tag.digest === reading.digest) &&
      reachability.namersIn(this.#tables, rows, reading.digest).length === 0;
    return all(
      this.#repositories().flatMap(rows =>
        this.#tables.readings
          .values()
          .filter(reading => isUntagged(rows, reading))
          .toSorted(byDigest)
          .map(({ digest }) => imageOf(rows, digest, undefined)),
      ),
    );
  }

  async linked(repository: Repository) {
    const links = find(this.#tables, repository)?.links;
    const stored = (links?.keys() ?? []).flatMap(key => {
      const link = links?.get(key);
      const size =
        link?.kind === 'blob'
          ? this.#tables.blobs.get(link.digest)?.size
          : this.#tables.manifests.get(link?.digest ?? '')?.bytes.byteLength;
      return link === undefined || size === undefined ? [] : [{ kind: link.kind, digest: link.digest, size }];
    });
    return all(stored);
  }

  async image(repository: Repository, digest: Digest, tag?: string): Promise<readonly SurveyedManifest[]> {
    const rows = find(this.#tables, repository);
    const tree = new Set([digest]);
    for (const each of tree) {
      for (const child of this.#readingIn(rows, each)?.view.manifests ?? []) tree.add(child.digest);
    }
    const isKept = (each: Digest) => {
      // If an image is removed by digest, its tags are removed, too.
      const isTagged =
        (each !== digest || tag !== undefined) &&
        (rows?.tags.keys() ?? []).some(
          name => rows?.tags.get(name)?.digest === each && !(each === digest && name === tag),
        );
      return isTagged || this.#isManifestNeededOutside(rows, each, tree);
    };
    return withShared([...tree].map(each => this.#manifest(rows, each, tree, isKept(each))));
  }

  #manifest(
    rows: RepositoryRows | undefined,
    digest: Digest,
    tree: ReadonlySet<Digest>,
    isShared: boolean,
  ): SurveyedManifest {
    const reading = this.#readingIn(rows, digest);
    const row = this.#tables.manifests.get(digest);
    const isWrong = row !== undefined && reading?.view.kind === 'index' && !isSound(row);
    if (reading === undefined || row === undefined || isWrong) {
      const isDamaged = isWrong || this.#tables.damage.has(digest);
      const nothing = { size: 0, mediaType: undefined, usedAtMs: 0, children: [], blobs: [] };
      return { digest, isHeld: false, isDamaged, isShared, ...nothing };
    }
    const { mediaType, view } = reading;
    const hasConfig = mediaType !== OCI_ARTIFACT_MANIFEST;
    const blobs = view.blobs.map((named, position): SurveyedBlob => {
      const blob = this.#tables.blobs.get(named.digest);
      return {
        digest: named.digest,
        size: named.size,
        mediaType: named.mediaType,
        isConfig: hasConfig && position === 0,
        isHeld: blob !== undefined,
        isDamaged: this.#tables.damage.has(named.digest),
        isShared: this.#isNeededOutside(rows, named.digest, tree),
        usedAtMs: blob?.usedAtMs ?? 0,
      };
    });
    return {
      digest,
      isHeld: true,
      isDamaged: false,
      isShared,
      size: row.bytes.byteLength,
      mediaType,
      usedAtMs: row.usedAtMs,
      children: isIndexType(mediaType) ? view.manifests : [],
      blobs,
    };
  }

  #readingIn(rows: RepositoryRows | undefined, digest: Digest): Reading | undefined {
    const mediaType = rows?.links.get(linkKey(digest, 'manifest'))?.mediaType;
    return mediaType === undefined ? undefined : this.#tables.readings.get(readingKey(digest, mediaType));
  }

  /** Whether another repository has the manifest, or one of this repository outside the image lists it. */
  #isManifestNeededOutside(
    rows: RepositoryRows | undefined,
    digest: Digest,
    tree: ReadonlySet<Digest>,
  ): boolean {
    const isElsewhere = reachability
      .linksOf(this.#tables, digest, ['manifest'])
      .some(
        ({ rows: other, link }) =>
          other !== rows && (link.mediaType !== undefined || other.repository.upstream === ''),
      );
    const isListed = (namer: Reading) => namer.view.manifests.some(child => child.digest === digest);
    return (
      isElsewhere ||
      (rows !== undefined &&
        reachability
          .namersIn(this.#tables, rows, digest)
          .some(namer => isListed(namer) && !tree.has(namer.digest)))
    );
  }

  /** Whether a manifest outside the image names the blob, or another repository keeps it without one. */
  #isNeededOutside(rows: RepositoryRows | undefined, digest: Digest, tree: ReadonlySet<Digest>): boolean {
    return (
      reachability.namersOf(this.#tables, digest).some(namer => !tree.has(namer.digest)) ||
      reachability
        .linksOf(this.#tables, digest)
        .some(
          ({ rows: other }) => other !== rows && (other.repository.upstream === '' || other.pins.has(digest)),
        )
    );
  }

  /** A manifest that is kept, or was used since, names it. */
  #isNamedByKept(digest: Digest, sinceMs: number): boolean {
    const wasUsed = (namer: Digest) => (this.#tables.manifests.get(namer)?.usedAtMs ?? -1) >= sinceMs;
    return reachability
      .namersOf(this.#tables, digest)
      .some(namer => wasUsed(namer.digest) || reachability.isKeptManifest(this.#tables, namer.digest));
  }

  #unkeptManifests(unusedSinceMs: number): Found<SizedContent> {
    const unkept = this.#contents().filter(
      ({ kind, digest, usedAtMs }) =>
        kind === 'manifest' && usedAtMs < unusedSinceMs && !reachability.isKeptManifest(this.#tables, digest),
    );
    return all(unkept.toSorted(byDigest).map(toContent));
  }

  /** Stored blobs that were not used since and are not being downloaded, by digest. */
  #blobsBefore(sinceMs: number, { alsoFilled = false } = {}): readonly SizedContent[] {
    return this.#contents()
      .filter(
        ({ kind, digest, usedAtMs }) =>
          kind === 'blob' &&
          usedAtMs < sinceMs &&
          (alsoFilled || !reachability.isBeingFilled(this.#tables, digest)),
      )
      .toSorted(byDigest)
      .map(toContent);
  }

  #contents(): readonly UsedContent[] {
    const { blobs, manifests } = this.#tables;
    return [
      ...blobs.values().map(row => ({ kind: 'blob' as const, ...row })),
      ...manifests.values().map(row => ({ kind: 'manifest' as const, ...row, size: row.bytes.byteLength })),
    ];
  }

  #blobLinks(isFound: (placed: reachability.PlacedLink) => boolean): readonly BlobLink[] {
    return this.#repositories().flatMap(rows =>
      rows.links
        .values()
        .filter(link => link.kind === 'blob' && isFound({ rows, link }))
        .toSorted(byDigest)
        .map(({ digest }) => ({ repository: rows.repository, digest })),
    );
  }

  #repositories(): readonly RepositoryRows[] {
    return this.#tables.repositories
      .values()
      .toSorted((a, b) => compareRepositories(a.repository, b.repository));
  }
}

function isSound({ digest, bytes }: ManifestRow): boolean {
  return digestOf(bytes, digestAlgorithm(digest)) === digest;
}

function all<T>(entries: readonly T[]): Found<T> {
  return { entries, next: undefined };
}

function toContent({ kind, digest, size }: SizedContent): SizedContent {
  return { kind, digest, size };
}

function imageOf(rows: RepositoryRows, digest: Digest, tag: string | undefined): SurveyedImage {
  return {
    repository: rows.repository,
    tag,
    digest,
    isPinned: rows.pins.has(digest) || (tag !== undefined && rows.pins.has(tag)),
    isImported: rows.preloads.values().some(preload => preload.digest === digest),
  };
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function byDigest(a: { readonly digest: Digest }, b: { readonly digest: Digest }): number {
  return compare(a.digest, b.digest);
}

function compareRepositories(a: Repository, b: Repository): number {
  return compare(a.upstream, b.upstream) || compare(a.name, b.name);
}
