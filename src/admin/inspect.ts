import type { MetadataStore } from '../metadata/metadata-store.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import type { SurveyedBlob, SurveyedManifest } from '../metadata/survey.ts';
import { bytesThereOf } from '../mirror/fill/unfinished-blobs.ts';
import type { Digest } from '../oci/digest.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import { confirmedByFiles, type HeldImage, heldImage, isEvicted } from '../upkeep/images.ts';
import type { AdminParts } from './admin-parts.ts';
import type { InspectDocument } from './documents/images.ts';

/** Nothing of the image is stored. The message names it, and says what is known. */
export class NotStored extends Error {
  override readonly name = 'NotStored';
}

/** An image, its manifests as far as they are known, and whether it is pinned. */
export interface FoundImage {
  readonly image: HeldImage;
  readonly manifests: readonly SurveyedManifest[];
  readonly isPinned: boolean;
  /** How many bytes are there of blobs that are not stored. */
  readonly bytesThere: ReadonlyMap<Digest, number>;
}

/** What is stored of an image reference. Throws NotStored, or InvalidReference. */
export async function inspectImage(
  {
    metadata,
    spool,
    survey,
    blobs,
    resolver,
  }: Pick<AdminParts, 'metadata' | 'spool' | 'survey' | 'blobs' | 'resolver'>,
  typed: string,
): Promise<FoundImage> {
  const { repository, tag = DEFAULT_TAG, digest } = resolver.repositoryOf(typed);
  const reference = digest ?? tag;
  const meant = await heldDigest(metadata, repository, reference);
  if (meant === undefined) throw new NotStored(`${typed}: not stored`);
  const surveyed = await survey.image(repository, meant, digest === undefined ? tag : undefined);
  if (isEvicted(repository, surveyed)) {
    const was = digest === undefined ? `; the tag last meant ${meant}` : '';
    throw new NotStored(`${typed}: no longer stored${was}`);
  }
  const manifests = await confirmedByFiles(surveyed, { metadata, blobs });
  const pins = await metadata.listPins(repository);
  const missing = manifests.flatMap(manifest => manifest.blobs).filter(({ isHeld }) => !isHeld);
  return {
    image: await heldImage(manifests, blobs),
    manifests,
    isPinned: pins.includes(reference) || pins.includes(meant),
    bytesThere: await bytesThereOf(spool, new Set(missing.map(blob => blob.digest))),
  };
}

async function heldDigest(metadata: MetadataStore, repository: Repository, reference: string) {
  const digest = await digestOfReference(metadata, repository, reference);
  return digest !== undefined && (await metadata.isLinked(repository, digest)) ? digest : undefined;
}

/** The image and its parts as a document. */
export function inspectDocument(
  typed: string,
  { image, manifests, isPinned, bytesThere }: FoundImage,
): InspectDocument {
  const platforms = new Map(image.platforms.map(({ digest, platform }) => [digest, platform]));
  return {
    image: typed,
    digest: image.digest,
    pinned: isPinned,
    ownBytes: image.ownBytes,
    sharedBytes: image.sharedBytes,
    missingBytes: image.missingBytes,
    missingManifests: image.missingManifests,
    lastUsed: image.usedAtMs === 0 ? null : new Date(image.usedAtMs).toISOString(),
    manifests: manifests.map(manifest => ({
      digest: manifest.digest,
      mediaType: manifest.mediaType ?? null,
      size: manifest.size,
      state: stateOfManifest(manifest),
      index: manifest.children.length > 0,
      platform: platforms.get(manifest.digest) ?? null,
      blobs: manifest.blobs.map(blob => ({
        digest: blob.digest,
        mediaType: blob.mediaType,
        size: blob.size,
        state: stateOfBlob(blob),
        bytesThere: bytesThere.get(blob.digest) ?? 0,
        config: blob.isConfig,
      })),
    })),
  };
}

/** For people. */
export function stateOfManifest({ isHeld, isDamaged }: SurveyedManifest): 'held' | 'missing' | 'damaged' {
  if (isDamaged) return 'damaged';
  return isHeld ? 'held' : 'missing';
}

/** For people. */
export function stateOfBlob({
  isHeld,
  isDamaged,
  isShared,
}: SurveyedBlob): 'held' | 'held, shared' | 'missing' | 'damaged' {
  if (isDamaged) return 'damaged';
  if (!isHeld) return 'missing';
  return isShared ? 'held, shared' : 'held';
}
