import type { Presence } from '../lib/lease.ts';
import type { WithMessages } from '../metadata/metadata-store.ts';
import type { Announce } from '../metadata/outbox.ts';
import { everything, type SizedContent, type SurveyedManifest } from '../metadata/survey.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import type { RegistryEvent } from '../oci/event.ts';
import type { Repository } from '../oci/repository.ts';
import { type Freed, Purge, type Purged } from './purge.ts';
import { heldBytes } from './images.ts';
import type { Stores } from './stores.ts';

/** How many tags of a digest are listed. */
const TAGS_SHOWN = 100;

export interface ImageRemovalOptions extends Stores {
  /** Whether hosted content may be deleted at all. */
  readonly deletesHosted: boolean;
  /** Default: nobody is told. */
  readonly announce?: Announce;
}

export interface RemovalRun {
  /** Removes also what is pinned or has several tags, and whole hosted repositories. */
  readonly force?: boolean;
  /** Removes the manifest of a tag, too, unless another tag means it, and frees at once what nothing else needs. */
  readonly purge?: boolean;
  /** Ends it between two steps: what was removed until then stays removed. */
  readonly signal?: AbortSignal | undefined;
  /** In which it was asked for: later, others may have pushed what it finds. Default: the current one. */
  readonly during?: Presence | undefined;
}

/** What was removed, and what was not. */
export interface RemovedImage extends Freed {
  /** The digest of the reference; `undefined` for a repository. */
  readonly digest: Digest | undefined;
  readonly removedTags: readonly string[];
  /** Tags of the repository that still mean the digest: the first hundred. */
  readonly otherTags: readonly string[];
  /** Whether the repository still has a manifest with this digest. */
  readonly isManifestHeld: boolean;
  /** The bytes that nothing else needs and that stay on disk for now; 0 after a purge. */
  readonly remainingBytes: number;
}

/** How many images without a tag are listed. */
const UNTAGGED_SHOWN = 3;

/** What was removed under a name. */
interface Removal {
  readonly digest: Digest;
  readonly tags: readonly string[];
  /** The image as it was before. */
  readonly manifests: readonly SurveyedManifest[];
  /** `undefined` without a purge. */
  readonly purged: Purged | undefined;
}

type StartedRun = RemovalRun & { readonly during: Presence };

/** As in the names of requesters. */
const OPERATOR = { name: 'operator' };

const NOTHING_FREED: Freed = { freedBytes: 0, neededBytes: 0, neededBy: [] };

/** Why nothing was removed. */
export class RemovalRefused extends Error {
  override readonly name = 'RemovalRefused';
  /** `force` overrides all but `disabled`. */
  readonly reason: 'disabled' | 'pinned' | 'tagged' | 'repository';
  /** The pins or tags that are the reason. */
  readonly names: readonly string[];

  constructor(reason: RemovalRefused['reason'], names: readonly string[] = []) {
    super(`${reason} ${names.join(', ')}`.trimEnd());
    this.reason = reason;
    this.names = names;
  }
}

/** Removes a tag, a digest or a whole repository. */
export class ImageRemoval {
  readonly #options: ImageRemovalOptions;
  readonly #purge: Purge;

  constructor(options: ImageRemovalOptions) {
    this.#options = options;
    this.#purge = new Purge(options);
  }

  /**
   * Removes a reference (a tag or a digest), or the whole repository if absent; `undefined` if nothing of it is stored.
   * Without `purge` the space is freed by garbage collection or, for mirrored content, by eviction.
   */
  async remove(
    repository: Repository,
    reference: string | undefined,
    run: RemovalRun = {},
  ): Promise<RemovedImage | undefined> {
    const { metadata, deletesHosted } = this.#options;
    const { during = metadata.presence } = run;
    if (repository.upstream === '' && !deletesHosted) throw new RemovalRefused('disabled');
    if (run.purge === true) await this.#purge.permit();
    try {
      return await this.#removeAny(repository, reference, { ...run, during });
    } finally {
      // So that other processes do not answer from what they remember.
      await metadata.notify('content');
    }
  }

  /** Images of the repository that have no tag any more: the first few. Reads those of all repositories. */
  async untagged(repository: Repository): Promise<readonly Digest[]> {
    const { survey } = this.#options;
    const untagged: Digest[] = [];
    for await (const page of everything(after => survey.untagged(after))) {
      const here = page.filter(({ repository: { upstream, name } }) => {
        return upstream === repository.upstream && name === repository.name;
      });
      untagged.push(...here.map(({ digest }) => digest));
      if (untagged.length >= UNTAGGED_SHOWN) break;
    }
    return untagged.slice(0, UNTAGGED_SHOWN);
  }

  /** The size of content that no repository has, as far as `counts` selects it. Reads the whole index. */
  async unlinkedBytes(counts: (digest: Digest) => boolean = () => true): Promise<number> {
    const sinceMs = Date.now();
    let bytes = 0;
    for (const kind of ['manifest', 'blob'] as const) {
      for await (const page of everything(after => this.#options.survey.unlinked(kind, sinceMs, after))) {
        for (const { digest, size } of page) if (counts(digest)) bytes += size;
      }
    }
    return bytes;
  }

  #removeAny(
    repository: Repository,
    reference: string | undefined,
    run: StartedRun,
  ): Promise<RemovedImage | undefined> {
    if (reference === undefined) return this.#removeRepository(repository, run);
    return isDigest(reference)
      ? this.#removeDigest(repository, reference, run)
      : this.#removeTag(repository, reference, run);
  }

  async #removeTag(
    repository: Repository,
    tag: string,
    { force, purge, signal, during }: StartedRun,
  ): Promise<RemovedImage | undefined> {
    const { metadata, survey } = this.#options;
    const digest = (await metadata.readTag(repository, tag))?.digest;
    if (digest === undefined) return undefined;
    const pins = (await metadata.listPins(repository)).filter(pin => pin === tag || pin === digest);
    if (pins.length > 0 && force !== true) throw new RemovalRefused('pinned', pins);
    const manifests = await survey.image(repository, digest, tag);
    signal?.throwIfAborted();
    await metadata.removeTag(repository, tag, { ...this.#along(repository, { tag }), during });
    // The pin of a digest stays as long as the digest is stored.
    for (const pin of pins) {
      if (purge === true || pin === tag) await metadata.removePin(repository, pin, { during });
    }
    const purged =
      purge === true ? await this.#purge.image(repository, manifests, { signal, during }) : undefined;
    return this.#removed(repository, { digest, tags: [tag], manifests, purged });
  }

  async #removeDigest(
    repository: Repository,
    digest: Digest,
    { force, purge, signal, during }: StartedRun,
  ): Promise<RemovedImage | undefined> {
    const { metadata, survey } = this.#options;
    const pins = await metadata.listPinsOver(repository, digest);
    if (pins.length > 0 && force !== true) throw new RemovalRefused('pinned', pins);
    const tags = await this.#tagsOf(repository, digest);
    // For a mirrored repository, upstream can provide them again.
    if (tags.length > 0 && repository.upstream === '' && force !== true) {
      throw new RemovalRefused('tagged', tags);
    }
    const manifests = await survey.image(repository, digest);
    signal?.throwIfAborted();
    const along = { ...this.#along(repository, { digest }), during };
    const wasManifest = await metadata.unlinkManifest(repository, digest, along);
    const wasBlob = await metadata.unlinkBlob(repository, digest, { during });
    if (!wasManifest && !wasBlob) return undefined;
    for (const pin of pins.filter(name => name === digest || tags.includes(name))) {
      await metadata.removePin(repository, pin, { during });
    }
    const purged =
      purge === true ? await this.#purge.image(repository, manifests, { signal, during }) : undefined;
    return this.#removed(repository, { digest, tags, manifests, purged });
  }

  async #removeRepository(
    repository: Repository,
    { force, purge, signal, during }: StartedRun,
  ): Promise<RemovedImage | undefined> {
    const { metadata, survey } = this.#options;
    if (!(await metadata.hasRepository(repository))) return undefined;
    const pins = await metadata.listPins(repository);
    if (pins.length > 0 && force !== true) throw new RemovalRefused('pinned', pins);
    if (repository.upstream === '' && force !== true) throw new RemovalRefused('repository');
    const contents: SizedContent[] = [];
    for await (const page of everything(after => survey.linked(repository, after))) {
      signal?.throwIfAborted();
      contents.push(...page);
    }
    await metadata.removeRepository(repository, { ...this.#along(repository, {}), during });
    const nothing = { digest: undefined, removedTags: [], otherTags: [], isManifestHeld: false };
    if (purge === true)
      return { ...nothing, ...(await this.#purge.contents(contents, signal)), remainingBytes: 0 };
    const digests = new Set(contents.map(({ digest }) => digest));
    const remainingBytes = await this.unlinkedBytes(digest => digests.has(digest));
    return { ...nothing, ...NOTHING_FREED, remainingBytes };
  }

  /** What receivers of notifications are told of a removal. */
  #along(repository: Repository, what: Pick<RegistryEvent, 'tag' | 'digest'>): WithMessages {
    const { announce = () => [] } = this.#options;
    return { messages: announce({ kind: 'delete', repository, ...what, actor: OPERATOR }) };
  }

  async #removed(
    repository: Repository,
    { digest, tags, manifests, purged }: Removal,
  ): Promise<RemovedImage> {
    const { metadata } = this.#options;
    const { tags: signatureTags, ...freed } = purged ?? { ...NOTHING_FREED, tags: [] };
    return {
      digest,
      removedTags: [...tags, ...signatureTags],
      otherTags: await this.#tagsOf(repository, digest),
      isManifestHeld: (await metadata.readLinkedManifest(repository, digest)) !== undefined,
      remainingBytes: purged === undefined ? heldBytes(manifests, false) : 0,
      ...freed,
    };
  }

  async #tagsOf(repository: Repository, digest: Digest): Promise<readonly string[]> {
    const page = { limit: TAGS_SHOWN, after: undefined };
    return (await this.#options.metadata.listTagsOf(repository, digest, page)).entries;
  }
}
