import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** A right to one piece of content. */
export interface ContentRight extends Right {
  /** Set if only an import gives the right: it covers no other content, and proves nothing to others. */
  readonly isPreload?: boolean;
}

/** `right` for this content, which may have been imported for the requester. Reads nothing if the right is proved. */
export async function rightTo(
  metadata: MetadataStore,
  repository: Repository,
  digest: Digest,
  right: ContentRight,
): Promise<ContentRight> {
  const grantees = granteesOf(right);
  if (grantees.length === 0) return right;
  return withPreload(right, await metadata.isPreloaded(repository, digest, grantees));
}

/** The grantees whose imports give the right to some content; none if it is proved. */
export function granteesOf({ proved, preloadedFor = [] }: Right): readonly string[] {
  return proved ? [] : preloadedFor;
}

/** The right to content; `isPreloaded` tells whether it was imported for one of `granteesOf(right)`. */
export function withPreload(right: ContentRight, isPreloaded: boolean): ContentRight {
  return isPreloaded ? { ...right, proved: true, isPreload: true } : right;
}

/** The right to other content of the same repository. */
export function withoutPreload(right: ContentRight): ContentRight {
  return right.isPreload === true ? { ...right, proved: false, isPreload: false } : right;
}

/**
 * If the requester may read nothing but imports: the grantees of those; `undefined` if it may read all of the
 * repository.
 */
export function preloadsOnly(right: ContentRight): readonly string[] | undefined {
  const { proved, provedIfUnreachable, preloadedFor = [] } = withoutPreload(right);
  return proved || provedIfUnreachable || preloadedFor.length === 0 ? undefined : preloadedFor;
}
