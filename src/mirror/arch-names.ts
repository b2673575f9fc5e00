import { type Digest, isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type {
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
import type { ReferrersQuery } from './referrers.ts';

/** Go's names of the architectures that Kubernetes was ever built for, as they stand behind the names of its images. */
const ARCH_NAME = /^(.+)-(amd64|arm|arm64|386|ppc64le|s390x|riscv64)$/;

export interface ArchNamesOptions {
  readonly source: PullSource;
  /** The requester's right to another repository; rejects where he may not have it. */
  readonly authorize: (repository: Repository) => Promise<Right>;
}

/**
 * Repositories that are named after one architecture, as they were before there were indexes: where upstream has no
 * `pause-arm64`, it means the arm64 image of `pause`. Upstream is asked for the very name first.
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
    return this.#orBase(repository, right, (place, placeRight, architecture) => {
      const isNarrowed = architecture !== undefined && !isDigest(reference);
      const narrowed = { accepts: want.accepts.bind(want), platform: `linux/${architecture}` };
      return this.#source.manifest(place, reference, placeRight, isNarrowed ? narrowed : want);
    });
  }

  statBlob(repository: Repository, digest: Digest, right: Right): Promise<ServedBlobStat> {
    return this.#orBase(repository, right, (place, placeRight) =>
      this.#source.statBlob(place, digest, placeRight),
    );
  }

  openBlob(repository: Repository, digest: Digest, right: Right): Promise<ServedBlob> {
    return this.#orBase(repository, right, (place, placeRight) =>
      this.#source.openBlob(place, digest, placeRight),
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

  /** What the name itself gives; if there is no such thing, what its base gives. The error is that of the name. */
  async #orBase<T>(
    repository: Repository,
    right: Right,
    ask: (place: Repository, right: Right, architecture?: string) => Promise<T>,
  ): Promise<T> {
    try {
      return await ask(repository, right);
    } catch (error) {
      const [, name, architecture] = ARCH_NAME.exec(repository.name) ?? [];
      if (name === undefined || !isAbsence(error)) throw error;
      const base = { upstream: repository.upstream, name };
      try {
        return await ask(base, await this.#authorize(base), architecture);
      } catch (failure) {
        throw isAbsence(failure) ? error : failure;
      }
    }
  }
}

function isAbsence(error: unknown): boolean {
  return error instanceof OciError && error.status === 404;
}
