import type { BlobReader } from '../lib/blob-reader.ts';
import { readWhole } from '../lib/bytes-reader.ts';
import { parseJsonObject } from '../lib/json.ts';
import type { Descriptor } from './descriptor.ts';
import { OciError } from './errors.ts';
import { type Manifest, parseManifest, parsePlatformMembers } from './manifest.ts';
import { DOCKER_MANIFEST_LIST, isIndexType, OCI_INDEX } from './media-types.ts';
import {
  choosePlatform,
  DEFAULT_PLATFORM,
  formatPlatform,
  parsePlatform,
  type Platform,
} from './platform.ts';
import type { ManifestWant } from './pull-source.ts';

/** Indexes of indexes are for releases of releases; deeper ones are made to be followed for ever. */
export const MAX_INDEX_DEPTH = 4;
/** Some kilobytes are usual; a build cache that BuildKit keeps inside one comes to megabytes. */
const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
/** What a config says that cannot be read: it suits no host. */
const NO_PLATFORM: Platform = { os: '', architecture: '' };

/** How that is found which an index leads to: in what is held, in an archive, or upstream. */
export interface ContentLookup {
  /** The manifest of a descriptor; `undefined` if there is none. */
  readonly manifest: (descriptor: Descriptor) => Promise<Manifest | undefined>;
  /** The config of an image, which the caller closes; `undefined` if there is none. */
  readonly config: (descriptor: Descriptor) => Promise<BlobReader | undefined>;
}

/**
 * The child of an index that a host of `wanted` pulls, as containerd decides: the best by what the index says of them,
 * and if it says nothing of that one, then only if its config suits; no second one is tried. A child or a config that
 * is not there speaks against nothing: whoever pulls it hears what is missing.
 */
export async function chooseChild(
  children: readonly Descriptor[],
  wanted: Platform,
  lookup: ContentLookup,
): Promise<Descriptor | undefined> {
  const [best] = choosePlatform(children, wanted);
  if (best === undefined || best.platform !== undefined) return best;
  const platform = await configPlatform(best, lookup);
  const suits = platform === undefined || choosePlatform([{ ...best, platform }], wanted).length > 0;
  return suits ? best : undefined;
}

/** What the config of a child says that the index says nothing of; `undefined` for an index, and if either is not there. */
export async function configPlatform(
  child: Descriptor,
  { manifest, config }: ContentLookup,
): Promise<Platform | undefined> {
  const found = await manifest(child);
  const [descriptor] = found === undefined ? [] : parseManifest(found.bytes, found.mediaType).blobs;
  const reader = descriptor && (await config(descriptor));
  return reader && platformOfConfig(await readWhole(reader, MAX_CONFIG_BYTES));
}

/**
 * What a tag that means `manifest` is for this client: the manifest itself, but for one that asks for a platform, or
 * accepts no index at all, the child that suits it. MANIFEST_UNKNOWN when none does.
 */
export async function narrowToPlatform(
  manifest: Manifest,
  want: ManifestWant,
  lookup: ContentLookup,
): Promise<Manifest> {
  const acceptsIndex = () => want.accepts(OCI_INDEX) || want.accepts(DOCKER_MANIFEST_LIST);
  if (!isIndexType(manifest.mediaType) || (want.platform === undefined && acceptsIndex())) return manifest;
  const platform = want.platform === undefined ? DEFAULT_PLATFORM : parsePlatform(want.platform);
  let narrowed = manifest;
  for (let depth = 1; isIndexType(narrowed.mediaType); depth += 1) {
    const { manifests } = parseManifest(narrowed.bytes, narrowed.mediaType);
    const child = depth < MAX_INDEX_DEPTH ? await chooseChild(manifests, platform, lookup) : undefined;
    const next = child && (await lookup.manifest(child));
    if (next === undefined) throw nothingFor(platform, manifest);
    narrowed = next;
  }
  return narrowed;
}

/** image-spec, config.md: it names its platform by the members that a descriptor's `platform` has. */
function platformOfConfig(bytes: Uint8Array | undefined): Platform {
  const config = bytes && parseJsonObject(bytes);
  try {
    return config === undefined ? NO_PLATFORM : parsePlatformMembers(config, 'config');
  } catch (error) {
    if (error instanceof OciError) return NO_PLATFORM;
    throw error;
  }
}

function nothingFor(platform: Platform, { digest }: Manifest): OciError {
  return new OciError('MANIFEST_UNKNOWN', {
    message: `the index ${digest} has nothing for ${formatPlatform(platform)}`,
    detail: { index: digest, platform: formatPlatform(platform) },
  });
}
