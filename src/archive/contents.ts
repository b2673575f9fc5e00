import type { BlobReader } from '../lib/blob-reader.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type ContentTree, readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { MAX_MANIFEST_BYTES, parseManifest, requireUniqueMembers } from '../oci/manifest.ts';
import { formatPlatform, type Platform } from '../oci/platform.ts';
import type { ContentLookup } from '../oci/platform-choice.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import { readEntry } from './entry-bytes.ts';
import { isOwnSeal } from './have-list.ts';
import {
  type BundleImage,
  type BundleIndex,
  checkLayout,
  digestOfPath,
  dockerArchiveError,
  LAYOUT_INDEX_FILE,
  isDockerFile,
  LAYOUT_FILE,
  parseBundleIndex,
} from './layout.ts';
import type { ArchiveEntry } from './open-archive.ts';
import { type ImagePlace, type PlacedImage, type Refuse, refuseAtOnce, unlessRefused } from './placement.ts';

/** Receives the blobs of an archive, verifies each, and records what it received. */
export interface BlobTaker {
  /** Throws ArchiveError if the content of the file does not have this digest, now or in a later call. */
  take(digest: Digest, entry: ArchiveEntry): Promise<void>;
  /** Resolves when everything taken is verified. */
  settle(): Promise<void>;
  /** The size of a blob of the archive; `undefined` if it has none with this digest. */
  carriedSize(digest: Digest): number | undefined;
  /** The bytes of a blob that looked like a manifest. */
  manifestBytes(digest: Digest): Uint8Array | undefined;
  /** Whether a blob of this size is stored. An import relies on it until it ends. */
  isHeld(digest: Digest, size: number): Promise<boolean>;
  /** Opens a config, of the archive or in the store. */
  open(digest: Digest): Promise<BlobReader | undefined>;
  /** Called for what looked like a manifest, but is named as a blob. */
  keepAsBlob(digest: Digest): Promise<void>;
}

/** How to read an archive. */
export interface ReadOptions {
  /** Called for each file when it begins, and with its bytes as they arrive. */
  readonly progress?: (bytes: number) => void;
  /** Ends the reading, which then rejects. */
  readonly signal?: AbortSignal;
}

/** How to check that the images of an archive are complete. */
export interface CompleteOptions {
  /** The platforms for which the children of indexes must be complete; by default those that the archive declares. */
  readonly platforms?: readonly Platform[] | 'all' | undefined;
  /** Stored content, which a delta bundle may leave out. */
  readonly metadata: Pick<MetadataStore, 'readSetting'>;
}

/** A complete image of the archive, with its place. */
export interface Settled {
  readonly image: BundleImage;
  readonly place: ImagePlace;
  readonly tree: ContentTree;
}

/**
 * Passes every blob, in whatever order the archive has them, to a taker, and returns the content of the archive's
 * index. Calls `onIndex` with that as soon as it is read; if it throws, reading ends.
 */
export async function readContents(
  entries: AsyncIterable<ArchiveEntry>,
  taker: BlobTaker,
  { progress = () => {}, signal }: ReadOptions,
  onIndex: (index: BundleIndex) => void | Promise<void> = () => {},
): Promise<BundleIndex> {
  let found: BundleIndex | undefined;
  let hasLayout = false;
  let isDockerArchive = false;
  for await (const entry of entries) {
    signal?.throwIfAborted();
    const counted = { ...entry, body: counting(entry.body, progress) };
    const digest = digestOfPath(entry.name);
    if (digest !== undefined) {
      await taker.take(digest, counted);
    } else if (entry.name === LAYOUT_FILE) {
      checkLayout(await readDocument(counted));
      hasLayout = true;
    } else if (entry.name === LAYOUT_INDEX_FILE) {
      found = parseBundleIndex(await readDocument(counted));
      await onIndex(found);
    } else {
      isDockerArchive ||= isDockerFile(entry.name);
    }
  }
  await taker.settle();
  if (hasLayout && found !== undefined) return found;
  if (isDockerArchive) throw dockerArchiveError();
  throw new ArchiveError(
    `not an OCI image layout, or truncated: it has no ${hasLayout ? LAYOUT_INDEX_FILE : LAYOUT_FILE}`,
  );
}

/** Checks that every image is complete and has a place here. Refused images are left out. */
export async function settleAll(
  index: BundleIndex,
  placed: readonly PlacedImage[],
  taker: BlobTaker,
  options: CompleteOptions,
  refuse: Refuse = refuseAtOnce,
): Promise<readonly Settled[]> {
  const leftOut = await leftOutOf(index, options);
  const readings = new OneReadingEach();
  const named: Settled[] = [];
  const places = new PlacesOfManifests();
  const refused = new RefusedContent(taker);
  for (const image of imagesWithout(index, placed)) refused.add(image);
  const unplaced: { image: BundleImage; tree: ContentTree }[] = [];
  for (const { image, place } of placed) {
    const tree = await unlessRefused(image, refuse, async () => {
      const whole = await completeTree(image, leftOut, taker, options);
      if (place !== undefined) readings.add(place, whole);
      return whole;
    });
    if (tree === undefined) refused.add(image);
    else if (place !== undefined) {
      named.push({ image, place, tree });
      places.add(place, tree);
    } else unplaced.push({ image, tree });
  }
  for (const { image, tree } of unplaced) {
    const found = await unlessRefused(image, refuse, () => {
      const repositories = besideSubject(image, tree, { places, refused });
      for (const repository of repositories) readings.add({ repository }, tree);
      return repositories;
    });
    if (found === undefined) refused.add(image);
    for (const repository of found ?? []) {
      named.push({ image, place: { repository }, tree });
      places.add({ repository }, tree);
    }
  }
  return named;
}

/** Images that were refused before. */
function imagesWithout({ images }: BundleIndex, placed: readonly PlacedImage[]): Set<BundleImage> {
  const left = new Set(images);
  for (const { image } of placed) left.delete(image);
  return left;
}

/** A repository reads a manifest under one media type: with a second one, what the first one needs would be lost. */
class OneReadingEach {
  readonly #mediaTypes = new Map<string, string>();

  add({ repository }: ImagePlace, tree: ContentTree): void {
    for (const { manifest } of tree.manifests) {
      const key = `${repositoryText(repository)}@${manifest.digest}`;
      const known = this.#mediaTypes.get(key) ?? manifest.mediaType;
      if (known !== manifest.mediaType) {
        throw new ArchiveError(`${key} has two media types, ${known} and ${manifest.mediaType}`);
      }
      this.#mediaTypes.set(key, known);
    }
  }
}

/** The repositories that have each manifest. */
class PlacesOfManifests {
  readonly #places = new Map<Digest, Map<string, Repository>>();

  add({ repository }: ImagePlace, tree: ContentTree): void {
    for (const { manifest } of tree.manifests) {
      const places = this.#places.get(manifest.digest) ?? new Map<string, Repository>();
      this.#places.set(manifest.digest, places.set(repositoryText(repository), repository));
    }
  }

  repositoriesWith(digest: Digest): readonly Repository[] {
    return [...(this.#places.get(digest)?.values() ?? [])];
  }
}

/** Refused images, by their digests and those of their children, as far as can be read. Each is read once. */
class RefusedContent {
  readonly #taker: BlobTaker;
  readonly #roots = new Set<Digest>();
  readonly #images = new Map<Digest, BundleImage>();

  constructor(taker: BlobTaker) {
    this.#taker = taker;
  }

  add(image: BundleImage): void {
    const { digest } = image.descriptor;
    if (this.#roots.has(digest)) return;
    this.#roots.add(digest);
    for (const each of [digest, ...this.#childrenOf(image)]) {
      if (!this.#images.has(each)) this.#images.set(each, image);
    }
  }

  imageWith(digest: Digest): BundleImage | undefined {
    return this.#images.get(digest);
  }

  #childrenOf({ descriptor }: BundleImage): readonly Digest[] {
    const bytes = this.#taker.manifestBytes(descriptor.digest);
    try {
      const children = bytes === undefined ? [] : parseManifest(bytes, descriptor.mediaType).manifests;
      return children.map(({ digest }) => digest);
    } catch (error) {
      if (error instanceof OciError) return [];
      throw error;
    }
  }
}

/** The repositories of an artifact, such as a signature: all that have its subject. Throws ArchiveError if there are none. */
function besideSubject(
  { descriptor }: BundleImage,
  { manifests }: ContentTree,
  { places, refused }: { readonly places: PlacesOfManifests; readonly refused: RefusedContent },
): readonly Repository[] {
  const subject = manifests[0]?.view.subject?.digest;
  const repositories = subject === undefined ? [] : places.repositoriesWith(subject);
  if (repositories.length > 0) return repositories;
  const refusedOne = subject && refused.imageWith(subject);
  if (refusedOne !== undefined) {
    const of = refusedOne.name ?? refusedOne.descriptor.digest;
    throw new ArchiveError(`${descriptor.digest} belongs to ${of}, which is refused`);
  }
  throw new ArchiveError(`${descriptor.digest} has no full name: give it one with --rename`);
}

/** Decides about a blob that the archive does not contain: missing, or taken from the store. */
interface LeftOut {
  readonly isHeldHere: boolean;
  readonly hint: string;
}

/** Only an archive that was made with a list of this store may leave out what is stored here. */
async function leftOutOf({ have }: BundleIndex, { metadata }: CompleteOptions): Promise<LeftOut> {
  if (await isOwnSeal(have, metadata)) return { isHeldHere: true, hint: ' and no longer in the store' };
  const hint = ', which was made for a registry that already has it';
  return { isHeldHere: false, hint: have === undefined ? '' : hint };
}

async function completeTree(
  { descriptor, name, platforms: carried }: BundleImage,
  leftOut: LeftOut,
  taker: BlobTaker,
  options: CompleteOptions,
): Promise<ContentTree> {
  const shown = name ?? descriptor.digest;
  const lookup: ContentLookup = {
    manifest: async ({ digest, mediaType }) => {
      const bytes = taker.manifestBytes(digest);
      return bytes && { digest, mediaType, bytes };
    },
    config: async ({ digest }) => {
      const isThere = taker.carriedSize(digest) !== undefined || leftOut.isHeldHere;
      return isThere ? taker.open(digest) : undefined;
    },
  };
  const wanted = options.platforms ?? carried;
  const platforms = wanted === 'all' ? undefined : wanted;
  const tree = await readUnambiguous(descriptor, { lookup, platforms }).catch((error: unknown) => {
    throw error instanceof OciError ? new ArchiveError(`${shown}: ${error.message}`) : error;
  });
  const [missing] = tree.missing;
  if (missing !== undefined) {
    const platform = missing.platform && ` for ${formatPlatform(missing.platform)}`;
    const hint = missing === descriptor ? '' : ' (--platform selects those that must be complete)';
    throw new ArchiveError(
      `${shown} is incomplete: the manifest ${missing.digest}${platform ?? ''} is missing${hint}`,
    );
  }
  const [unmatched] = tree.unmatched;
  if (unmatched !== undefined)
    throw new ArchiveError(`${shown} has no image for ${formatPlatform(unmatched)}`);
  for (const blob of tree.blobs) await requireBlob(shown, blob, leftOut, taker);
  return tree;
}

async function requireBlob(
  image: string,
  { digest, size }: Descriptor,
  { isHeldHere, hint }: LeftOut,
  taker: BlobTaker,
): Promise<void> {
  const carried = taker.carriedSize(digest);
  if (carried === undefined && !(isHeldHere && (await taker.isHeld(digest, size)))) {
    throw new ArchiveError(`${image} is incomplete: the blob ${digest} is not in the archive${hint}`);
  }
  if (carried !== undefined && carried !== size) {
    throw new ArchiveError(`${image} declares ${size} bytes for ${digest}, which has ${carried}`);
  }
  if (carried !== undefined && taker.manifestBytes(digest) !== undefined) await taker.keepAsBlob(digest);
}

async function readUnambiguous(...query: Parameters<typeof readContentTree>): Promise<ContentTree> {
  const tree = await readContentTree(...query);
  for (const { manifest } of tree.manifests.values()) requireUniqueMembers(manifest.bytes);
  return tree;
}

async function readDocument(entry: ArchiveEntry): Promise<Uint8Array> {
  if (entry.size > MAX_MANIFEST_BYTES) {
    throw new ArchiveError(`its ${entry.name} is larger than ${MAX_MANIFEST_BYTES} bytes`);
  }
  return readEntry(entry);
}

async function* counting(
  body: AsyncIterable<Uint8Array>,
  progress: (bytes: number) => void,
): AsyncGenerator<Uint8Array, void> {
  for await (const chunk of body) {
    progress(chunk.byteLength);
    yield chunk;
  }
}
