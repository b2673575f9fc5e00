import { type ContentTree, readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type Manifest, parseManifest } from '../oci/manifest.ts';
import { formatPlatform, isAttestation, type Platform } from '../oci/platform.ts';
import type { Repository } from '../oci/repository.ts';
import type { MetadataStore } from './metadata-store.ts';

/**
 * What of a tree is not held in the repository, in words. A blob has to be linked there: equal content elsewhere may be
 * somebody else's.
 */
export async function missingFrom(
  tree: ContentTree,
  repository: Repository,
  metadata: MetadataStore,
): Promise<string[]> {
  const missing = tree.missing.map(({ digest, platform }) =>
    platform === undefined ? digest : `${formatPlatform(platform)} (${digest})`,
  );
  for (const { digest, size } of tree.blobs) {
    const isHeld = (await metadata.statBlob(digest))?.size === size;
    if (!isHeld || !(await metadata.isLinked(repository, digest))) missing.push(digest);
  }
  return [...tree.unmatched.map(platform => `nothing for ${formatPlatform(platform)}`), ...missing];
}

/**
 * The platforms of an index of which everything is held; `undefined` when all of it is, or when `root` is an image of
 * its own. Attestations, which no client pulls, count only towards all.
 */
export async function heldPlatforms(
  root: Manifest,
  repository: Repository,
  metadata: MetadataStore,
): Promise<readonly Platform[] | undefined> {
  const lookup = ({ digest }: Descriptor) => metadata.readLinkedManifest(repository, digest);
  const isHeld = async (descriptor: Descriptor): Promise<boolean> => {
    const tree = await readContentTree(descriptor, { lookup });
    return (await missingFrom(tree, repository, metadata)).length === 0;
  };
  const { mediaType, digest, bytes } = root;
  const view = parseManifest(bytes, mediaType);
  if (view.kind === 'manifest' || (await isHeld({ mediaType, digest, size: bytes.byteLength })))
    return undefined;
  const held: Platform[] = [];
  for (const child of view.manifests) {
    if (child.platform !== undefined && !isAttestation(child) && (await isHeld(child)))
      held.push(child.platform);
  }
  return held;
}
