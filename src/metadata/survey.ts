import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { BlobLink, Content } from './metadata-store.ts';

/**
 * Questions that walk through everything, for upkeep and for people: they take as long as the store is large, so they
 * are asked page by page and away from the event loop that serves. What they answer may be out of date when it is
 * read: whoever removes something asks the MetadataStore, which looks again.
 */
export interface Survey {
  /** Links of blobs that were made later than that: a clock was ahead. */
  laterLinks(thanMs: number, after?: string): Promise<Found<BlobLink>>;
  /** Links that `expireLinks` would remove. */
  idleLinks(unusedSinceMs: number, after?: string): Promise<Found<BlobLink>>;
  /** Content that `removeUnneeded` would remove once the idle Links and the unlinked manifests are gone. */
  unneeded(kind: Content['kind'], unusedSinceMs: number, after?: string): Promise<Found<SizedContent>>;
  /** Blobs that `removeUnneeded` would remove now: found several times faster, as no manifest has to be read. */
  unnamedBlobs(unusedSinceMs: number, after?: string): Promise<Found<SizedContent>>;
  /** What `evict` would remove, the least recently used first. */
  evictable(unusedSinceMs: number, after?: string): Promise<Found<SizedContent>>;
  /** Some of the repositories that it is linked in, by name. */
  repositoriesOf(digest: Digest): Promise<readonly Repository[]>;
  /** Every blob that has a row, in the order of digests. */
  blobs(after?: string): Promise<Found<SizedContent>>;
  /** Manifests whose bytes are not what their digest says. */
  damagedManifests(after?: string): Promise<Found<SizedContent>>;
  /** Damage that concerns no repository any more. */
  staleDamage(after?: string): Promise<Found<Digest>>;
  /** Those of `digests` that have neither a row nor known damage, and no Link of a repository that lives here. */
  withoutRow(digests: readonly Digest[]): Promise<readonly Digest[]>;
  /** Every tag, by repository and name. */
  tags(after?: string): Promise<Found<SurveyedImage>>;
  /**
   * Manifests that are held in a repository and known by their digest alone: no tag means them there, no index there
   * lists them, and they are attached to no other.
   */
  untagged(after?: string): Promise<Found<SurveyedImage>>;
  /** What is linked in the repository and held. */
  linked(repository: Repository, after?: string): Promise<Found<SizedContent>>;
  /**
   * The manifest with everything under it as the repository reads it, held there or not; the named one first. `tag` is the
   * name by which it is meant; by its digest, all its tags are a part of it.
   */
  image(repository: Repository, digest: Digest, tag?: string): Promise<readonly SurveyedManifest[]>;
}

/** One page. Going on after `next` brings what follows; there is no more without it. */
export interface Found<T> {
  readonly entries: readonly T[];
  readonly next: string | undefined;
}

export interface SizedContent extends Content {
  /** Bytes. */
  readonly size: number;
}

export interface SurveyedImage {
  readonly repository: Repository;
  /** `undefined`: known by its digest alone. */
  readonly tag: string | undefined;
  readonly digest: Digest;
  readonly isPinned: boolean;
  /** Given by an import rather than by an upstream's answer. */
  readonly isImported: boolean;
}

export interface SurveyedManifest {
  readonly digest: Digest;
  readonly isHeld: boolean;
  /** It was held, and is not because its bytes are damaged. */
  readonly isDamaged: boolean;
  /** It would stay if the image's name were removed: another name, repository or index needs it, or one above it. */
  readonly isShared: boolean;
  /** Bytes; 0 for one that is not held. */
  readonly size: number;
  readonly mediaType: string | undefined;
  readonly usedAtMs: number;
  /** An index's entries. */
  readonly children: readonly Descriptor[];
  readonly blobs: readonly SurveyedBlob[];
}

export interface SurveyedBlob {
  readonly digest: Digest;
  readonly size: number;
  readonly mediaType: string;
  readonly isConfig: boolean;
  readonly isHeld: boolean;
  readonly isDamaged: boolean;
  /** A manifest that would stay names it, in the image or outside, or another repository has it. */
  readonly isShared: boolean;
  readonly usedAtMs: number;
}

/** Everything that a paged question finds, page after page. */
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
