import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { BlobLink, BlobObject, Content } from './metadata-store.ts';

/**
 * Queries that read everything, for upkeep and for people. They take time proportional to the store, so they return
 * pages, and run outside the serving event loop. Their results may be out of date: removals go through the
 * MetadataStore, which checks again. Entries are by digest unless it says otherwise. `survey.suite.ts` is what every
 * implementation passes.
 */
export interface Survey {
  /** Links of blobs with a later time than this, from a wrong clock. In any order. */
  laterLinks(thanMs: number, after?: string): Promise<Found<BlobLink>>;
  /** Links that `expireLinks` would remove. In any order. */
  idleLinks(unusedSinceMs: number, after?: string): Promise<Found<BlobLink>>;
  /** Content that `removeUnneeded` would remove once idle Links and unlinked manifests are gone. */
  unneeded(kind: Content['kind'], unusedSinceMs: number, after?: string): Promise<Found<SizedContent>>;
  /** Blobs that `removeUnneeded` would remove now. Several times faster, since no manifest is read. */
  unnamedBlobs(unusedSinceMs: number, after?: string): Promise<Found<SizedContent>>;
  /** Content that `removeUnlinked` would remove once unlinked manifests are gone. */
  unlinked(kind: Content['kind'], unusedSinceMs: number, after?: string): Promise<Found<SizedContent>>;
  /** Content that `evict` would remove, least recently used first. Lists of referrers count with their manifest. */
  evictable(unusedSinceMs: number, after?: string): Promise<Found<SizedContent>>;
  /** Some of the repositories in which it is linked, by name, but none whose manifest of it was evicted. */
  repositoriesOf(digest: Digest): Promise<readonly Repository[]>;
  /** All blobs that have a row. */
  blobs(after?: string): Promise<Found<SizedContent>>;
  /** Manifests whose bytes do not match their digest. */
  damagedManifests(after?: string): Promise<Found<SizedContent>>;
  /** Damaged content of hosted repositories and under pins that was not stored again. */
  lost(after?: string): Promise<Found<LostContent>>;
  /** Recorded damage that no repository is concerned by any more. */
  staleDamage(after?: string): Promise<Found<Digest>>;
  /** Those of `digests` that have no row, no recorded damage, and no Link of a hosted repository. */
  withoutRow(digests: readonly Digest[]): Promise<readonly Digest[]>;
  /** Those of `objects`, which were found in the bucket, that `giveUpStrayObjects` would give up. */
  strayObjects(objects: readonly BlobObject[]): Promise<readonly BlobObject[]>;
  /** All tags, by repository and name. */
  tags(after?: string): Promise<Found<SurveyedImage>>;
  /**
   * Stored manifests without a name in their repository: no tag means them, no index lists them, and they are not
   * attached to another manifest. In any order.
   */
  untagged(after?: string): Promise<Found<SurveyedImage>>;
  /** Content that is linked in the repository and stored. */
  linked(repository: Repository, after?: string): Promise<Found<SizedContent>>;
  /**
   * The manifest and everything below it as the repository reads it, stored or not; the given one first. `tag` is the
   * name of the image; without it, the image includes all its tags.
   */
  image(repository: Repository, digest: Digest, tag?: string): Promise<readonly SurveyedManifest[]>;
}

/** One page; `next` is the position of the following one, absent on the last page. */
export interface Found<T> {
  readonly entries: readonly T[];
  readonly next: string | undefined;
}

/** Content and its size. */
export interface SizedContent extends Content {
  /** Bytes. */
  readonly size: number;
}

/**
 * Damaged content of hosted repositories and pinned images that has not been replaced yet. Other mirrored content is
 * downloaded again when it is requested.
 */
export interface LostContent extends Content {
  readonly reason: string;
}

/** An image by its name in a repository. */
export interface SurveyedImage {
  readonly repository: Repository;
  /** `undefined` for an image known by its digest only. */
  readonly tag: string | undefined;
  readonly digest: Digest;
  readonly isPinned: boolean;
  /** Whether its content was imported, for whichever of its tags, rather than fetched from upstream. */
  readonly isImported: boolean;
}

/** A manifest of an image, and what keeps it. */
export interface SurveyedManifest {
  readonly digest: Digest;
  readonly isHeld: boolean;
  /** It was stored, and is absent because its bytes are damaged. Those of an index are checked now. */
  readonly isDamaged: boolean;
  /**
   * Whether it would stay if the image's name were removed, because another name, repository or index needs it or
   * something above it.
   */
  readonly isShared: boolean;
  /** Bytes; 0 if it is not stored. */
  readonly size: number;
  readonly mediaType: string | undefined;
  readonly usedAtMs: number;
  /** The children of an index. */
  readonly children: readonly Descriptor[];
  readonly blobs: readonly SurveyedBlob[];
}

/** A blob of a manifest, and what keeps it. */
export interface SurveyedBlob {
  readonly digest: Digest;
  readonly size: number;
  readonly mediaType: string;
  readonly isConfig: boolean;
  readonly isHeld: boolean;
  readonly isDamaged: boolean;
  /**
   * Whether it would stay, because a manifest that stays, in the image or outside, names it, or another repository has
   * it.
   */
  readonly isShared: boolean;
  readonly usedAtMs: number;
}

/** The manifests of an image, with everything below one that stays marked as shared. */
export function withShared(manifests: readonly SurveyedManifest[]): readonly SurveyedManifest[] {
  const byDigest = new Map(manifests.map(manifest => [manifest.digest, manifest]));
  const shared = new Set<Digest>();
  const left = manifests.filter(({ isShared }) => isShared).map(({ digest }) => digest);
  for (let digest = left.pop(); digest !== undefined; digest = left.pop()) {
    if (shared.has(digest)) continue;
    shared.add(digest);
    left.push(...(byDigest.get(digest)?.children ?? []).map(child => child.digest));
  }
  const named = new Set(
    manifests.flatMap(({ digest, blobs }) => (shared.has(digest) ? blobs.map(blob => blob.digest) : [])),
  );
  return manifests.map(manifest => ({
    ...manifest,
    isShared: shared.has(manifest.digest),
    blobs: manifest.blobs.map(blob => ({ ...blob, isShared: blob.isShared || named.has(blob.digest) })),
  }));
}

/** All results of a paged query, page after page. */
export async function* everything<T>(
  ask: (after: string | undefined) => Promise<Found<T>>,
): AsyncIterable<readonly T[]> {
  let after: string | undefined;
  do {
    const { entries, next } = await ask(after);
    yield entries;
    after = next;
  } while (after !== undefined);
}
