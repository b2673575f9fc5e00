import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Manifest, parseManifest } from '../oci/manifest.ts';
import { isIndexType } from '../oci/media-types.ts';
import { choosePlatform, DEFAULT_PLATFORM, formatPlatform, parsePlatform } from '../oci/platform.ts';
import type { ManifestWant } from '../oci/pull-source.ts';

/**
 * The child of an index that a client wants instead of it: one who names a platform, or who accepts no index.
 * `undefined` when `manifest` itself is what it wants. MANIFEST_UNKNOWN when no child suits.
 */
export function platformChild(manifest: Manifest, want: ManifestWant): Digest | undefined {
  const { mediaType, bytes, digest } = manifest;
  if (!isIndexType(mediaType) || (want.platform === undefined && want.accepts(mediaType))) return undefined;
  const platform = want.platform === undefined ? DEFAULT_PLATFORM : parsePlatform(want.platform);
  const [child] = choosePlatform(parseManifest(bytes, mediaType).manifests, platform);
  if (child === undefined) {
    throw new OciError('MANIFEST_UNKNOWN', {
      message: `the index ${digest} has nothing for ${formatPlatform(platform)}`,
      detail: { platform: formatPlatform(platform) },
    });
  }
  return child.digest;
}
