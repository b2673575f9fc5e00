import { everything, type SizedContent } from '../metadata/survey.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import { type Freed, Purge, type Purged } from './purge.ts';
import type { Stores } from './stores.ts';

/** How many tags of a digest are listed. */
const TAGS_SHOWN = 100;

export interface ImageRemovalOptions extends Stores {
  /** Whether hosted content may be deleted at all. */
  readonly deletesHosted: boolean;
}

export interface RemovalRun {
  /** Removes also what is pinned or has several tags, and whole hosted repositories. */
  readonly force?: boolean;
  /** Removes the manifest of a tag, too, unless another tag means it, and frees at once what nothing else needs. */
  readonly purge?: boolean;
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
}

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
    if (repository.upstream === '' && !deletesHosted) throw new RemovalRefused('disabled');
    if (run.purge === true) await this.#purge.permit();
    const removed = await this.#removeAny(repository, reference, run);
    // So that other processes do not answer from what they remember.
    await metadata.notify('content');
    return removed;
  }

  #removeAny(
    repository: Repository,
    reference: string | undefined,
    run: RemovalRun,
  ): Promise<RemovedImage | undefined> {
    if (reference === undefined) return this.#removeRepository(repository, run);
    return isDigest(reference)
      ? this.#removeDigest(repository, reference, run)
      : this.#removeTag(repository, reference, run);
  }

  async #removeTag(
    repository: Repository,
    tag: string,
    { force, purge }: RemovalRun,
  ): Promise<RemovedImage | undefined> {
    const { metadata, survey } = this.#options;
    const digest = (await metadata.readTag(repository, tag))?.digest;
    if (digest === undefined) return undefined;
    const pins = (await metadata.listPins(repository)).filter(pin => pin === tag || pin === digest);
    if (pins.length > 0 && force !== true) throw new RemovalRefused('pinned', pins);
    const manifests = purge === true ? await survey.image(repository, digest) : [];
    await metadata.removeTag(repository, tag);
    // The pin of a digest stays as long as the digest is stored.
    for (const pin of pins) if (purge === true || pin === tag) await metadata.removePin(repository, pin);
    const purged = purge === true ? await this.#purge.image(repository, manifests) : undefined;
    return this.#removed(repository, digest, [tag], purged);
  }

  async #removeDigest(
    repository: Repository,
    digest: Digest,
    { force, purge }: RemovalRun,
  ): Promise<RemovedImage | undefined> {
    const { metadata, survey } = this.#options;
    const pins = await metadata.listPinsOver(repository, digest);
    if (pins.length > 0 && force !== true) throw new RemovalRefused('pinned', pins);
    const tags = await this.#tagsOf(repository, digest);
    // For a mirrored repository, upstream can provide them again.
    if (tags.length > 0 && repository.upstream === '' && force !== true) {
      throw new RemovalRefused('tagged', tags);
    }
    const manifests = purge === true ? await survey.image(repository, digest) : [];
    const wasManifest = await metadata.unlinkManifest(repository, digest);
    const wasBlob = await metadata.unlinkBlob(repository, digest);
    if (!wasManifest && !wasBlob) return undefined;
    for (const pin of pins.filter(name => name === digest || tags.includes(name))) {
      await metadata.removePin(repository, pin);
    }
    const purged = purge === true ? await this.#purge.image(repository, manifests) : undefined;
    return this.#removed(repository, digest, tags, purged);
  }

  async #removeRepository(
    repository: Repository,
    { force, purge }: RemovalRun,
  ): Promise<RemovedImage | undefined> {
    const { metadata, survey } = this.#options;
    if (!(await metadata.hasRepository(repository))) return undefined;
    const pins = await metadata.listPins(repository);
    if (pins.length > 0 && force !== true) throw new RemovalRefused('pinned', pins);
    if (repository.upstream === '' && force !== true) throw new RemovalRefused('repository');
    const contents: SizedContent[] = [];
    if (purge === true) {
      for await (const page of everything(after => survey.linked(repository, after))) contents.push(...page);
    }
    await metadata.removeRepository(repository);
    const freed = await this.#purge.contents(contents);
    return { digest: undefined, removedTags: [], otherTags: [], isManifestHeld: false, ...freed };
  }

  async #removed(
    repository: Repository,
    digest: Digest,
    tags: readonly string[],
    { tags: signatureTags, ...freed }: Purged = { ...NOTHING_FREED, tags: [] },
  ): Promise<RemovedImage> {
    const { metadata } = this.#options;
    return {
      digest,
      removedTags: [...tags, ...signatureTags],
      otherTags: await this.#tagsOf(repository, digest),
      isManifestHeld: (await metadata.readLinkedManifest(repository, digest)) !== undefined,
      ...freed,
    };
  }

  async #tagsOf(repository: Repository, digest: Digest): Promise<readonly string[]> {
    const page = { limit: TAGS_SHOWN, after: undefined };
    return (await this.#options.metadata.listTagsOf(repository, digest, page)).entries;
  }
}
