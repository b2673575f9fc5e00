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
import { ANY_MANIFEST, type PullSource, type ServedManifest } from '../oci/pull-source.ts';
import { signatureTags } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** How many layers of one image at a time, as in containerd and Docker. */
const PARALLEL_BLOBS = 3;
/** How often the progress of a download is reported. */
const STEP_BYTES = 1024 * 1024;
/** If another process has taken a finished download over, it stores the blob, usually a moment later. */
const KEPT_WITHIN_MS = 30_000;
const KEPT_POLL_MS = 20;
const REFERRERS_PAGE = 100;
/** Referrers of referrers are few; an endless chain is malicious. */
const MAX_REFERRERS = 1000;

/** What to pull, and on whose behalf. */
export interface PullTask {
  readonly repository: Repository;
  /** A tag or a digest. */
  readonly reference: string;
  readonly right: Right;
}

export interface PullOptions {
  readonly source: PullSource;
  readonly metadata: MetadataStore;
  /** The platforms for which the best children of an index are pulled; all children if absent. */
  readonly platforms: readonly Platform[] | undefined;
  /** Whether to pull signatures, SBOMs and other attached artifacts, too. */
  readonly referrers: boolean;
  /** Told how many bytes there are to fetch, as that becomes known, and each time some arrive. */
  readonly progress: { expect(bytes: number): void; advance(bytes: number): void };
  /** Ends the pull, which then rejects. */
  readonly signal: AbortSignal;
}

/** The result of a pull. */
export interface PulledImage {
  readonly digest: Digest;
  readonly blobs: number;
  /** The number of blobs that were stored before. */
  readonly heldBlobs: number;
  /** The size of the others. */
  readonly fetchedBytes: number;
}

/**
 * Fetches everything of an image that is not stored, through the same source as clients, so that nothing is downloaded
 * twice. Rejects with the error that a client would get, or if an index has no image for a requested platform.
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

  /** Pulls a tree and returns its manifests. */
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

  /** A few at a time. If one fails, those that have begun are still awaited. */
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

  /** Retries if this process was suspended for so long that another one has started the download again. */
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

  /** Waits until the blob is downloaded and stored, without keeping what is read. */
  async #bring({ digest, size }: Descriptor): Promise<void> {
    const { source, metadata, progress, signal } = this.#options;
    const { repository, right } = this.#task;
    signal.throwIfAborted();
    // Upstream may only have proved that this repository has it, too; the outcome is that of a first fetch
    // nevertheless.
    const wasHeld = (await metadata.statBlob(digest)) !== undefined;
    const { reader, outcome, unstored } = await source.openBlob(repository, digest, right);
    if (reader.size !== size) {
      await reader.close();
      throw new OciError('UPSTREAM_INVALID', {
        message: `${digest} has ${reader.size} bytes, but its manifest says ${size}`,
      });
    }
    const isHeld = outcome !== 'miss' && outcome !== 'joined';
    if (isHeld) {
      await reader.close();
      this.heldBlobs += 1;
      progress.expect(-size);
      return;
    }
    const stop = (): void => void reader.close();
    signal.addEventListener('abort', stop);
    let whyUnstored: Error | undefined;
    // It could still be read from upstream to its end, which would be of no use to anybody.
    const end = (why: Error | undefined): void => {
      whyUnstored = why;
      if (why !== undefined) stop();
    };
    void unstored?.then(end);
    try {
      // It may have been aborted while the blob was opened.
      signal.throwIfAborted();
      for (let position = 0; position < size; position += STEP_BYTES) {
        await reader.read(new Uint8Array(1), Math.min(position + STEP_BYTES, size) - 1);
        signal.throwIfAborted();
        progress.advance(Math.min(STEP_BYTES, size - position));
      }
      whyUnstored = await unlessAborted(unstored ?? Promise.resolve(undefined), signal);
    } catch (error) {
      signal.throwIfAborted();
      if (whyUnstored === undefined) throw error;
    } finally {
      signal.removeEventListener('abort', stop);
      await reader.close();
    }
    if (whyUnstored !== undefined) throw notStored(digest, whyUnstored);
    if (wasHeld) this.heldBlobs += 1;
    else this.fetchedBytes += size;
    await this.#requireKept(digest);
  }

  async #requireKept(digest: Digest): Promise<void> {
    const { metadata, signal } = this.#options;
    const deadlineMs = performance.now() + KEPT_WITHIN_MS;
    while ((await metadata.statBlob(digest)) === undefined) {
      if (performance.now() > deadlineMs) throw notStored(digest);
      await delay(KEPT_POLL_MS, undefined, { signal });
    }
    await this.#requireLinked(digest);
  }

  /**
   * If the blob was downloaded for another repository, upstream may still have to confirm that this one has it: asking
   * waits for that, and creates the Link.
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

  /** Looked up by their names, since nothing lists them; mostly there are none. */
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

  async #manifest(reference: string): Promise<ServedManifest> {
    const { source, signal } = this.#options;
    signal.throwIfAborted();
    const { repository, right } = this.#task;
    const served = await unlessAborted(source.manifest(repository, reference, right, ANY_MANIFEST), signal);
    if (!served.stored) throw notStored(served.descriptor.digest);
    return served;
  }
}

/** The log has the reason if it is not known here. */
function notStored(digest: Digest, reason?: Error): OciError {
  const why = reason === undefined ? '' : `: ${reason.message}`;
  return new OciError('INSUFFICIENT_STORAGE', {
    message: `${digest} could not be stored${why}`,
    cause: reason,
  });
}
