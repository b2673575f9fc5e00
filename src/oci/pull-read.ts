import type { Digest } from './digest.ts';
import type { Manifest } from './manifest.ts';
import type { Repository } from './repository.ts';

/** What a tag means. */
export interface TagRow {
  readonly digest: Digest;
  /** When upstream last confirmed that the tag means this digest; for a hosted tag, when it was pushed. Epoch ms. */
  readonly checkedAtMs: number;
}

/** What a pull of a manifest needs to know of the index. */
export interface PullRead {
  /** The tag; `undefined` for a digest, and if there is none. */
  readonly tag: TagRow | undefined;
  /** What the reference means, if it is stored and linked in the repository. */
  readonly manifest: Manifest | undefined;
  /** Whether that manifest was imported into the repository for one of the grantees; false if it is not stored. */
  readonly isPreloaded: boolean;
}

/** A read of the index, and when it began, by `Clock.monotonicMs`. */
export interface TimedPullRead extends PullRead {
  readonly sinceMs: number;
}

/** What a pull of a blob needs to know of the index. */
export interface BlobPullRead {
  /** The size in its Link, stored or not; `undefined` if it does not belong to the repository. */
  readonly linkedSize: number | undefined;
  /** `undefined` if it is not stored, in whatever repository. */
  readonly storedSize: number | undefined;
  /** Whether it was imported into the repository for one of the grantees. */
  readonly isPreloaded: boolean;
}

/** The content that a pull asks for: a manifest by tag or digest, or a blob. */
export type PullTarget = { readonly manifest: string } | { readonly blob: Digest };

/**
 * What the index said of the target of a request when it was asked for the Grants, which saves the question after it.
 * Can be taken once: later it may not be true any more, and would be kept in memory for nothing.
 */
export class ReadAhead {
  readonly #repository: Repository;
  readonly #reference: string;
  #manifest: TimedPullRead | undefined;
  #blob: BlobPullRead | undefined;

  private constructor(repository: Repository, reference: string) {
    this.#repository = repository;
    this.#reference = reference;
  }

  static ofManifest(repository: Repository, reference: string, read: TimedPullRead): ReadAhead {
    const ahead = new ReadAhead(repository, reference);
    ahead.#manifest = read;
    return ahead;
  }

  static ofBlob(repository: Repository, digest: Digest, read: BlobPullRead): ReadAhead {
    const ahead = new ReadAhead(repository, digest);
    ahead.#blob = read;
    return ahead;
  }

  takeManifest(repository: Repository, reference: string): TimedPullRead | undefined {
    const read = this.#isOf(repository, reference) ? this.#manifest : undefined;
    this.#manifest = undefined;
    return read;
  }

  takeBlob(repository: Repository, digest: Digest): BlobPullRead | undefined {
    const read = this.#isOf(repository, digest) ? this.#blob : undefined;
    this.#blob = undefined;
    return read;
  }

  #isOf({ upstream, name }: Repository, reference: string): boolean {
    const { upstream: ofUpstream, name: ofName } = this.#repository;
    return upstream === ofUpstream && name === ofName && reference === this.#reference;
  }
}
