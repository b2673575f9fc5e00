import { setTimeout as delay } from 'node:timers/promises';
import { LeaseLost } from '../lib/lease.ts';
import { unlessAborted } from '../lib/single-flight.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { formatPlatform, type Platform } from '../oci/platform.ts';
import type { ContentLookup } from '../oci/platform-choice.ts';
import type { ManifestWant, PullSource, ServedManifest } from '../oci/pull-source.ts';
import { signatureTags } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** Layers of one image at a time: what containerd and Docker do. */
const PARALLEL_BLOBS = 3;
/** How far a download has come is looked at each so many bytes. */
const STEP_BYTES = 1024 * 1024;
/** A verified blob is synced and known to the index a moment after its last byte can be read; a full disk never does. */
const KEPT_WITHIN_MS = 30_000;
const KEPT_POLL_MS = 20;
const REFERRERS_PAGE = 100;
/** Signatures of signatures end somewhere; what goes on was made to. */
const MAX_REFERRERS = 1000;

const ANYTHING: ManifestWant = { accepts: () => true, platform: undefined };

/** What is pulled, and on whose behalf. */
export interface PullTask {
  readonly repository: Repository;
  /** A tag or a digest. */
  readonly reference: string;
  readonly right: Right;
}

export interface PullOptions {
  readonly source: PullSource;
  readonly metadata: MetadataStore;
  /** Of an index only the best child for each of these; all children if left out. */
  readonly platforms: readonly Platform[] | undefined;
  /** Brings signatures, SBOMs and the like too. */
  readonly referrers: boolean;
  readonly progress: { expect(bytes: number): void; advance(bytes: number): void };
  readonly signal: AbortSignal;
}

export interface PulledImage {
  readonly digest: Digest;
  readonly blobs: number;
  /** Blobs that were held before. */
  readonly heldBlobs: number;
  /** Bytes of the others. */
  readonly fetchedBytes: number;
}

/**
 * Brings all of an image that is not held, through the source that serves clients too, so that nothing is fetched twice
 * beside them. Rejects with what a client would hear, or when an index has nothing for a wanted platform.
 */
export async function pullImage(task: PullTask, options: PullOptions): Promise<PulledImage> {
  const pull = new ImagePull(task, options);
  const digest = await pull.run();
  return { digest, blobs: pull.blobs, heldBlobs: pull.heldBlobs, fetchedBytes: pull.fetchedBytes };
}

class ImagePull {
  blobs = 0;
  heldBlobs = 0;
  fetchedBytes = 0;
  readonly #task: PullTask;
  readonly #options: PullOptions;
  readonly #seen = new Set<Digest>();

  constructor(task: PullTask, options: PullOptions) {
    this.#task = task;
    this.#options = options;
  }

  async run(): Promise<Digest> {
    const { platforms, referrers } = this.#options;
    const root = await this.#manifest(this.#task.reference);
    const manifests = await this.#pullTree(root, platforms);
    if (referrers) await this.#pullReferrers(manifests);
    return root.descriptor.digest;
  }

  /** Brings a tree and returns its manifests. */
  async #pullTree(
    root: ServedManifest,
    platforms: readonly Platform[] | undefined,
  ): Promise<readonly Digest[]> {
    const tree = await readContentTree(root.descriptor, { lookup: this.#lookup(root), platforms });
    const blobs = tree.blobs.filter(({ digest }) => !this.#seen.has(digest));
    for (const { digest, size } of blobs) {
      this.#seen.add(digest);
      this.#options.progress.expect(size);
    }
    await this.#pullBlobs(blobs);
    if (tree.unmatched.length > 0) {
      throw new OciError('MANIFEST_UNKNOWN', {
        message: `there is no image for ${tree.unmatched.map(formatPlatform).join(', ')}`,
      });
    }
    return tree.manifests.map(({ manifest }) => manifest.digest);
  }

  #lookup(root: ServedManifest): ContentLookup {
    const { source } = this.#options;
    const { repository, right } = this.#task;
    return {
      manifest: async ({ digest }) => {
        const { descriptor, bytes } = digest === root.descriptor.digest ? root : await this.#manifest(digest);
        return { digest, mediaType: descriptor.mediaType, bytes };
      },
      config: async ({ digest }) => (await source.openBlob(repository, digest, right)).reader,
    };
  }

  /** Some at a time; all that have begun come to an end, also when one fails. */
  async #pullBlobs(blobs: readonly Descriptor[]): Promise<void> {
    const queue = [...blobs];
    const work = async (): Promise<void> => {
      for (let blob = queue.shift(); blob !== undefined; blob = queue.shift()) {
        try {
          await this.#pullBlob(blob);
        } catch (error) {
          queue.length = 0;
          throw error;
        }
      }
    };
    const workers = await Promise.allSettled(Array.from({ length: PARALLEL_BLOBS }, work));
    const failed = workers.find(worker => worker.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Comes again when its process stood still for so long that another one has begun the download anew. */
  async #pullBlob(blob: Descriptor): Promise<void> {
    this.blobs += 1;
    let isBrought = false;
    while (!isBrought) {
      isBrought = await this.#bring(blob).then(
        () => true,
        (error: unknown) => {
          if (!(error instanceof OciError && error.cause instanceof LeaseLost)) throw error;
          return false;
        },
      );
    }
  }

  /** Waits for the download, and for its being kept, without reading what comes. */
  async #bring({ digest, size }: Descriptor): Promise<void> {
    const { source, metadata, progress, signal } = this.#options;
    const { repository, right } = this.#task;
    signal.throwIfAborted();
    // Upstream only shows that this repository has it too: the answer is that of a first fetch nevertheless.
    const wasHeld = (await metadata.statBlob(digest)) !== undefined;
    const { reader, outcome } = await source.openBlob(repository, digest, right);
    const isHeld = outcome !== 'miss' && outcome !== 'joined';
    if (isHeld) {
      await reader.close();
      this.heldBlobs += 1;
      progress.expect(-size);
      return;
    }
    const stop = (): void => void reader.close();
    signal.addEventListener('abort', stop);
    try {
      // It may have come while the blob was opened.
      signal.throwIfAborted();
      for (let position = 0; position < size; position += STEP_BYTES) {
        await reader.read(new Uint8Array(1), Math.min(position + STEP_BYTES, size) - 1);
        signal.throwIfAborted();
        progress.advance(Math.min(STEP_BYTES, size - position));
      }
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener('abort', stop);
      await reader.close();
    }
    if (wasHeld) this.heldBlobs += 1;
    else this.fetchedBytes += size;
    await this.#requireKept(digest);
  }

  async #requireKept(digest: Digest): Promise<void> {
    const { metadata, signal } = this.#options;
    const deadlineMs = performance.now() + KEPT_WITHIN_MS;
    while ((await metadata.statBlob(digest)) === undefined) {
      if (performance.now() > deadlineMs) {
        throw new OciError('INSUFFICIENT_STORAGE', {
          message: `${digest} was downloaded but could not be stored`,
        });
      }
      await delay(KEPT_POLL_MS, undefined, { signal });
    }
    await this.#requireLinked(digest);
  }

  /**
   * Where another repository brought the blob, upstream may still be asked whether this one has it too when the blob is
   * kept: asking again waits for the answer, which makes the Link.
   */
  async #requireLinked(digest: Digest): Promise<void> {
    const { source, metadata } = this.#options;
    const { repository, right } = this.#task;
    if (await metadata.isLinked(repository, digest)) return;
    const { reader } = await source.openBlob(repository, digest, right);
    await reader.close();
  }

  async #pullReferrers(subjects: readonly Digest[]): Promise<void> {
    const seen = new Set(subjects);
    const queue = [...subjects];
    for (let subject = queue.shift(); subject !== undefined; subject = queue.shift()) {
      for (const digest of [...(await this.#referrers(subject)), ...(await this.#signatures(subject))]) {
        if (seen.has(digest)) continue;
        if (seen.size >= MAX_REFERRERS)
          throw new OciError('UPSTREAM_INVALID', { message: 'it has too many referrers' });
        seen.add(digest);
        await this.#pullTree(await this.#manifest(digest), undefined);
        queue.push(digest);
      }
    }
  }

  async #referrers(subject: Digest): Promise<readonly Digest[]> {
    const { repository, right } = this.#task;
    const found: Digest[] = [];
    let after: string | undefined;
    do {
      const query = { artifactType: undefined, page: { limit: REFERRERS_PAGE, after } };
      const { manifests, next } = await this.#options.source.referrers(repository, subject, query, right);
      found.push(...manifests.map(({ digest }) => digest));
      after = next;
    } while (after !== undefined && found.length < MAX_REFERRERS);
    return found;
  }

  /** Asked for by name, as nothing lists them; mostly there are none. */
  async #signatures(subject: Digest): Promise<readonly Digest[]> {
    const found: Digest[] = [];
    for (const tag of signatureTags(subject)) {
      try {
        found.push((await this.#manifest(tag)).descriptor.digest);
      } catch (error) {
        if (!(error instanceof OciError && error.status === 404)) throw error;
      }
    }
    return found;
  }

  #manifest(reference: string): Promise<ServedManifest> {
    const { source, signal } = this.#options;
    signal.throwIfAborted();
    const { repository, right } = this.#task;
    return unlessAborted(source.manifest(repository, reference, right, ANYTHING), signal);
  }
}
