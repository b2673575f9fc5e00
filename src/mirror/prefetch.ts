import type { BlobStore } from '../blobs/blob-store.ts';
import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { isNonDistributable } from '../oci/manifest.ts';
import { isSchema1Type } from '../oci/media-types.ts';
import { chooseChild, type ContentLookup } from '../oci/platform-choice.ts';
import { formatPlatform, type Platform } from '../oci/platform.ts';
import type { ServedManifest } from '../oci/pull-source.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { FillRun } from './fill/fill-run.ts';
import type { Fills } from './fill/fills.ts';

/** A node asks for the same manifest by HEAD, by tag and by digest within seconds; it is followed once. */
const LOOKED_AT = { maxEntries: 10_000, maxAgeMs: 60_000 };

/** What to prefetch of a repository. */
export interface PrefetchRule {
  readonly prefetch: boolean;
  /** The platforms to fetch of an index, unless the requester has its own list; none if absent. */
  readonly platforms?: readonly Platform[] | undefined;
}

export interface PrefetchOptions {
  readonly metadata: MetadataStore;
  readonly blobs: BlobStore;
  readonly fills: Fills;
  /** What to prefetch of a repository; asked each time. */
  readonly ruleOf: (repository: Repository) => PrefetchRule;
  /** Fetches a child of an index as for a client, and stores it. */
  readonly fetchManifest: (repository: Repository, digest: Digest, right: Right) => Promise<ServedManifest>;
  readonly log: Log;
}

/**
 * Starts the downloads that a client will need after its manifest, with lower priority than those that clients wait
 * for.
 */
export class Prefetch {
  readonly #options: PrefetchOptions;
  readonly #lookedAt = new Lru<object>(LOOKED_AT);

  constructor(options: PrefetchOptions) {
    this.#options = options;
  }

  /**
   * Fetches what the manifest `served` names, in the name of `right`, to which it was served. Returns at once and never
   * throws.
   */
  follow(repository: Repository, served: ServedManifest, right: Right): void {
    const rule = this.#options.ruleOf(repository);
    if (!rule.prefetch) return;
    const platforms = right.platforms ?? rule.platforms ?? [];
    const { digest, mediaType } = served.descriptor;
    const key = [repositoryText(repository), digest, mediaType, ...platforms.map(formatPlatform)].join(' ');
    if (this.#lookedAt.get(key) !== undefined) return;
    this.#lookedAt.set(key, {});
    this.#fetch(repository, served, right, platforms).catch((error: unknown) => {
      this.#options.log.info({ err: error, repository: repositoryText(repository) }, 'prefetching failed');
    });
  }

  async #fetch(
    repository: Repository,
    { descriptor, bytes }: ServedManifest,
    right: Right,
    platforms: readonly Platform[],
  ): Promise<void> {
    if (isSchema1Type(descriptor.mediaType)) return;
    const view = await documents.ask('view', bytes, descriptor.mediaType);
    for (const blob of view.blobs) {
      if (!isNonDistributable(blob)) await this.#begin(repository, blob, right);
    }
    if (view.manifests.length === 0) return;
    const lookup: ContentLookup = {
      manifest: async ({ digest }) => {
        const { descriptor: child, bytes: held } = await this.#options.fetchManifest(
          repository,
          digest,
          right,
        );
        return { ...child, bytes: held };
      },
      config: async config => {
        await (await this.#begin(repository, config, right))?.done;
        return this.#options.blobs.open(config.digest);
      },
    };
    const children = new Set<Descriptor>();
    for (const platform of platforms) {
      const child = await chooseChild(view.manifests, platform, lookup);
      if (child !== undefined) children.add(child);
    }
    for (const { digest } of children) {
      this.follow(repository, await this.#options.fetchManifest(repository, digest, right), right);
    }
  }

  /** The download of a blob that is not stored, started here or by another request. */
  async #begin(repository: Repository, blob: Descriptor, right: Right): Promise<FillRun | undefined> {
    const { metadata, blobs, fills } = this.#options;
    const row = await metadata.statBlob(blob.digest);
    if (row !== undefined && (await blobs.stat(blob.digest))?.size === row.size) return undefined;
    return fills.find(repository.upstream, blob.digest) ?? fills.startAhead(repository, blob, right);
  }
}
