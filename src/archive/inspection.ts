import type { BlobStore } from '../blobs/blob-store.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { readerOfBytes } from '../lib/bytes-reader.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type ContentTree, readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type Digest, digestAlgorithm, digestOf } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { formatPlatform, isAttestation } from '../oci/platform.ts';
import { configPlatform, type ContentLookup } from '../oci/platform-choice.ts';
import { repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import {
  type BlobTaker,
  type CompleteOptions,
  readContents,
  type ReadOptions,
  type Settled,
  settleAll,
} from './contents.ts';
import { hashOf, looksLikeManifest, readEntry, requireDigest } from './entry-bytes.ts';
import { arrivalOf, nameHere } from './import.ts';
import { type BundleImage, type BundleIndex, MAX_MANIFESTS_BYTES } from './layout.ts';
import type { ArchiveEntry } from './open-archive.ts';
import { placeAll, type PlacementOptions, type Refuse } from './placement.ts';
import { type Arrival } from './publish.ts';
import { reserveQuota, type ImportQuota } from './import-quota.ts';

/** How to find out what an import would do. */
export interface InspectOptions extends PlacementOptions, ReadOptions, Pick<CompleteOptions, 'platforms'> {
  /** The index of the store, which is only read. */
  readonly metadata: Pick<MetadataStore, 'statBlob' | 'readSetting' | 'isLinked' | 'readTag'>;
  readonly blobs: Pick<BlobStore, 'stat' | 'open'>;
  /** Default: no limit. */
  readonly quota?: ImportQuota | undefined;
}

/** An image of an archive, and the result that importing it would have. */
export interface InspectedImage {
  /** Its name in the archive; `undefined` for an artifact that belongs to an image, such as a signature. */
  readonly name: string | undefined;
  readonly digest: Digest;
  /** Such as `linux/arm64/v8`, for each manifest below it that is an image for one platform. */
  readonly platforms: readonly string[];
  /** The size of its manifests, configs and layers, whether the archive contains them or may leave them out. */
  readonly bytes: number;
  /** The size of its blobs that are not stored here yet. */
  readonly newBytes: number;
  /** The names that it would have here; empty if it is refused. */
  readonly places: readonly InspectedPlace[];
  /** Why it is refused, and with it the whole archive; `undefined` if it is not. */
  readonly refusal: string | undefined;
}

/** A name that an image would have here. */
export interface InspectedPlace {
  /** The name by which it would be pulled from here. */
  readonly name: string;
  /** Whether the name means this image here already. */
  readonly isHeld: boolean;
  /** The digest that its tag means here now, if that is another image. */
  readonly replaces: Digest | undefined;
}

/** The result of a dry run. */
export interface Inspection {
  readonly images: readonly InspectedImage[];
  /** The size of all images; shared content is counted once. */
  readonly bytes: number;
  readonly newBytes: number;
  /** All reasons for which an import would refuse the archive, including those of its images. */
  readonly refusals: readonly string[];
}

/**
 * Finds out what an archive contains, and what importing it would do, without writing anything. Every digest is
 * verified. Throws ArchiveError if it is not an image layout, or contains bytes with a wrong digest.
 */
export async function inspectArchive(
  entries: AsyncIterable<ArchiveEntry>,
  options: InspectOptions,
): Promise<Inspection> {
  const look = new Look(options);
  const index = await readContents(entries, look, options);
  const { placesOf, refusalOf, refusals } = await outcomeOf(index, look, options);
  const images: InspectedImage[] = [];
  const sizes = new Map<Digest, Sized>();
  for (const image of index.images) {
    const { platforms, content } = await contentOf(image, look, options);
    for (const each of content) sizes.set(each.digest, each);
    images.push({
      name: image.name,
      digest: image.descriptor.digest,
      platforms,
      ...sumOf(content),
      places: refusalOf.has(image) ? [] : (placesOf.get(image) ?? []),
      refusal: refusalOf.get(image),
    });
  }
  return { images, ...sumOf([...sizes.values()]), refusals };
}

interface Outcome {
  readonly placesOf: ReadonlyMap<BundleImage, readonly InspectedPlace[]>;
  readonly refusalOf: ReadonlyMap<BundleImage, string>;
  readonly refusals: readonly string[];
}

/** All checks that an import makes before it publishes, but continuing after the first image that is refused. */
async function outcomeOf(index: BundleIndex, look: Look, options: InspectOptions): Promise<Outcome> {
  const placesOf = new Map<BundleImage, InspectedPlace[]>();
  const refusalOf = new Map<BundleImage, string>();
  const refuse: Refuse = (image, { message }) => {
    if (!refusalOf.has(image)) refusalOf.set(image, message);
  };
  try {
    const placed = await placeAll(index, options, refuse);
    const settled = await settleAll(index, placed, look, options, refuse);
    await requireRoom(settled, options, refuse);
    for (const one of settled) {
      const place = { name: nameHere(one), ...(await stateOf(arrivalOf(one), options)) };
      placesOf.set(one.image, [...(placesOf.get(one.image) ?? []), place]);
    }
    return { placesOf, refusalOf, refusals: [...new Set(refusalOf.values())] };
  } catch (error) {
    if (!(error instanceof ArchiveError)) throw error;
    for (const image of index.images) refuse(image, error);
    return { placesOf, refusalOf, refusals: [...new Set([...refusalOf.values(), error.message])] };
  }
}

/** By repository: if one has no space, every image for it is refused. */
async function requireRoom(
  settled: readonly Settled[],
  { quota, metadata }: InspectOptions,
  refuse: Refuse,
): Promise<void> {
  if (quota === undefined) return;
  const releases: (() => void)[] = [];
  try {
    for (const ofOne of byRepository(settled)) {
      try {
        releases.push(await reserveQuota(ofOne.map(arrivalOf), metadata, quota));
      } catch (error) {
        if (!(error instanceof ArchiveError)) throw error;
        for (const { image } of ofOne) refuse(image, error);
      }
    }
  } finally {
    for (const release of releases) release();
  }
}

function byRepository(settled: readonly Settled[]): readonly (readonly Settled[])[] {
  const groups = new Map<string, Settled[]>();
  for (const one of settled) {
    const name = repositoryText(one.place.repository);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [one]);
    else group.push(one);
  }
  return [...groups.values()];
}

async function stateOf(
  { repository, tag, digest }: Arrival,
  { metadata }: InspectOptions,
): Promise<Omit<InspectedPlace, 'name'>> {
  const isLinked = await metadata.isLinked(repository, digest);
  const means = tag === undefined ? undefined : (await metadata.readTag(repository, tag))?.digest;
  return {
    isHeld: isLinked && (tag === undefined || means === digest),
    replaces: means === digest ? undefined : means,
  };
}

interface Sized {
  readonly digest: Digest;
  readonly bytes: number;
  readonly newBytes: number;
}

/** The content of an image as far as it can be read; `refusal` tells why it is incomplete. */
async function contentOf(
  { descriptor, platforms: carried }: BundleImage,
  look: Look,
  options: InspectOptions,
): Promise<{ readonly platforms: readonly string[]; readonly content: readonly Sized[] }> {
  const lookup: ContentLookup = {
    manifest: async ({ digest, mediaType }) => {
      const bytes = look.manifestBytes(digest);
      return bytes && { digest, mediaType, bytes };
    },
    config: ({ digest }) => look.open(digest),
  };
  const wanted = options.platforms ?? carried;
  const platforms = wanted === 'all' ? undefined : wanted;
  const tree = await readContentTree(descriptor, { lookup, platforms }).catch((error: unknown) => {
    if (error instanceof OciError) return undefined;
    throw error;
  });
  if (tree === undefined) return { platforms: [], content: [] };
  const content: Sized[] = tree.manifests.map(({ manifest: { digest, bytes } }) => ({
    digest,
    bytes: bytes.byteLength,
    newBytes: 0,
  }));
  for (const { digest, size } of tree.blobs) {
    const isHeld = await look.isHeld(digest, size);
    content.push({ digest, bytes: size, newBytes: isHeld ? 0 : size });
  }
  return { platforms: await platformsOf(descriptor, tree, lookup), content };
}

async function platformsOf(
  root: Descriptor,
  { manifests }: ContentTree,
  lookup: ContentLookup,
): Promise<readonly string[]> {
  const named = manifests.flatMap(({ view }) => view.manifests);
  const byDigest = new Map([root, ...named].map(descriptor => [descriptor.digest, descriptor]));
  const platforms = new Set<string>();
  for (const { manifest, view } of manifests) {
    const descriptor = byDigest.get(manifest.digest);
    if (descriptor === undefined || view.kind === 'index' || isAttestation(descriptor)) continue;
    const platform = descriptor.platform ?? (await configPlatform(descriptor, lookup));
    if (platform !== undefined && platform.os !== '') platforms.add(formatPlatform(platform));
  }
  return [...platforms];
}

function sumOf(content: readonly Sized[]): { readonly bytes: number; readonly newBytes: number } {
  const sum = (key: 'bytes' | 'newBytes') => content.reduce((total, each) => total + each[key], 0);
  return { bytes: sum('bytes'), newBytes: sum('newBytes') };
}

/** Verifies the blobs of an archive, and keeps only what describes the images, in memory. */
class Look implements BlobTaker {
  readonly #options: InspectOptions;
  readonly #carried = new Map<Digest, number>();
  readonly #manifests = new Map<Digest, Uint8Array>();
  readonly #configs = new Map<Digest, Uint8Array>();
  /** The sizes of stored blobs, each looked up once: any number of images may name the same blob. */
  readonly #heldSizes = new Map<Digest, Promise<number | undefined>>();
  #manifestsBytes = 0;
  #configsBytes = 0;

  constructor(options: InspectOptions) {
    this.#options = options;
  }

  async take(digest: Digest, entry: ArchiveEntry): Promise<void> {
    this.#carried.set(digest, entry.size);
    if (entry.size > MAX_MANIFEST_BYTES) {
      const { signal = new AbortController().signal } = this.#options;
      return requireDigest(digest, await hashOf(entry, digest, signal));
    }
    const bytes = await readEntry(entry);
    requireDigest(digest, digestOf(bytes, digestAlgorithm(digest)));
    if (looksLikeManifest(bytes)) this.#keepManifest(digest, bytes);
    else if (bytes[0] === BRACE) this.#keepConfig(digest, bytes);
  }

  async settle(): Promise<void> {}

  carriedSize(digest: Digest): number | undefined {
    return this.#carried.get(digest);
  }

  manifestBytes(digest: Digest): Uint8Array | undefined {
    return this.#manifests.get(digest);
  }

  async open(digest: Digest): Promise<BlobReader | undefined> {
    const config = this.#configs.get(digest);
    return config === undefined ? this.#options.blobs.open(digest) : readerOfBytes(config);
  }

  async keepAsBlob(): Promise<void> {}

  async isHeld(digest: Digest, size: number): Promise<boolean> {
    const known = this.#heldSizes.get(digest) ?? this.#heldSize(digest);
    this.#heldSizes.set(digest, known);
    return (await known) === size;
  }

  /** `undefined` if it is not stored, or not as the index says. */
  async #heldSize(digest: Digest): Promise<number | undefined> {
    const { metadata, blobs } = this.#options;
    const size = (await metadata.statBlob(digest))?.size;
    return size !== undefined && (await blobs.stat(digest))?.size === size ? size : undefined;
  }

  #keepManifest(digest: Digest, bytes: Uint8Array): void {
    this.#manifestsBytes += bytes.byteLength;
    if (this.#manifestsBytes > MAX_MANIFESTS_BYTES) {
      throw new ArchiveError(`its manifests exceed ${MAX_MANIFESTS_BYTES} bytes in total`);
    }
    this.#manifests.set(digest, bytes);
  }

  /** A config only tells the platform; those beyond the limit are not kept. */
  #keepConfig(digest: Digest, bytes: Uint8Array): void {
    if (this.#configsBytes + bytes.byteLength > MAX_CONFIGS_BYTES) return;
    this.#configsBytes += bytes.byteLength;
    this.#configs.set(digest, bytes);
  }
}

/** `{`, with which every config begins. */
const BRACE = 0x7b;
/** Configs have some kilobytes each; this is enough for a thousand images for five platforms. */
const MAX_CONFIGS_BYTES = 64 * 1024 * 1024;
