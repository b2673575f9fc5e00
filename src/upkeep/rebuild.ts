import { blobFault } from '../blobs/blob-fault.ts';
import type { BlobStore, FoundBlob } from '../blobs/blob-store.ts';
import type { RecordStore } from '../blobs/record-store.ts';
import { forEachAtOnce } from '../lib/at-once.ts';
import type { Presence } from '../lib/lease.ts';
import type { RecordedImage } from '../metadata/image-record.ts';
import type { During } from '../metadata/metadata-store.ts';
import { namedIn } from '../metadata/named-content.ts';
import {
  mayBeIncomplete,
  readRebuiltUpTo,
  rebuiltUpTo,
  resumeCollecting,
  stopCollectingAfterRebuild,
  stopCollectingDuringRebuild,
  whyNotCollected,
} from '../metadata/store-identity.ts';
import type { Digest } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { OciError } from '../oci/errors.ts';
import { isNonDistributable, type Manifest, type ManifestView } from '../oci/manifest.ts';
import { ImageRecordStore, type ListedImage } from './image-records.ts';
import type { Progress, Stores } from './stores.ts';

export interface RebuildRun {
  readonly signal: AbortSignal;
  readonly onProgress: (progress: Progress) => void;
  /** Called for each blob and manifest that is missing, or whose content does not match its name. */
  readonly onDamaged: (kind: 'blob' | 'manifest', digest: Digest, reason: string) => void;
}

type StartedRun = RebuildRun & { readonly during: Presence };

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
 * Blobs that are verified at a time. Most are small, and cost round trips to a bucket and the index, in which a core could hash
 * megabytes. Each holds up to a MiB.
 */
const BLOBS_AT_ONCE = 16;
/** Images that are read at a time, and then added in one transaction, which takes some ms. */
const IMAGES_AT_ONCE = 20;
/** Of the records of these: a record with a million tags is read alone. */
const MAX_RECORDS_BYTES = 4 * 1024 * 1024;
/** Of blobs that were reported to be missing, so that a common one is not reported for each image. */
const MAX_REMEMBERED = 100_000;

/**
 * Adds rows for stored blobs that the index does not know, after verifying each against its digest, and then the hosted
 * images that are recorded beside them. Deletes nothing, and stops garbage collection at the first blob: one without a Link
 * looks like garbage until a client requests it.
 *
 * May be interrupted anywhere and run again. Until it has ended, a lost index says of itself that it lacks something: nothing
 * is collected, and records stay as they are. Images are added in the order of their records, each as a whole, and how far
 * that has come is recorded with them: what was deleted in between does not come back. All of it belongs to one Presence: once
 * others consider this process dead, another one may rebuild the index, and clients may change it.
 */
export async function rebuildIndex(stores: RebuiltStores, run: RebuildRun): Promise<RebuildReport> {
  const { metadata } = stores;
  const { presence: during } = metadata;
  const found = { damaged: 0 };
  const counting: StartedRun = {
    ...run,
    during,
    onDamaged: (...damage) => {
      found.damaged += 1;
      run.onDamaged(...damage);
    },
  };
  const isLost = await mayBeIncomplete(metadata);
  const before = await readRebuiltUpTo(metadata);
  if (isLost && before === undefined) await stopCollectingDuringRebuild(metadata, { during });
  const blobs = await addBlobs(stores, counting);
  const images = await new ImageRebuild(stores, counting, isLost ? (before ?? '') : undefined).run();
  if (isLost) {
    // An empty bucket that was taken over.
    const isEmpty = before === '' && blobs.added + blobs.known + images.manifests + found.damaged === 0;
    await (isEmpty
      ? resumeCollecting(metadata, { during })
      : stopCollectingAfterRebuild(metadata, { during }));
  }
  const isCollectingStopped = (await whyNotCollected(metadata)) !== undefined;
  return { ...blobs, ...images, ...found, isCollectingStopped };
}

async function addBlobs(
  { metadata, blobs }: RebuiltStores,
  { signal, onProgress, onDamaged, during }: StartedRun,
): Promise<Pick<RebuildReport, 'added' | 'addedBytes' | 'known'>> {
  const report = { added: 0, addedBytes: 0, known: 0 };
  let stopping: Promise<void> | undefined;
  const add = async ({ digest, size, key }: FoundBlob) => {
    signal.throwIfAborted();
    if ((await metadata.statBlob(digest)) !== undefined) {
      report.known += 1;
      return;
    }
    // Before it is verified, so that it is not collected meanwhile.
    await (stopping ??= stopCollectingIfNot(metadata, { during }));
    const fault = await blobFault(blobs, digest, { bytesPerSecond: 0, key, signal });
    if (fault === undefined) {
      const isAdded = await (key === undefined
        ? metadata.putBlob(digest, size, undefined, { during })
        : metadata.putFoundBlob({ digest, key }, size, { during }));
      // The blob may have been pushed meanwhile, or this object given up.
      if (isAdded) {
        report.added += 1;
        report.addedBytes += size;
      } else {
        report.known += 1;
      }
    } else {
      onDamaged('blob', digest, fault);
    }
    onProgress({ step: 'blobs found', items: report.added, bytes: report.addedBytes });
  };
  await forEachAtOnce(blobs.list(), BLOBS_AT_ONCE, add);
  return report;
}

async function stopCollectingIfNot(metadata: Stores['metadata'], during: During): Promise<void> {
  if ((await whyNotCollected(metadata)) === undefined) await stopCollectingAfterRebuild(metadata, during);
}

/**
 * Adds recorded images that the index does not have. What it has, it knows better; but if it was lost, and its images were
 * pushed again since, they may have had further tags and pins.
 */
class ImageRebuild {
  readonly #metadata: Stores['metadata'];
  readonly #records: ImageRecordStore;
  readonly #run: StartedRun;
  readonly #from: string | undefined;
  readonly #report = { manifests: 0, tags: 0 };
  /** Blobs that were reported to be missing. */
  readonly #missing = new Set<Digest>();

  /** `from`: up to where a rebuild of the lost index came before; `undefined` if the index is not lost. */
  constructor({ metadata, records }: RebuiltStores, run: StartedRun, from: string | undefined) {
    this.#metadata = metadata;
    this.#records = new ImageRecordStore(records);
    this.#run = run;
    this.#from = from;
  }

  async run(): Promise<{ readonly manifests: number; readonly tags: number }> {
    let adding: Promise<void> = Promise.resolve();
    try {
      for await (const images of pagesOf(this.#records.images(this.#from))) {
        this.#run.signal.throwIfAborted();
        // While the last ones are being added.
        const read = await Promise.all(images.map(image => this.#read(image)));
        await adding;
        const recorded = read.filter(image => image !== undefined);
        adding = this.#add(recorded, images.at(-1)?.position ?? '');
        adding.catch(() => {});
      }
    } finally {
      await adding;
    }
    return this.#report;
  }

  /** `undefined` if there is nothing to be added. */
  async #read(image: ListedImage): Promise<RecordedImage | undefined> {
    const { name, digest } = image;
    const isKnown = (await this.#metadata.readLinkedManifest({ upstream: '', name }, digest)) !== undefined;
    if (isKnown) {
      const record = this.#from === undefined ? undefined : await this.#records.read(image);
      return record && { name, digest, record, content: undefined };
    }
    // It was deleted, and its record is older than that.
    if (await this.#metadata.isUnrecorded(image)) return undefined;
    const [bytes, record] = await Promise.all([
      this.#records.readManifest(digest),
      this.#records.read(image),
    ]);
    if (bytes === undefined || record === undefined) {
      const what = bytes === undefined ? 'its copy' : `its record in ${name}`;
      this.#run.onDamaged('manifest', digest, `${what} is missing or damaged`);
      return undefined;
    }
    const { mediaType } = record;
    const view = await viewOf(bytes, mediaType);
    if (view !== undefined)
      return { name, digest, record, content: contentOf({ digest, mediaType, bytes }, view) };
    this.#run.onDamaged('manifest', digest, `it is not a valid ${mediaType}`);
    return undefined;
  }

  async #add(images: readonly RecordedImage[], position: string): Promise<void> {
    const isLost = this.#from !== undefined;
    if (images.length === 0 && !isLost) return;
    const { manifests, tags, missing } = await this.#metadata.addRecordedImages(images, {
      atMs: Date.now(),
      completesKnown: isLost,
      setting: isLost ? rebuiltUpTo(position) : undefined,
      during: this.#run.during,
    });
    this.#report.manifests += manifests;
    this.#report.tags += tags;
    for (const { name, digest } of missing) this.#reportMissing(name, digest);
    this.#run.onProgress({ step: 'manifests found', items: this.#report.manifests, bytes: 0 });
  }

  #reportMissing(name: string, digest: Digest): void {
    if (this.#missing.has(digest)) return;
    if (this.#missing.size >= MAX_REMEMBERED) this.#missing.clear();
    this.#missing.add(digest);
    this.#run.onDamaged('blob', digest, `it is missing, and belongs to ${name}`);
  }
}

async function* pagesOf(images: AsyncIterable<ListedImage>): AsyncIterable<readonly ListedImage[]> {
  let [page, bytes] = [new Array<ListedImage>(), 0];
  for await (const image of images) {
    if (
      page.length === IMAGES_AT_ONCE ||
      (page.length > 0 && bytes + image.recordBytes > MAX_RECORDS_BYTES)
    ) {
      yield page;
      [page, bytes] = [[], 0];
    }
    page.push(image);
    bytes += image.recordBytes;
  }
  if (page.length > 0) yield page;
}

/** When it was pushed, its blobs were in the repository; but for those that no push requires, and that anybody may name. */
function contentOf(manifest: Manifest, view: ManifestView): NonNullable<RecordedImage['content']> {
  const blobs = namedIn(view)
    .filter(({ kind, descriptor }) => kind !== 'manifest' && !isNonDistributable(descriptor))
    .map(({ descriptor }) => descriptor);
  return { manifest, view, blobs };
}

async function viewOf(bytes: Uint8Array, mediaType: string): Promise<ManifestView | undefined> {
  try {
    return await documents.ask('view', bytes, mediaType);
  } catch (error) {
    if (error instanceof OciError && error.code !== 'UNAVAILABLE') return undefined;
    throw error;
  }
}
