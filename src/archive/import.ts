import type { BlobStore } from '../blobs/blob-store.ts';
import type { Spool } from '../blobs/spool.ts';
import { acquireImportLease } from '../metadata/import-lease.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import { repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import { type CompleteOptions, readContents, type ReadOptions, type Settled, settleAll } from './contents.ts';
import { BlobImporter } from './blob-importer.ts';
import type { ArchiveEntry } from './open-archive.ts';
import { placeAll, type PlacedImage, type PlacementOptions } from './placement.ts';
import { type Arrival, publish } from './publish.ts';
import type { ImportQuota } from './import-quota.ts';

export interface ImportOptions extends PlacementOptions, ReadOptions, Pick<CompleteOptions, 'platforms'> {
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  /** Limits what hosted repositories may store; no limit by default. */
  readonly quota?: ImportQuota | undefined;
}

/** An image that was imported. */
export interface ImportedImage {
  /** The name by which it is pulled from here. */
  readonly name: string;
  readonly digest: Digest;
}

/** The result of an import. */
export interface ImportReport {
  readonly images: readonly ImportedImage[];
  /** Blobs that were not stored before. */
  readonly addedBlobs: number;
  readonly addedBytes: number;
  /** Blobs of the images that were stored already. */
  readonly heldBlobs: number;
}

/**
 * Imports the images of an archive: all or none. Throws ArchiveError with the reason for a refusal, and then leaves
 * nothing behind, unless no garbage is collected, or this process was suspended for so long that content was removed which
 * it had linked: the names then exist until it is run again. If it is run again after an interruption, stored content is not
 * written again.
 */
export async function importArchive(
  entries: AsyncIterable<ArchiveEntry>,
  options: ImportOptions,
): Promise<ImportReport> {
  const { metadata, spool, blobs, signal = new AbortController().signal } = options;
  const importer = new BlobImporter({ metadata, spool, blobs, signal });
  try {
    const settled = await importAll(entries, importer, options);
    const used = new Set(settled.flatMap(({ tree }) => tree.blobs.map(({ digest }) => digest)));
    await importer.discard(used);
    return reportOf(settled, used, importer);
  } catch (error) {
    if (error instanceof ArchiveError && !signal.aborted) await importer.discard();
    else await importer.settle().catch(() => {});
    throw error;
  }
}

/** Stores and publishes everything, while upkeep leaves what was stored for it. */
async function importAll(
  entries: AsyncIterable<ArchiveEntry>,
  importer: BlobImporter,
  options: ImportOptions,
): Promise<readonly Settled[]> {
  const { metadata } = options;
  const during = metadata.presence;
  const lease = await acquireImportLease(metadata);
  try {
    let placed: readonly PlacedImage[] = [];
    const index = await readContents(entries, importer, options, async found => {
      placed = await placeAll(found, options);
    });
    const settled = await settleAll(index, placed, importer, options);
    await publish(settled.map(arrivalOf), { ...options, during });
    return settled;
  } finally {
    await metadata.release(lease);
  }
}

/** The content and name of an image to be published. */
export function arrivalOf({ image, place: { repository, tag }, tree }: Settled): Arrival {
  return { repository, tag, digest: image.descriptor.digest, tree };
}

function reportOf(
  settled: readonly Settled[],
  used: ReadonlySet<Digest>,
  { added }: BlobImporter,
): ImportReport {
  return {
    images: settled.map(one => ({ name: nameHere(one), digest: one.image.descriptor.digest })),
    addedBlobs: added.size,
    addedBytes: [...added.values()].reduce((sum, size) => sum + size, 0),
    heldBlobs: [...used].filter(digest => !added.has(digest)).length,
  };
}

/** The name by which an image is pulled from here. */
export function nameHere({ image, place: { repository, tag } }: Settled): string {
  return `${repositoryText(repository)}${tag === undefined ? `@${image.descriptor.digest}` : `:${tag}`}`;
}
