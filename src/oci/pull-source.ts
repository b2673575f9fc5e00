import type { BlobReader } from '../lib/blob-reader.ts';
import type { Descriptor } from './descriptor.ts';
import type { Digest } from './digest.ts';
import type { Repository } from './repository.ts';
import type { Right } from './requester.ts';

/**
 * How an answer came about; `http/` makes `Cache-Status` (RFC 9211), log and metrics of it.
 * `hit`: held. `revalidated`: held, and upstream said it is current. `stale`: held, upstream could not say.
 * `miss`: fetched now. `joined`: came from a request to upstream that somebody else had started. `hosted`: lives here.
 */
export type Outcome = 'hit' | 'revalidated' | 'stale' | 'miss' | 'joined' | 'hosted';

/** What every answer of a source carries. */
export interface Served {
  readonly outcome: Outcome;
  /** Whether what was fetched is kept (false: streamed only, as on a full disk). */
  readonly stored: boolean;
  /** Milliseconds spent waiting for upstream; 0 when it was not asked. */
  readonly upstreamMs: number;
}

export interface ServedManifest extends Served {
  readonly descriptor: Descriptor;
  /** Exactly the bytes received. */
  readonly bytes: Uint8Array;
}

export interface ServedBlob extends Served {
  readonly digest: Digest;
  /** The one who asked closes it. */
  readonly reader: BlobReader;
}

export interface ServedBlobStat extends Served {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
}

/** `last` and `n` as in the distribution spec, "Listing Tags". */
export interface Page {
  /** At most so many entries; the source may give fewer. */
  readonly limit: number;
  /** Only what sorts after it. */
  readonly after: string | undefined;
}

export interface ServedTags extends Served {
  readonly tags: readonly string[];
  /** `last` of the next page, when there is one. */
  readonly next: string | undefined;
}

export interface ServedReferrers extends Served {
  readonly manifests: readonly Descriptor[];
  /** Whether `artifactType` was applied (OCI-Filters-Applied). */
  readonly filtered: boolean;
  readonly next: string | undefined;
}

/** What the client said it can take. */
export interface ManifestWant {
  /** Whether the media type is acceptable; a missing Accept or a wildcard accepts everything. */
  accepts(mediaType: string): boolean;
  /** `?platform=os/arch[/variant]` as given. */
  readonly platform: string | undefined;
}

/**
 * The pull side of a repository, whether it is mirrored or lives here. What is absent, or may not be seen, is an
 * OciError (NAME_UNKNOWN, MANIFEST_UNKNOWN, BLOB_UNKNOWN), the same for both.
 */
export interface PullSource {
  /** `reference` is a tag or a digest. Serves HEAD too: the caller drops the bytes. */
  manifest(
    repository: Repository,
    reference: string,
    right: Right,
    want: ManifestWant,
  ): Promise<ServedManifest>;
  /** Never starts a download of the blob. */
  statBlob(repository: Repository, digest: Digest, right: Right): Promise<ServedBlobStat>;
  openBlob(repository: Repository, digest: Digest, right: Right): Promise<ServedBlob>;
  tags(repository: Repository, page: Page, right: Right): Promise<ServedTags>;
  referrers(
    repository: Repository,
    subject: Digest,
    query: { artifactType: string | undefined; page: Page },
    right: Right,
  ): Promise<ServedReferrers>;
}
