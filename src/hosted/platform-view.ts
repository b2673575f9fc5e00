import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Manifest, parseManifest } from '../oci/manifest.ts';
import { DOCKER_MANIFEST_LIST, isIndexType, OCI_INDEX } from '../oci/media-types.ts';
import { choosePlatform, DEFAULT_PLATFORM, formatPlatform, parsePlatform } from '../oci/platform.ts';
import type { ManifestWant } from '../oci/pull-source.ts';

/** An index below an index is rare, one below that unheard of; what a client may push is deeper, but not served so. */
const MAX_DEPTH = 3;

/**
 * What a tag that means `manifest` is for this client: the manifest itself, but for one that asks for a platform, or
 * accepts no index at all, the child that suits it best. MANIFEST_UNKNOWN when none does.
 */
export async function narrowToPlatform(
  manifest: Manifest,
  want: ManifestWant,
  readChild: (digest: Digest) => Promise<Manifest | undefined>,
): Promise<Manifest | undefined> {
  const acceptsIndex = want.accepts(OCI_INDEX) || want.accepts(DOCKER_MANIFEST_LIST);
  if (want.platform === undefined && acceptsIndex) return manifest;
  const platform = want.platform === undefined ? DEFAULT_PLATFORM : parsePlatform(want.platform);
  let current: Manifest | undefined = manifest;
  for (let depth = 0; current !== undefined && isIndexType(current.mediaType); depth += 1) {
    const { manifests } = parseManifest(current.bytes, current.mediaType);
    const [best] = choosePlatform(manifests, platform);
    if (best === undefined || depth === MAX_DEPTH) {
      throw new OciError('MANIFEST_UNKNOWN', {
        message: `the index has no image for ${formatPlatform(platform)}`,
        detail: { index: current.digest },
      });
    }
    current = await readChild(best.digest);
  }
  return current;
}
