import { setImmediate } from 'node:timers/promises';
import type { BlobStore } from '../blobs/blob-store.ts';
import { readWhole } from '../lib/bytes-reader.ts';
import {
  everything,
  type Survey,
  type SurveyedBlob,
  type SurveyedImage,
  type SurveyedManifest,
} from '../metadata/survey.ts';
import type { Digest } from '../oci/digest.ts';
import { isNonDistributable } from '../oci/manifest.ts';
import { formatPlatform, isAttestation, type Platform } from '../oci/platform.ts';
import type { Repository } from '../oci/repository.ts';
import type { Stores } from './stores.ts';

/** Configs are smaller than this; the platform of a larger one is not shown. */
const MAX_CONFIG_BYTES = 1024 * 1024;

/** What is stored of an image. */
export interface HeldImage {
  readonly digest: Digest;
  readonly platforms: readonly HeldPlatform[];
  /** The bytes that removing its name would free, and those that other names need as well, including equal images. */
  readonly ownBytes: number;
  readonly sharedBytes: number;
  /** The bytes that are missing of the image, without those that missing manifests name, which are unknown. */
  readonly missingBytes: number;
  readonly missingManifests: number;
  /** When the manifest or anything below it was last served; 0 for never. */
  readonly usedAtMs: number;
  readonly isDamaged: boolean;
}

/** A platform of an image, and whether it is completely stored. */
export interface HeldPlatform {
  /** Such as `linux/arm64/v8`; `undefined` for an artifact, or if it is unknown. */
  readonly platform: string | undefined;
  readonly digest: Digest;
  readonly isComplete: boolean;
}

/**
 * Every tag with what is stored of its image, ordered by name; then images without a tag. Tags whose image was evicted
 * are left out, unless they are pinned.
 */
export async function* heldImages(
  survey: Survey,
  blobs: BlobStore,
): AsyncIterable<SurveyedImage & HeldImage> {
  for (const find of ['tags', 'untagged'] as const) {
    for await (const images of everything(after => survey[find](after))) {
      for (const image of images) {
        // The survey may be in this thread: signals and timers get their turn.
        await setImmediate();
        const { repository, digest, tag, isPinned } = image;
        const manifests = await survey.image(repository, digest, tag);
        if (isEvicted(repository, manifests) && !isPinned) continue;
        yield { ...image, ...(await heldImage(manifests, blobs)) };
      }
    }
  }
}

/** Nothing is known of what the image consists of: its manifest is not stored, and its absence is no damage. */
export function isEvicted({ upstream }: Repository, [top]: readonly SurveyedManifest[]): boolean {
  return upstream !== '' && top?.isHeld === false && !top.isDamaged;
}

/**
 * What the survey found, with blobs whose file is absent or has another size as damaged: the index does not notice what a
 * disk loses, until a scrub.
 */
export async function confirmedByFiles(
  manifests: readonly SurveyedManifest[],
  stores: Pick<Stores, 'metadata' | 'blobs'>,
): Promise<readonly SurveyedManifest[]> {
  const confirmed: SurveyedManifest[] = [];
  for (const manifest of manifests) {
    const named: SurveyedBlob[] = [];
    for (const blob of manifest.blobs) {
      const isDamaged = blob.isHeld && !(await isWhole(blob.digest, stores));
      named.push(isDamaged ? { ...blob, isHeld: false, isDamaged } : blob);
    }
    confirmed.push({ ...manifest, blobs: named });
  }
  return confirmed;
}

/** Whether the file has the size that the index has recorded. A row that is gone by now says nothing about the file. */
async function isWhole(
  digest: Digest,
  { metadata, blobs }: Pick<Stores, 'metadata' | 'blobs'>,
): Promise<boolean> {
  const found = await blobs.stat(digest);
  const recorded = await metadata.statBlob(digest);
  return recorded === undefined || recorded.size === found?.size;
}

/** The totals of what the survey found below a manifest. */
export async function heldImage(
  manifests: readonly SurveyedManifest[],
  blobs: BlobStore,
): Promise<HeldImage> {
  const [top] = manifests;
  if (top === undefined) {
    throw new Error('internal error: the survey found no manifest of the image');
  }
  const content = blobsOf(manifests);
  return {
    digest: top.digest,
    platforms: await platformsOf(top, manifests, blobs),
    ownBytes: heldBytes(manifests, false),
    sharedBytes: heldBytes(manifests, true),
    missingBytes: bytesOf(content.filter(blob => !blob.isHeld && !isNonDistributable(blob))),
    missingManifests: manifests.filter(({ isHeld }) => !isHeld).length,
    usedAtMs: usedAtMsOf(manifests),
    isDamaged: [...manifests, ...content].some(({ isDamaged }) => isDamaged),
  };
}

/** When a manifest or blob of an image was last served; 0 for never. */
export function usedAtMsOf(manifests: readonly SurveyedManifest[]): number {
  const held = blobsOf(manifests).filter(({ isHeld }) => isHeld);
  return Math.max(0, ...[...manifests, ...held].map(({ usedAtMs }) => usedAtMs));
}

/** The stored bytes of an image that something else needs as well, or those that nothing else needs. */
export function heldBytes(manifests: readonly SurveyedManifest[], shared: boolean): number {
  const held = blobsOf(manifests).filter(({ isHeld }) => isHeld);
  return bytesOf([...manifests, ...held].filter(({ isShared }) => isShared === shared));
}

/** The blobs of an image, each once. */
function blobsOf(manifests: readonly SurveyedManifest[]): readonly SurveyedBlob[] {
  const blobs = manifests.flatMap(manifest => manifest.blobs).map(blob => [blob.digest, blob] as const);
  return [...new Map(blobs).values()];
}

async function platformsOf(
  top: SurveyedManifest,
  manifests: readonly SurveyedManifest[],
  blobs: BlobStore,
): Promise<readonly HeldPlatform[]> {
  if (top.children.length === 0) {
    const platform = await configPlatform(top, blobs);
    return [{ platform, digest: top.digest, isComplete: isComplete(top) }];
  }
  const byDigest = new Map(manifests.map(manifest => [manifest.digest, manifest]));
  return top.children
    .filter(child => !isAttestation(child))
    .map(({ digest, platform }) => ({
      platform: platform && formatPlatform(platform),
      digest,
      isComplete: isComplete(byDigest.get(digest)),
    }));
}

function isComplete(manifest: SurveyedManifest | undefined): boolean {
  return manifest?.isHeld === true && manifest.blobs.every(blob => blob.isHeld || isNonDistributable(blob));
}

/** A manifest outside an index has its platform in its config (image-spec, config.md). */
async function configPlatform(
  { blobs: named }: SurveyedManifest,
  blobs: BlobStore,
): Promise<string | undefined> {
  const config = named.find(({ isConfig }) => isConfig);
  if (config === undefined || !config.isHeld || config.size > MAX_CONFIG_BYTES) {
    return undefined;
  }
  const platform = await readPlatform(config.digest, blobs);
  return platform && formatPlatform(platform);
}

/**
 * The config of an artifact may be anything: one that is not JSON has no platform, nor has a signature's, in which both
 * members are ''.
 */
async function readPlatform(digest: Digest, blobs: BlobStore): Promise<Platform | undefined> {
  const reader = await blobs.open(digest);
  const bytes = reader && (await readWhole(reader, MAX_CONFIG_BYTES));
  if (bytes === undefined) {
    return undefined;
  }
  try {
    const { os, architecture, variant }: Partial<Platform> = JSON.parse(Buffer.from(bytes).toString()) ?? {};
    if (typeof os !== 'string' || typeof architecture !== 'string') return undefined;
    if (os === '' && architecture === '') return undefined;
    return { os, architecture, ...(typeof variant === 'string' ? { variant } : {}) };
  } catch (error) {
    if (error instanceof SyntaxError) {
      return undefined;
    }
    throw error;
  }
}

function bytesOf(contents: readonly Pick<SurveyedBlob, 'size'>[]): number {
  return contents.reduce((sum, { size }) => sum + size, 0);
}
