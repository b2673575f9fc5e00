import { everything, type SizedContent } from '../metadata/survey.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import { Purge, type Purged } from './purge.ts';
import type { Stores } from './stores.ts';

/** Of the tags of a digest, what one answer names. */
const TAGS_SHOWN = 100;

export interface ImageRemovalOptions extends Stores {
  /** What lives here may be deleted at all. */
  readonly deletesHosted: boolean;
}

export interface RemovalRun {
  /** Also what is pinned, what several tags mean, and whole repositories that live here. */
  readonly force?: boolean;
  /** Removes the manifest of a tag too, if no other tag means it, and frees at once what nothing else needs. */
  readonly purge?: boolean;
}

/** What went, and what did not. */
export interface RemovedImage {
  /** What the reference meant; `undefined` for a repository. */
  readonly digest: Digest | undefined;
  readonly removedTags: readonly string[];
  /** Tags of the repository that still mean the digest: the first hundred. */
  readonly otherTags: readonly string[];
  /** The repository still has a manifest of this digest. */
  readonly isManifestHeld: boolean;
  readonly freedBytes: number;
}

/** Why nothing was removed. */
export class RemovalRefused extends Error {
  override readonly name = 'RemovalRefused';
  /** `disabled` alone is not overcome by `force`. */
  readonly reason: 'disabled' | 'pinned' | 'tagged' | 'repository';
  /** The pins or tags that are the reason. */
  readonly names: readonly string[];

  constructor(reason: RemovalRefused['reason'], names: readonly string[] = []) {
    super(`${reason} ${names.join(', ')}`.trimEnd());
    this.reason = reason;
    this.names = names;
  }
}

/** Takes what people name out of its repository: a tag, a digest, or all of it. */
export class ImageRemoval {
  readonly #options: ImageRemovalOptions;
  readonly #purge: Purge;

  constructor(options: ImageRemovalOptions) {
    this.#options = options;
    this.#purge = new Purge(options);
  }

  /**
   * `reference`: a tag or a digest; all of the repository if left out. `undefined` when nothing of it is held. Without
   * `purge` the bytes go with garbage collection or, of mirrored content, when room is needed.
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
    // Who asks again now is not to be told what was known before.
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
    // Of a digest that goes on being held, the pin stays.
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
    // Upstream can bring back what is its own.
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
    const freedBytes = await this.#purge.contents(contents);
    return { digest: undefined, removedTags: [], otherTags: [], isManifestHeld: false, freedBytes };
  }

  async #removed(
    repository: Repository,
    digest: Digest,
    tags: readonly string[],
    purged: Purged = { freedBytes: 0, tags: [] },
  ): Promise<RemovedImage> {
    const { metadata } = this.#options;
    return {
      digest,
      removedTags: [...tags, ...purged.tags],
      otherTags: await this.#tagsOf(repository, digest),
      isManifestHeld: (await metadata.readLinkedManifest(repository, digest)) !== undefined,
      freedBytes: purged.freedBytes,
    };
  }

  async #tagsOf(repository: Repository, digest: Digest): Promise<readonly string[]> {
    const page = { limit: TAGS_SHOWN, after: undefined };
    return (await this.#options.metadata.listTagsOf(repository, digest, page)).entries;
  }
}
