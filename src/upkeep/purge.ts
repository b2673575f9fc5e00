import type { Presence } from '../lib/lease.ts';
import type { SizedContent, SurveyedManifest } from '../metadata/survey.ts';
import type { Digest } from '../oci/digest.ts';
import { signatureTags } from '../oci/reference.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { requireCollecting } from './collecting-stopped.ts';
import { removeContents } from './removal.ts';
import { inSteps } from './steps.ts';
import type { Stores } from './stores.ts';

/** No grace period: whoever purges knows that nobody is pushing. */
const WHENEVER = Number.POSITIVE_INFINITY;
const REFERRERS_PAGE = 100;
const REPOSITORIES_NAMED = 3;

/** What a purge freed, and what it could not. */
export interface Freed {
  readonly freedBytes: number;
  /** The bytes that something else needs. */
  readonly neededBytes: number;
  /** The repositories that need them, as names: the first few. */
  readonly neededBy: readonly string[];
}

/** A purge of an image. */
export interface PurgeRun {
  /** Ends it between two steps; what is left then is garbage. */
  readonly signal?: AbortSignal | undefined;
  /** In which it was asked for: later, others may have pushed the same again. */
  readonly during: Presence;
}

/** What a purge removed. */
export interface Purged extends Freed {
  /** Tags of signatures, which belong to the image only by their name. */
  readonly tags: readonly string[];
}

/**
 * Frees at once what only a removed image needed. Every step checks in its own transaction whether something needs the
 * content; only a push that is between its blobs and its manifest may lose a blob.
 */
export class Purge {
  readonly #stores: Stores;

  constructor(stores: Stores) {
    this.#stores = stores;
  }

  /** Throws CollectingStopped if the index may be incomplete. */
  permit(): Promise<void> {
    return requireCollecting(this.#stores);
  }

  /**
   * Removes an image that the survey found before its name was removed, with what is attached to it, unless a tag, pin
   * or manifest of the repository names it.
   */
  async image(
    repository: Repository,
    manifests: readonly SurveyedManifest[],
    run: PurgeRun,
  ): Promise<Purged> {
    const { signal } = run;
    const unlinking = new Unlinking(this.#stores, repository, run);
    await unlinking.run(manifests);
    const { removed, tags } = unlinking;
    const blobs = new Map(removed.flatMap(manifest => manifest.blobs).map(blob => [blob.digest, blob]));
    const held = [...blobs.values()].filter(blob => blob.isHeld);
    await inSteps(held, signal, step =>
      this.#stores.rows.expireLinks(
        step.map(({ digest }) => ({ repository, digest })),
        WHENEVER,
      ),
    );
    const contents = [
      ...removed.map(({ digest, size }) => ({ kind: 'manifest' as const, digest, size })),
      ...held.map(({ digest, size }) => ({ kind: 'blob' as const, digest, size })),
    ];
    const freed = await this.contents(contents, signal);
    return { ...freed, tags };
  }

  /** Frees `contents`, which were linked in a repository that is removed. `signal` as of a `PurgeRun`. */
  async contents(contents: readonly SizedContent[], signal?: AbortSignal): Promise<Freed> {
    const { rows } = this.#stores;
    const gone = new Set<SizedContent>();
    // Manifests first: what they name is needed until they are gone.
    const order = contents.toSorted((one, other) => other.kind.localeCompare(one.kind));
    await removeContents(this.#stores, order, {
      removeRows: step => rows.removeUnneeded(step, WHENEVER),
      onRemoved: removed => {
        for (const each of removed) gone.add(each);
      },
      signal,
    });
    const kept = contents.filter(each => !gone.has(each));
    return {
      freedBytes: bytesOf([...gone]),
      neededBytes: bytesOf(kept),
      neededBy: await this.#repositoriesOf(kept),
    };
  }

  async #repositoriesOf(contents: readonly SizedContent[]): Promise<readonly string[]> {
    const names = new Set<string>();
    for (const { digest } of contents) {
      if (names.size >= REPOSITORIES_NAMED) break;
      for (const each of await this.#stores.survey.repositoriesOf(digest)) names.add(repositoryText(each));
    }
    return [...names].slice(0, REPOSITORIES_NAMED);
  }
}

function bytesOf(contents: readonly SizedContent[]): number {
  return contents.reduce((sum, { size }) => sum + size, 0);
}

/** Removes the manifests of one image from its repository. */
class Unlinking {
  readonly removed: SurveyedManifest[] = [];
  readonly tags: string[] = [];
  readonly #stores: Stores;
  readonly #repository: Repository;
  readonly #run: PurgeRun;

  constructor(stores: Stores, repository: Repository, run: PurgeRun) {
    this.#stores = stores;
    this.#repository = repository;
    this.#run = run;
  }

  /** Repeats as long as it makes progress: a manifest can be removed after all that name it. */
  async run(manifests: readonly SurveyedManifest[]): Promise<void> {
    const { metadata } = this.#stores;
    const { signal, during } = this.#run;
    for (let left = manifests; left.length > 0; ) {
      const kept: SurveyedManifest[] = [];
      const attached: SurveyedManifest[] = [];
      for (const manifest of left) {
        signal?.throwIfAborted();
        if (await metadata.unlinkUnnamed(this.#repository, manifest.digest, { during })) {
          this.removed.push(manifest);
          attached.push(...(await this.#attachedTo(manifest.digest)));
        } else if (manifest === manifests[0]) {
          // It stays, and so does everything below it.
          return;
        } else {
          kept.push(manifest);
        }
      }
      if (kept.length === left.length) return;
      left = [...kept, ...attached];
    }
  }

  /** Signatures, SBOMs and the like. */
  async #attachedTo(subject: Digest): Promise<readonly SurveyedManifest[]> {
    const { metadata, survey } = this.#stores;
    const digests: Digest[] = [];
    for (let after: string | undefined; ; after = digests.at(-1)) {
      const page = { limit: REFERRERS_PAGE, after };
      const { entries, more } = await metadata.listReferrers(this.#repository, subject, undefined, page);
      digests.push(...entries.map(({ digest }) => digest));
      if (!more) break;
    }
    for (const tag of signatureTags(subject)) {
      const row = await metadata.readTag(this.#repository, tag);
      if (row === undefined) continue;
      await metadata.removeTag(this.#repository, tag, { during: this.#run.during });
      this.tags.push(tag);
      digests.push(row.digest);
    }
    return (await Promise.all(digests.map(digest => survey.image(this.#repository, digest)))).flat();
  }
}
