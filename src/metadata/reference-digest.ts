import { type Digest, isDigest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import type { MetadataStore } from './metadata-store.ts';

/** The digest of a reference (a tag or a digest) in a repository; `undefined` if it has no such tag. */
export async function digestOfReference(
  metadata: Pick<MetadataStore, 'readTag'>,
  repository: Repository,
  reference: string,
): Promise<Digest | undefined> {
  return isDigest(reference) ? reference : (await metadata.readTag(repository, reference))?.digest;
}
