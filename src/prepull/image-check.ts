import { missingFrom } from '../metadata/held-tree.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { Platform } from '../oci/platform.ts';
import type { Repository } from '../oci/repository.ts';

/** What an image would need that is not held here, in words; empty when it can be pulled without any upstream. */
export async function missingOfImage(
  metadata: MetadataStore,
  repository: Repository,
  reference: string,
  platforms: readonly Platform[] | undefined,
): Promise<readonly string[]> {
  const digest = isDigest(reference) ? reference : (await metadata.readTag(repository, reference))?.digest;
  const root = digest && (await metadata.readLinkedManifest(repository, digest));
  if (root === undefined) return ['everything'];
  const lookup = (child: Descriptor) => metadata.readLinkedManifest(repository, child.digest);
  const descriptor = { mediaType: root.mediaType, digest: root.digest, size: root.bytes.byteLength };
  try {
    return await missingFrom(await readContentTree(descriptor, { lookup, platforms }), repository, metadata);
  } catch (error) {
    if (error instanceof OciError) return [error.message];
    throw error;
  }
}
