import type { BlobReader } from '../lib/blob-reader.ts';
import { heldContent, type HeldStores, missingFrom } from '../metadata/held-tree.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import { readContentTree } from '../oci/content-tree.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { isIndexType } from '../oci/media-types.ts';
import { choosePlatform, formatPlatform, type Platform } from '../oci/platform.ts';
import { configPlatform } from '../oci/platform-choice.ts';
import type { Repository } from '../oci/repository.ts';

/** The index, and the blobs of the store. */
export interface HeldContent extends HeldStores {
  readonly blobs: HeldStores['blobs'] & { open(digest: Digest): Promise<BlobReader | undefined> };
}

/** What is missing of an image, as texts; empty if it can be pulled without any upstream. */
export async function missingOfImage(
  stores: HeldContent,
  repository: Repository,
  reference: string,
  platforms: readonly Platform[] | undefined,
): Promise<readonly string[]> {
  const { metadata, blobs } = stores;
  const digest = await digestOfReference(metadata, repository, reference);
  const root = digest && (await metadata.readLinkedManifest(repository, digest));
  if (digest !== undefined && root === undefined && (await metadata.readDamage(digest)) !== undefined)
    return [digest];
  if (root === undefined) return ['everything'];
  const lookup = heldContent(repository, metadata, child => blobs.open(child));
  const descriptor = { mediaType: root.mediaType, digest: root.digest, size: root.bytes.byteLength };
  try {
    return await missingFrom(await readContentTree(descriptor, { lookup, platforms }), repository, stores);
  } catch (error) {
    if (error instanceof OciError) return [error.message];
    throw error;
  }
}

/**
 * The text for `missingText` if a single image is for none of `platforms`, according to its config. `undefined` if it is for
 * one of them, since there is no such image for the others; for an index, which lists its platforms itself; and if the
 * config is not stored, or names no platform, as for a chart.
 */
export async function unsuitedImage(
  { metadata, blobs }: HeldContent,
  repository: Repository,
  reference: string,
  platforms: readonly Platform[],
): Promise<string | undefined> {
  const digest = await digestOfReference(metadata, repository, reference);
  const root = digest && (await metadata.readLinkedManifest(repository, digest));
  if (platforms.length === 0 || root === undefined || isIndexType(root.mediaType)) return undefined;
  const lookup = heldContent(repository, metadata, config => blobs.open(config));
  const descriptor = { mediaType: root.mediaType, digest: root.digest, size: root.bytes.byteLength };
  const own = await configPlatform(descriptor, lookup);
  if (own === undefined || own.os === '') return undefined;
  const suits = (platform: Platform) => choosePlatform([{ platform: own }], platform).length > 0;
  if (platforms.some(suits)) return undefined;
  return `an image for ${platforms.map(formatPlatform).join(' or ')} (this one is for ${formatPlatform(own)})`;
}

/** At most `shown` of what is missing, as a sentence that also says what is stored but damaged. */
export async function missingText(
  { metadata }: Pick<HeldContent, 'metadata'>,
  all: readonly string[],
  shown: number,
): Promise<string> {
  const missing: string[] = [];
  const damaged: string[] = [];
  for (const text of all.slice(0, shown)) {
    const digest = text.match(/[a-z0-9]+:[0-9a-f]{64,}/)?.[0];
    const isDamaged =
      digest !== undefined && isDigest(digest) && (await metadata.readDamage(digest)) !== undefined;
    (isDamaged ? damaged : missing).push(text);
  }
  const parts = [clause(missing, 'missing'), clause(damaged, 'damaged')].filter(part => part !== undefined);
  const others = all.length - shown;
  return others > 0 ? `${parts.join('; ')}; and ${others} more` : parts.join('; ');
}

function clause(texts: readonly string[], state: string): string | undefined {
  if (texts.length === 0) return undefined;
  return `${texts.join(', ')} ${texts.length === 1 ? 'is' : 'are'} ${state}`;
}
