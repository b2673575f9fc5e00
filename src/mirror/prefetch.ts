import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Digest } from '../oci/digest.ts';
import { isNonDistributable, parseManifest } from '../oci/manifest.ts';
import { isSchema1Type } from '../oci/media-types.ts';
import { choosePlatform, type Platform } from '../oci/platform.ts';
import type { ServedManifest } from '../oci/pull-source.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { Fills } from './fills.ts';

/** A node asks for the same manifest by HEAD, by tag and by digest within seconds: it is looked at once. */
const LOOKED_AT = { maxEntries: 10_000, maxAgeMs: 60_000 };

/** What is fetched ahead of one repository. */
export interface PrefetchRule {
  readonly prefetch: boolean;
  /** Of an index the children for these; none without. */
  readonly platforms?: readonly Platform[] | undefined;
}

export interface PrefetchOptions {
  readonly metadata: MetadataStore;
  readonly fills: Fills;
  readonly ruleOf: (repository: Repository) => PrefetchRule;
  readonly fetchManifest: (repository: Repository, digest: Digest, right: Right) => Promise<ServedManifest>;
  readonly log: Log;
}

/** Begins the downloads that a client will ask for after its manifest, behind all that somebody waits for. */
export class Prefetch {
  readonly #options: PrefetchOptions;
  readonly #lookedAt = new Lru<object>(LOOKED_AT);

  constructor(options: PrefetchOptions) {
    this.#options = options;
  }

  /** `served` has been given to whom `right` belongs: what it names is fetched in his name. Does not wait, never throws. */
  follow(repository: Repository, served: ServedManifest, right: Right): void {
    const rule = this.#options.ruleOf(repository);
    const key = `${repositoryText(repository)} ${served.descriptor.digest}`;
    if (!rule.prefetch || this.#lookedAt.get(key) !== undefined) return;
    this.#lookedAt.set(key, {});
    this.#fetch(repository, served, right, rule).catch((error: unknown) => {
      this.#options.log.info(
        { err: error, repository: repositoryText(repository) },
        'nothing was fetched ahead',
      );
    });
  }

  async #fetch(
    repository: Repository,
    { descriptor, bytes }: ServedManifest,
    right: Right,
    { platforms = [] }: PrefetchRule,
  ): Promise<void> {
    if (isSchema1Type(descriptor.mediaType)) return;
    const view = parseManifest(bytes, descriptor.mediaType);
    const { metadata, fills, fetchManifest } = this.#options;
    for (const blob of view.blobs) {
      if (isNonDistributable(blob) || (await metadata.statBlob(blob.digest)) !== undefined) continue;
      if (fills.find(repository.upstream, blob.digest) === undefined)
        fills.startAhead(repository, blob.digest, right);
    }
    const children = platforms.flatMap(platform => choosePlatform(view.manifests, platform)[0] ?? []);
    for (const { digest } of new Set(children)) {
      this.follow(repository, await fetchManifest(repository, digest, right), right);
    }
  }
}
