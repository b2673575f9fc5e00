import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** A right to one piece of content. */
export interface ContentRight extends Right {
  /** Proved by an import alone: it says nothing of any other content, and nothing to anybody else. */
  readonly isPreload?: boolean;
}

/** `right` as it is to this content, which an import may have brought for the requester. Costs nothing where it is proved. */
export async function rightTo(
  metadata: MetadataStore,
  repository: Repository,
  digest: Digest,
  right: ContentRight,
): Promise<ContentRight> {
  const { proved, preloadedFor = [] } = right;
  if (proved || preloadedFor.length === 0) return right;
  const isPreload = await metadata.isPreloaded(repository, digest, preloadedFor);
  return isPreload ? { ...right, proved: true, isPreload } : right;
}

/** The right to anything else of the repository. */
export function withoutPreload(right: ContentRight): ContentRight {
  return right.isPreload === true ? { ...right, proved: false, isPreload: false } : right;
}

/** For whom the list of a requester is made who may read nothing of the repository but imports; `undefined`: all of it. */
export function preloadsOnly(right: ContentRight): readonly string[] | undefined {
  const { proved, provedIfUnreachable, preloadedFor = [] } = withoutPreload(right);
  return proved || provedIfUnreachable || preloadedFor.length === 0 ? undefined : preloadedFor;
}
