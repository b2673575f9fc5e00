import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { isNonDistributable, type ManifestView, parseManifest } from '../oci/manifest.ts';
import { DOCKER_CONFIG, OCI_CONFIG } from '../oci/media-types.ts';
import { DEFAULT_PLATFORM, type Platform } from '../oci/platform.ts';
import { chooseChild, type ContentLookup } from '../oci/platform-choice.ts';
import { parseReference } from '../oci/reference.ts';
import { blobPath, type BundleImage } from './layout.ts';

/**
 * The content of `manifest.json`, Docker's own index of images. Of each image it has the one for the first platform,
 * since it does not know others. Artifacts (a chart, a signature) and images without a tag are left out.
 */
export async function dockerManifestBytes(
  images: readonly BundleImage[],
  lookup: ContentLookup,
): Promise<Uint8Array> {
  const entries = new Map<Digest, { Config: string; RepoTags: string[]; Layers: string[] }>();
  for (const { descriptor, name, platforms = [] } of [...images].sort(byName)) {
    const [platform = DEFAULT_PLATFORM] = platforms;
    const [config, ...layers] = (await imageView(descriptor, lookup, platform))?.blobs ?? [];
    const isImage = config?.mediaType === OCI_CONFIG || config?.mediaType === DOCKER_CONFIG;
    if (config === undefined || !isImage || name === undefined || parseReference(name).tag === undefined)
      continue;
    const entry = entries.get(config.digest) ?? {
      Config: blobPath(config.digest),
      RepoTags: [],
      Layers: layers.filter(layer => !isNonDistributable(layer)).map(({ digest }) => blobPath(digest)),
    };
    entry.RepoTags.push(name);
    entry.RepoTags.sort();
    entries.set(config.digest, entry);
  }
  return Buffer.from(JSON.stringify([...entries.values()].sort((a, b) => (a.Config < b.Config ? -1 : 1))));
}

/** Images that differ only in how their layers are compressed share a config: the first name then decides. */
function byName({ name: a = '' }: BundleImage, { name: b = '' }: BundleImage): number {
  return a < b ? -1 : 1;
}

async function imageView(
  descriptor: Descriptor,
  lookup: ContentLookup,
  platform: Platform,
): Promise<ManifestView | undefined> {
  const manifest = await lookup.manifest(descriptor);
  if (manifest === undefined) return undefined;
  const view = parseManifest(manifest.bytes, manifest.mediaType);
  if (view.kind === 'manifest') return view;
  const child = await chooseChild(view.manifests, platform, lookup);
  return child && imageView(child, lookup, platform);
}
