import type { BlobReader } from '../lib/blob-reader.ts';
import { type ContentTree, readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { type Manifest, parseManifest } from '../oci/manifest.ts';
import { formatPlatform, isAttestation, normalizePlatform, type Platform } from '../oci/platform.ts';
import { type ContentLookup, configPlatform } from '../oci/platform-choice.ts';
import type { Repository } from '../oci/repository.ts';
import type { MetadataStore } from './metadata-store.ts';

/** Where stored content is found: the index, and the bytes of blobs. */
export interface HeldStores {
  readonly metadata: MetadataStore;
  readonly blobs: { stat(digest: Digest): Promise<{ readonly size: number } | undefined> };
}

/**
 * What is missing of a tree in the repository, as texts. A blob must be linked there, since equal content elsewhere may
 * be somebody else's, and its file must exist with the right size, since the index does not notice what a disk loses.
 */
export async function missingFrom(
  tree: ContentTree,
  repository: Repository,
  { metadata, blobs }: HeldStores,
): Promise<string[]> {
  const missing = tree.missing.map(({ digest, platform }) =>
    platform === undefined ? digest : `${formatPlatform(platform)} (${digest})`,
  );
  for (const { digest, size } of tree.blobs) {
    const isHeld =
      (await metadata.statBlob(digest))?.size === size && (await blobs.stat(digest))?.size === size;
    if (!isHeld || !(await metadata.isLinked(repository, digest))) missing.push(digest);
  }
  const unmatched = tree.unmatched.map(
    platform => `an image for ${formatPlatform(platform)}, which its index does not list`,
  );
  return [...unmatched, ...missing];
}

/**
 * A lookup of content that is stored in the repository. `open` opens blobs and need not check to which repository they
 * belong.
 */
export function heldContent(
  repository: Repository,
  metadata: MetadataStore,
  open: (digest: Digest) => Promise<BlobReader | undefined>,
): ContentLookup {
  return {
    manifest: ({ digest }) => metadata.readLinkedManifest(repository, digest),
    config: async ({ digest }) => {
      const isHeld =
        (await metadata.isLinked(repository, digest)) && (await metadata.statBlob(digest)) !== undefined;
      return isHeld ? open(digest) : undefined;
    },
  };
}

/**
 * The platforms of an index that are completely stored; `undefined` if everything is, or if `root` is not an index.
 * Attestations, which no client pulls, only count towards everything.
 */
export async function heldPlatforms(
  root: Manifest,
  repository: Repository,
  stores: HeldStores,
  lookup: ContentLookup,
): Promise<readonly Platform[] | undefined> {
  const { mediaType, digest, bytes } = root;
  const descriptor = { mediaType, digest, size: bytes.byteLength };
  const isHeld = async (child: Descriptor, platforms?: readonly Platform[]): Promise<boolean> =>
    (await missingFrom(await readContentTree(child, { lookup, platforms }), repository, stores)).length === 0;
  const view = parseManifest(bytes, mediaType);
  if (view.kind === 'manifest' || (await isHeld(descriptor))) return undefined;
  const held = new Map<string, Platform>();
  for (const child of view.manifests) {
    if (isAttestation(child) || !(await isHeld(child))) continue;
    const named = child.platform ?? (await configPlatform(child, lookup));
    if (named === undefined) continue;
    const platform = normalizePlatform(named);
    // Another child may be the one that is pulled for this platform.
    if (await isHeld(descriptor, [platform])) held.set(formatPlatform(platform), platform);
  }
  return [...held.values()];
}
