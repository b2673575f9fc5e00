import { type Digest, isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { formatPlatform, normalizePlatform, type Platform } from '../oci/platform.ts';
import type {
  BlobWant,
  ManifestWant,
  Page,
  PullSource,
  ServedBlob,
  ServedBlobStat,
  ServedManifest,
  ServedReferrers,
  ServedTags,
} from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { ReferrersQuery } from '../mirror/referrers.ts';

/** Architectures by Go's names, as used at the end of the names of Kubernetes' images. */
const ARCH_NAME = /^(.+)-(amd64|arm|arm64|386|ppc64le|s390x|riscv64)$/;

/**
 * The repository and platform that a name with an architecture stands for if there is no repository of that name;
 * `undefined` for other names.
 */
export function baseOfArchName({
  upstream,
  name: full,
}: Repository): { readonly base: Repository; readonly platform: Platform } | undefined {
  const [, name, architecture] = ARCH_NAME.exec(full) ?? [];
  if (name === undefined || architecture === undefined) return undefined;
  return { base: { upstream, name }, platform: normalizePlatform({ os: 'linux', architecture }) };
}

export interface ArchNamesOptions {
  /** Where the repositories are read, by whichever name. */
  readonly source: PullSource;
  /** The requester's right to another repository; rejects if there is none. */
  readonly authorize: (repository: Repository) => Promise<Right>;
}

/**
 * Serves repositories named after an architecture, a custom from before there were indexes: if upstream has no
 * `pause-arm64`, the name means the arm64 image of `pause`. Upstream is always asked for the name itself first.
 */
export class ArchNames implements PullSource {
  readonly #source: PullSource;
  readonly #authorize: (repository: Repository) => Promise<Right>;

  constructor({ source, authorize }: ArchNamesOptions) {
    this.#source = source;
    this.#authorize = authorize;
  }

  manifest(
    repository: Repository,
    reference: string,
    right: Right,
    want: ManifestWant,
  ): Promise<ServedManifest> {
    const ask: Ask<ServedManifest> = (place, placeRight, platform) => {
      const narrowed = { accepts: want.accepts.bind(want), platform: platform && formatPlatform(platform) };
      const isNarrowed = platform !== undefined && !isDigest(reference);
      return this.#source.manifest(place, reference, placeRight, isNarrowed ? narrowed : want);
    };
    const isLacking = async () => !isDigest(reference) && (await this.#hasTags(repository, right));
    return this.#orBase(repository, right, ask, isLacking);
  }

  statBlob(repository: Repository, digest: Digest, right: Right): Promise<ServedBlobStat> {
    return this.#orBase(repository, right, (place, placeRight) =>
      this.#source.statBlob(place, digest, placeRight),
    );
  }

  openBlob(repository: Repository, digest: Digest, right: Right, want?: BlobWant): Promise<ServedBlob> {
    return this.#orBase(repository, right, (place, placeRight) =>
      this.#source.openBlob(place, digest, placeRight, want),
    );
  }

  tags(repository: Repository, page: Page, right: Right): Promise<ServedTags> {
    return this.#orBase(repository, right, (place, placeRight) => this.#source.tags(place, page, placeRight));
  }

  referrers(
    repository: Repository,
    subject: Digest,
    query: ReferrersQuery,
    right: Right,
  ): Promise<ServedReferrers> {
    return this.#orBase(repository, right, (place, placeRight) =>
      this.#source.referrers(place, subject, query, placeRight),
    );
  }

  /**
   * The result for the name itself or, if there is no such repository, for its base repository. Errors are those of the
   * name itself. `isLacking` tells whether the repository exists and only lacks the reference. A digest means the same
   * in every repository.
   */
  async #orBase<T>(
    repository: Repository,
    right: Right,
    ask: Ask<T>,
    isLacking: () => Promise<boolean> = async () => false,
  ): Promise<T> {
    try {
      return await ask(repository, right);
    } catch (error) {
      const meant = baseOfArchName(repository);
      if (meant === undefined || !isAbsence(error) || (await isLacking())) throw error;
      try {
        return await ask(meant.base, await this.#authorize(meant.base), meant.platform);
      } catch (failure) {
        throw isAbsence(failure) ? error : failure;
      }
    }
  }

  /**
   * Whether the repository has tags, and therefore exists: most registries answer the same for an unknown tag and an
   * unknown repository.
   */
  async #hasTags(repository: Repository, right: Right): Promise<boolean> {
    try {
      const { tags } = await this.#source.tags(repository, { limit: 1, after: undefined }, right);
      return tags.length > 0;
    } catch (error) {
      if (error instanceof OciError) return false;
      throw error;
    }
  }
}

type Ask<T> = (place: Repository, right: Right, platform?: Platform) => Promise<T>;

function isAbsence(error: unknown): boolean {
  return error instanceof OciError && error.status === 404;
}
