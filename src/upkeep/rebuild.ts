import type { BlobStore } from '../blobs/blob-store.ts';
import type { RecordStore } from '../blobs/record-store.ts';
import { unreadableReason } from '../blobs/unreadable.ts';
import type { HostedImage, HostedRecord } from '../metadata/image-record.ts';
import { namedIn } from '../metadata/named-content.ts';
import { mayBeIncomplete, stopCollectingAfterRebuild, whyNotCollected } from '../metadata/store-identity.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { OciError } from '../oci/errors.ts';
import { isNonDistributable, type ManifestView } from '../oci/manifest.ts';
import type { Repository } from '../oci/repository.ts';
import { ImageRecordStore } from './image-records.ts';
import type { Progress, Stores } from './stores.ts';

export interface RebuildRun {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  /** Called for each blob and manifest that is missing, or whose content does not match its name. */
  readonly onDamaged: (kind: 'blob' | 'manifest', digest: Digest, reason: string) => void;
}

/** The result of a rebuild. */
export interface RebuildReport {
  /** Blobs that were added to the index. */
  readonly added: number;
  readonly addedBytes: number;
  readonly known: number;
  /** Manifests that were added to hosted repositories. */
  readonly manifests: number;
  /** Tags that were set in them. */
  readonly tags: number;
  /** Blobs and manifests that are missing, or whose content does not match their names; they are left in place. */
  readonly damaged: number;
  /** Whether garbage is collected again only after `entrepot gc --force`. */
  readonly isCollectingStopped: boolean;
}

export interface RebuiltStores extends Pick<Stores, 'metadata'> {
  readonly blobs: Pick<BlobStore, 'list' | 'rehash'>;
  readonly records: RecordStore;
}

/**
 * Adds rows for stored blobs that the index does not know, after verifying each against its digest, and then the hosted
 * images that are recorded beside them. Deletes nothing, and stops garbage collection at the first blob: one without a Link
 * looks like garbage until a client requests it. May be interrupted and run again.
 */
export async function rebuildIndex(stores: RebuiltStores, run: RebuildRun): Promise<RebuildReport> {
  const found = { damaged: 0 };
  const counting: RebuildRun = {
    ...run,
    onDamaged: (...damage) => {
      found.damaged += 1;
      run.onDamaged(...damage);
    },
  };
  const lacksTags = await mayBeIncomplete(stores.metadata);
  const blobs = await addBlobs(stores, counting);
  const images = await new ImageRebuild(stores, counting, lacksTags).run();
  return { ...blobs, ...images, ...found };
}

async function addBlobs(
  { metadata, blobs }: RebuiltStores,
  { signal, onProgress, onDamaged }: RebuildRun,
): Promise<Pick<RebuildReport, 'added' | 'addedBytes' | 'known' | 'isCollectingStopped'>> {
  const report = { added: 0, addedBytes: 0, known: 0, isCollectingStopped: false };
  const stopCollecting = async () => {
    await stopCollectingAfterRebuild(metadata);
    report.isCollectingStopped = true;
  };
  // What else stopped it, such as a new index, has now been dealt with: only `gc --force` is left to do.
  if ((await whyNotCollected(metadata)) !== undefined) await stopCollecting();
  for await (const { digest, size, key } of blobs.list()) {
    signal.throwIfAborted();
    if ((await metadata.statBlob(digest)) !== undefined) {
      report.known += 1;
      continue;
    }
    // Before it is verified, so that it is not collected meanwhile.
    if (!report.isCollectingStopped) await stopCollecting();
    const fault = await faultOf(blobs, { digest, key }, signal);
    if (fault === undefined) {
      await (key === undefined
        ? metadata.putBlob(digest, size)
        : metadata.putFoundBlob({ digest, key }, size));
      report.added += 1;
      report.addedBytes += size;
    } else {
      onDamaged('blob', digest, fault);
    }
    onProgress({ step: 'blobs found', items: report.added, bytes: report.addedBytes });
  }
  return report;
}

async function faultOf(
  blobs: RebuiltStores['blobs'],
  { digest, key }: { readonly digest: Digest; readonly key: string | undefined },
  signal: AbortSignal,
): Promise<string | undefined> {
  try {
    const actual = await blobs.rehash(digest, { bytesPerSecond: 0, key, signal });
    return actual === digest ? undefined : 'its content does not match the digest';
  } catch (error) {
    const reason = unreadableReason(error);
    if (reason === undefined) throw error;
    return reason;
  }
}

/**
 * Adds recorded images that the index does not have. What it has, it knows better; but if it was lost, and its images were
 * pushed again since, they may have had further tags.
 */
class ImageRebuild {
  readonly #metadata: Stores['metadata'];
  readonly #records: ImageRecordStore;
  readonly #run: RebuildRun;
  readonly #lacksTags: boolean;
  readonly #report = { manifests: 0, tags: 0 };
  /** Blobs that were reported to be missing. */
  readonly #missing = new Set<Digest>();

  /** `lacksTags`: whether images that the index has may lack tags. */
  constructor({ metadata, records }: RebuiltStores, run: RebuildRun, lacksTags: boolean) {
    this.#metadata = metadata;
    this.#records = new ImageRecordStore(records);
    this.#run = run;
    this.#lacksTags = lacksTags;
  }

  async run(): Promise<{ readonly manifests: number; readonly tags: number }> {
    const { signal, onProgress } = this.#run;
    for await (const image of this.#records.images()) {
      signal.throwIfAborted();
      const repository = { upstream: '', name: image.name };
      if ((await this.#metadata.readLinkedManifest(repository, image.digest)) !== undefined) {
        if (this.#lacksTags) await this.#addTags(repository, image);
        continue;
      }
      // Asked then, since it may have been deleted while this runs: its record is older than that.
      if (await this.#metadata.isUnrecorded(image)) continue;
      await this.#add(repository, image);
      onProgress({ step: 'manifests found', items: this.#report.manifests, bytes: 0 });
    }
    return this.#report;
  }

  async #add(repository: Repository, image: HostedImage): Promise<void> {
    const { digest } = image;
    const [bytes, record] = [await this.#records.readManifest(digest), await this.#records.read(image)];
    if (bytes === undefined || record === undefined) {
      const what = bytes === undefined ? 'its copy' : `its record in ${image.name}`;
      this.#run.onDamaged('manifest', digest, `${what} is missing or damaged`);
      return;
    }
    const { mediaType } = record;
    const view = await viewOf(bytes, mediaType);
    if (view === undefined) {
      this.#run.onDamaged('manifest', digest, `it is no ${mediaType}`);
      return;
    }
    await this.#link(repository, view);
    await this.#metadata.putManifest(repository, { digest, mediaType, bytes }, view, { atMs: Date.now() });
    this.#report.manifests += 1;
    await this.#name(repository, digest, record);
  }

  /** When it was pushed, its blobs were in the repository; but for those that no push requires, and that anybody may name. */
  async #link(repository: Repository, view: ManifestView): Promise<void> {
    for (const { kind, descriptor } of namedIn(view)) {
      if (kind === 'manifest' || isNonDistributable(descriptor)) continue;
      await this.#linkBlob(repository, descriptor);
    }
  }

  async #linkBlob(repository: Repository, { digest, size }: Descriptor): Promise<void> {
    await this.#metadata.linkBlob(repository, digest, size);
    if (this.#missing.has(digest) || (await this.#metadata.statBlob(digest)) !== undefined) return;
    this.#missing.add(digest);
    this.#run.onDamaged('blob', digest, `it is missing, and belongs to ${repository.name}`);
  }

  /** Sets the recorded tags that mean nothing by now. */
  async #addTags(repository: Repository, image: HostedImage): Promise<void> {
    for (const { tag, atMs } of (await this.#records.read(image))?.tags ?? []) {
      if ((await this.#metadata.readTag(repository, tag)) !== undefined) continue;
      await this.#metadata.putTag(repository, tag, { digest: image.digest, checkedAtMs: atMs });
      this.#report.tags += 1;
    }
  }

  /** A tag that two images have, because a crash came between their records, means the newer one. */
  async #name(repository: Repository, digest: Digest, { tags, pins }: HostedRecord): Promise<void> {
    for (const { tag, atMs } of tags) {
      const known = await this.#metadata.readTag(repository, tag);
      if (known !== undefined && known.checkedAtMs >= atMs) continue;
      await this.#metadata.putTag(repository, tag, { digest, checkedAtMs: atMs });
      this.#report.tags += 1;
    }
    for (const reference of pins) await this.#metadata.putPin(repository, reference);
  }
}

async function viewOf(bytes: Uint8Array, mediaType: string): Promise<ManifestView | undefined> {
  try {
    return await documents.ask('view', bytes, mediaType);
  } catch (error) {
    if (error instanceof OciError && error.code !== 'UNAVAILABLE') return undefined;
    throw error;
  }
}
