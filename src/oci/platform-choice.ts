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

/** Indexes of indexes are for releases of releases; deeper ones are made to be followed for ever. */
export const MAX_INDEX_DEPTH = 4;
/** Some kilobytes are usual; a build cache that BuildKit keeps inside one comes to megabytes. */
const MAX_CONFIG_BYTES = 4 * 1024 * 1024;
/** An entry is a descriptor or a platform, some hundred bytes: together some megabytes. */
const REMEMBERED = { maxEntries: 10_000 };

/**
 * What an index says suits a platform best, and what configs name: of the bytes alone, so that it is
 * true for ever and for everybody who may have them.
 */
const bestChildren = new Lru<{ readonly child: Descriptor | undefined }>(REMEMBERED);
const configPlatforms = new Lru<Platform>(REMEMBERED);
/** One that is asked for by many is read once. */
const reading = new SingleFlight<Descriptor | undefined>();

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
  return best && suiting(best, wanted, lookup);
}

/** The best child of an index, unless its config speaks against it. */
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

/** What the config of a child says that the index says nothing of; `undefined` for an index, and if either is not there. */
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

/** The child that suits best by what the index itself says; remembered. */
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
