import type { BlobReader } from '../lib/blob-reader.ts';
import { readWhole } from '../lib/bytes-reader.ts';
import { Lru } from '../lib/lru.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { Descriptor } from './descriptor.ts';
import { OciError } from './errors.ts';
import { NO_PLATFORM } from './document-work.ts';
import { documents } from './documents.ts';
import type { Manifest } from './manifest.ts';
import { DOCKER_MANIFEST_LIST, isIndexType, OCI_INDEX } from './media-types.ts';
import {
  choosePlatform,
  DEFAULT_PLATFORM,
  formatPlatform,
  parsePlatform,
  type Platform,
} from './platform.ts';
import type { ManifestWant } from './pull-source.ts';

/** Indexes of indexes are rare, and deeper ones would only be made to be followed for ever. */
export const MAX_INDEX_DEPTH = 4;
/** Configs have some kilobytes; those with an inline build cache of BuildKit have megabytes. */
const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
/** An entry is a descriptor or a platform of some hundred bytes, so some megabytes in all. */
const REMEMBERED = { maxEntries: 10_000 };

/**
 * The best child of an index for a platform, and the platforms of configs. They follow from the bytes of a digest
 * alone, so they never become wrong and are the same for every requester.
 */
const bestChildren = new Lru<{ readonly child: Descriptor | undefined }>(REMEMBERED);
const configPlatforms = new Lru<Platform>(REMEMBERED);
/** Concurrent questions about one config are one read. */
const reading = new SingleFlight<Descriptor | undefined>();

/** How the children of an index are looked up: in the store, in an archive, or upstream. */
export interface ContentLookup {
  /** The manifest of a descriptor; `undefined` if there is none. */
  readonly manifest: (descriptor: Descriptor) => Promise<Manifest | undefined>;
  /** The config of an image; `undefined` if there is none. The caller closes the reader. */
  readonly config: (descriptor: Descriptor) => Promise<BlobReader | undefined>;
}

/**
 * The child of an index that containerd on a host of `wanted` would pull; `undefined` if none suits. This is the best
 * one by the index; if the index gives no platform for it, its config must suit, and no other child is tried. A child
 * or config that cannot be looked up is not ruled out: whoever pulls it is told what is missing.
 */
export async function chooseChild(
  children: readonly Descriptor[],
  wanted: Platform,
  lookup: ContentLookup,
): Promise<Descriptor | undefined> {
  const [best] = choosePlatform(children, wanted);
  return best && suiting(best, wanted, lookup);
}

/** The best child of an index, unless its config rules it out. */
async function suiting(
  best: Descriptor,
  wanted: Platform,
  lookup: ContentLookup,
): Promise<Descriptor | undefined> {
  if (best.platform !== undefined) return best;
  const platform = await configPlatform(best, lookup);
  const suits = platform === undefined || choosePlatform([{ ...best, platform }], wanted).length > 0;
  return suits ? best : undefined;
}

/**
 * The platform in the config of a child for which the index gives none; `undefined` for an index, or if either cannot
 * be looked up.
 */
export async function configPlatform(
  child: Descriptor,
  { manifest, config }: ContentLookup,
): Promise<Platform | undefined> {
  const found = await manifest(child);
  const [descriptor] =
    found === undefined ? [] : (await documents.ask('view', found.bytes, found.mediaType)).blobs;
  if (descriptor === undefined) return undefined;
  const reader = await config(descriptor);
  if (reader === undefined) return undefined;
  const known = configPlatforms.get(descriptor.digest);
  if (known !== undefined) {
    await reader.close();
    return known;
  }
  const bytes = await readWhole(reader, MAX_CONFIG_BYTES);
  const platform = bytes === undefined ? NO_PLATFORM : await documents.ask('configPlatform', bytes);
  configPlatforms.set(descriptor.digest, platform);
  return platform;
}

/** The best child by what the index says. Remembered. */
async function bestChild(index: Manifest, platform: Platform): Promise<Descriptor | undefined> {
  const key = `${index.digest} ${index.mediaType} ${formatPlatform(platform)}`;
  const known = bestChildren.get(key);
  if (known !== undefined) return known.child;
  const { promise } = reading.run(key, () =>
    documents.ask('bestChild', index.bytes, index.mediaType, platform),
  );
  const child = await promise;
  bestChildren.set(key, { child });
  return child;
}

/** Whether a client gets a child of `manifest`: of an index, if it asks for a platform or does not accept indexes. */
export function isNarrowed({ mediaType }: Pick<Manifest, 'mediaType'>, want: ManifestWant): boolean {
  if (!isIndexType(mediaType)) return false;
  return want.platform !== undefined || !(want.accepts(OCI_INDEX) || want.accepts(DOCKER_MANIFEST_LIST));
}

/**
 * The manifest to serve to this client for `manifest`: the matching child if it is `isNarrowed`, otherwise itself. MANIFEST_UNKNOWN if no child suits.
 */
export async function narrowToPlatform(
  manifest: Manifest,
  want: ManifestWant,
  lookup: ContentLookup,
): Promise<Manifest> {
  if (!isNarrowed(manifest, want)) return manifest;
  const platform = want.platform === undefined ? DEFAULT_PLATFORM : parsePlatform(want.platform);
  let narrowed = manifest;
  for (let depth = 1; isIndexType(narrowed.mediaType); depth += 1) {
    const best = depth < MAX_INDEX_DEPTH ? await bestChild(narrowed, platform) : undefined;
    const child = best && (await suiting(best, platform, lookup));
    const next = child && (await lookup.manifest(child));
    if (next === undefined) throw nothingFor(platform, manifest);
    narrowed = next;
  }
  return narrowed;
}

function nothingFor(platform: Platform, { digest }: Manifest): OciError {
  return new OciError('MANIFEST_UNKNOWN', {
    message: `the index ${digest} has no image for ${formatPlatform(platform)}`,
    detail: { index: digest, platform: formatPlatform(platform) },
  });
}
