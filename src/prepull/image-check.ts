import type { BlobReader } from '../lib/blob-reader.ts';
import { heldContent, type HeldStores, missingFrom } from '../metadata/held-tree.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import { readContentTree } from '../oci/content-tree.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { Platform } from '../oci/platform.ts';
import type { Repository } from '../oci/repository.ts';

/** The index, and the blobs of the store. */
export interface HeldContent extends HeldStores {
  readonly blobs: HeldStores['blobs'] & { open(digest: Digest): Promise<BlobReader | undefined> };
}

/** What is missing of an image, as texts; empty if it can be pulled without any upstream. */
export async function missingOfImage(
  stores: HeldContent,
  repository: Repository,
  reference: string,
  platforms: readonly Platform[] | undefined,
): Promise<readonly string[]> {
  const { metadata, blobs } = stores;
  const digest = await digestOfReference(metadata, repository, reference);
  const root = digest && (await metadata.readLinkedManifest(repository, digest));
  if (root === undefined) return ['everything'];
  const lookup = heldContent(repository, metadata, child => blobs.open(child));
  const descriptor = { mediaType: root.mediaType, digest: root.digest, size: root.bytes.byteLength };
  try {
    return await missingFrom(await readContentTree(descriptor, { lookup, platforms }), repository, stores);
  } catch (error) {
    if (error instanceof OciError) return [error.message];
    throw error;
  }
}
