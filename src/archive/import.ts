import type { BlobStore } from '../blobs/blob-store.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type ContentTree, readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { MAX_MANIFEST_BYTES, requireUniqueMembers } from '../oci/manifest.ts';
import { formatPlatform, type Platform } from '../oci/platform.ts';
import type { ContentLookup } from '../oci/platform-choice.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import { isOwnSeal } from './have-list.ts';
import { Intake, readWhole } from './intake.ts';
import {
  type BundleImage,
  type BundleIndex,
  checkLayout,
  digestOfPath,
  dockerArchiveError,
  INDEX_FILE,
  isDockerFile,
  LAYOUT_FILE,
  parseBundleIndex,
} from './layout.ts';
import type { ArchiveEntry } from './open-archive.ts';
import { type Place, placeAll, type PlacedImage, type PlacementOptions } from './placement.ts';
import { type Arrival, publish } from './publish.ts';
import type { Room } from './room.ts';

export interface ImportOptions extends PlacementOptions {
  readonly metadata: MetadataStore;
  readonly blobs: BlobStore;
  /** Of indexes only the children for these have to be there; by default those that the archive says it carries. */
  readonly platforms?: readonly Platform[] | 'all' | undefined;
  /** Bounds what repositories that live here may hold; by default nothing does. */
  readonly room?: Room | undefined;
  /** Told of each file as it is begun, and of its bytes as they come. */
  readonly progress?: (bytes: number) => void;
  /** Ends the import; what was added stays for the next one. */
  readonly signal?: AbortSignal;
}

export interface ImportedImage {
  /** As it is pulled from here. */
  readonly name: string;
  readonly digest: Digest;
}

export interface ImportReport {
  readonly images: readonly ImportedImage[];
  /** Blobs that were not held before. */
  readonly addedBlobs: number;
  readonly addedBytes: number;
  /** Blobs of the images that were held already. */
  readonly heldBlobs: number;
}

/** An image of the archive, proved to be complete. */
interface Settled {
  readonly image: BundleImage;
  readonly place: Place;
  readonly tree: ContentTree;
}

/**
 * Takes the images of an archive in: all of them, or none. Throws ArchiveError with the reason for which it is refused;
 * then nothing of it is left. Run again after a break, it does not write again what is held.
 */
export async function importArchive(
  entries: AsyncIterable<ArchiveEntry>,
  options: ImportOptions,
): Promise<ImportReport> {
  const { metadata, blobs, signal = new AbortController().signal } = options;
  const intake = new Intake({ metadata, blobs, signal });
  try {
    const taken = await takeAll(entries, intake, options);
    const settled = await settleAll(taken, intake, options);
    await publish(settled.map(arrivalOf), options);
    const used = new Set(settled.flatMap(({ tree }) => tree.blobs.map(({ digest }) => digest)));
    await intake.discard(used);
    return reportOf(settled, used, intake);
  } catch (error) {
    if (error instanceof ArchiveError && !signal.aborted) await intake.discard();
    else await intake.settle().catch(() => {});
    throw error;
  }
}

/** What the index of an archive says. */
interface Taken {
  readonly index: BundleIndex;
  readonly placed: readonly PlacedImage[];
}

/** Takes every blob, in whatever order they lie in the archive, and returns what its index says of them. */
async function takeAll(
  entries: AsyncIterable<ArchiveEntry>,
  intake: Intake,
  options: ImportOptions,
): Promise<Taken> {
  const { progress = () => {}, signal } = options;
  let taken: Taken | undefined;
  let hasLayout = false;
  let isDockerArchive = false;
  for await (const entry of entries) {
    signal?.throwIfAborted();
    const counted = { ...entry, body: counting(entry.body, progress) };
    const digest = digestOfPath(entry.name);
    if (digest !== undefined) {
      await intake.take(digest, counted);
    } else if (entry.name === LAYOUT_FILE) {
      checkLayout(await readDocument(counted));
      hasLayout = true;
    } else if (entry.name === INDEX_FILE) {
      const index = parseBundleIndex(await readDocument(counted));
      taken = { index, placed: placeAll(index, options) };
    } else {
      isDockerArchive ||= isDockerFile(entry.name);
    }
  }
  await intake.settle();
  if (hasLayout && taken !== undefined) return taken;
  if (isDockerArchive) throw dockerArchiveError();
  throw new ArchiveError(
    `it is no image layout, or is cut off: it has no ${hasLayout ? INDEX_FILE : LAYOUT_FILE}`,
  );
}

/** Proves that every image is complete and has a place here. */
async function settleAll(
  { index, placed }: Taken,
  intake: Intake,
  options: ImportOptions,
): Promise<readonly Settled[]> {
  const leftOut = await leftOutOf(index, options);
  const named: Settled[] = [];
  const unplaced: { image: BundleImage; tree: ContentTree }[] = [];
  for (const { image, place } of placed) {
    const tree = await completeTree(image, leftOut, intake, options);
    if (place !== undefined) named.push({ image, place, tree });
    else unplaced.push({ image, tree });
  }
  for (const { image, tree } of unplaced) named.push(...beside(image, tree, named));
  requireOneReading(named);
  return named;
}

/** A repository reads the bytes of a manifest under one media type: the later one would take what the earlier one needs. */
function requireOneReading(settled: readonly Settled[]): void {
  const mediaTypes = new Map<string, string>();
  for (const { place, tree } of settled) {
    for (const { manifest } of tree.manifests) {
      const key = `${repositoryText(place.repository)}@${manifest.digest}`;
      const known = mediaTypes.get(key) ?? manifest.mediaType;
      if (known !== manifest.mediaType) {
        throw new ArchiveError(`${key} would be read as ${known} and as ${manifest.mediaType}`);
      }
      mediaTypes.set(key, known);
    }
  }
}

/** A signature or the like belongs into every repository that holds what it is about. */
function beside(image: BundleImage, tree: ContentTree, named: Settled[]): readonly Settled[] {
  const subject = tree.manifests[0]?.view.subject?.digest;
  const places = new Map<string, Repository>();
  for (const other of named) {
    if (other.tree.manifests.some(({ manifest }) => manifest.digest === subject)) {
      places.set(repositoryText(other.place.repository), other.place.repository);
    }
  }
  if (places.size === 0) {
    throw new ArchiveError(
      `${image.descriptor.digest} has no full name: --rename says what it is called here`,
    );
  }
  return [...places.values()].map(repository => ({ image, place: { repository }, tree }));
}

/** What a blob is that the archive does not carry: missing, or taken from what is held here. */
interface LeftOut {
  readonly isHeldHere: boolean;
  readonly hint: string;
}

/** Only an archive that was made by a list of this store may leave out what is held here. */
async function leftOutOf({ have }: BundleIndex, { metadata }: ImportOptions): Promise<LeftOut> {
  if (await isOwnSeal(have, metadata))
    return { isHeldHere: true, hint: ' and neither is it held here any more' };
  const hint = ', which was made for what another registry holds';
  return { isHeldHere: false, hint: have === undefined ? '' : hint };
}

async function completeTree(
  { descriptor, name, platforms: carried }: BundleImage,
  leftOut: LeftOut,
  intake: Intake,
  options: ImportOptions,
): Promise<ContentTree> {
  const shown = name ?? descriptor.digest;
  const lookup: ContentLookup = {
    manifest: async ({ digest, mediaType }) => {
      const bytes = intake.manifestBytes(digest);
      return bytes && { digest, mediaType, bytes };
    },
    config: async ({ digest }) => {
      const isThere = intake.carriedSize(digest) !== undefined || leftOut.isHeldHere;
      return isThere ? options.blobs.open(digest) : undefined;
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
    const hint = missing === descriptor ? '' : ' (--platform names those that have to be complete)';
    throw new ArchiveError(
      `${shown} is not complete: it lacks the manifest ${missing.digest}${platform ?? ''}${hint}`,
    );
  }
  const [unmatched] = tree.unmatched;
  if (unmatched !== undefined)
    throw new ArchiveError(`${shown} has nothing for ${formatPlatform(unmatched)}`);
  for (const blob of tree.blobs) await requireBlob(shown, blob, leftOut, intake, options);
  return tree;
}

async function requireBlob(
  image: string,
  { digest, size }: Descriptor,
  { isHeldHere, hint }: LeftOut,
  intake: Intake,
  { metadata, blobs }: ImportOptions,
): Promise<void> {
  const carried = intake.carriedSize(digest);
  const isHeld = (await metadata.statBlob(digest))?.size === size && (await blobs.stat(digest)) !== undefined;
  if (carried === undefined && !(isHeldHere && isHeld)) {
    throw new ArchiveError(`${image} is not complete: the blob ${digest} is not in the archive${hint}`);
  }
  if (carried !== undefined && carried !== size) {
    throw new ArchiveError(`${image} says that ${digest} has ${size} bytes, and it has ${carried}`);
  }
  if (carried !== undefined && intake.manifestBytes(digest) !== undefined) await intake.keepAsBlob(digest);
}

function arrivalOf({ image, place: { repository, tag }, tree }: Settled): Arrival {
  return { repository, tag, digest: image.descriptor.digest, tree };
}

function reportOf(settled: readonly Settled[], used: ReadonlySet<Digest>, { added }: Intake): ImportReport {
  return {
    images: settled.map(({ image: { descriptor }, place: { repository, tag } }) => ({
      name: `${repositoryText(repository)}${tag === undefined ? `@${descriptor.digest}` : `:${tag}`}`,
      digest: descriptor.digest,
    })),
    addedBlobs: added.size,
    addedBytes: [...added.values()].reduce((sum, size) => sum + size, 0),
    heldBlobs: [...used].filter(digest => !added.has(digest)).length,
  };
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
  return readWhole(entry);
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
