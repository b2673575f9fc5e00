import type { BlobReader } from '../lib/blob-reader.ts';
import type { Extent } from '../lib/extents.ts';
import type { Descriptor } from './descriptor.ts';
import type { Digest } from './digest.ts';
import type { Repository } from './repository.ts';
import type { Right } from './requester.ts';

/**
 * Where an answer came from; `http/` derives `Cache-Status` (RFC 9211), log and metrics from it. `hit`: stored.
 * `revalidated`: stored, and upstream confirmed that it is current. `stale`: stored, and upstream could not confirm it.
 * `miss`: fetched for this request. `joined`: from a request to upstream that another client had started. `hosted`:
 * from a hosted repository.
 */
export type Outcome = 'hit' | 'revalidated' | 'stale' | 'miss' | 'joined' | 'hosted';

/** The part that all answers of a source have in common. */
export interface Served {
  readonly outcome: Outcome;
  /** Whether the fetched content is stored (false: only streamed, as on a full disk). */
  readonly stored: boolean;
  /** Milliseconds spent waiting for upstream; 0 if it was not asked. */
  readonly upstreamMs: number;
}

/** A manifest to serve. */
export interface ServedManifest extends Served {
  readonly descriptor: Descriptor;
  /** Exactly the bytes received. */
  readonly bytes: Uint8Array;
}

/** A blob to serve. */
export interface ServedBlob extends Served {
  readonly digest: Digest;
  /** The caller closes it. */
  readonly reader: BlobReader;
  /**
   * Present if it is being downloaded. Resolves when the download has ended: with the reason if the blob can be read
   * but is not stored. Never rejects; if the download failed, the reader does.
   */
  readonly unstored?: Promise<Error | undefined>;
}

/**
 * The bytes that a client will read of a blob of `size` bytes, in that order; `undefined` if it wants all, or all from some
 * byte on. Throws the client's error if it cannot have them.
 */
export interface BlobWant {
  (size: number): readonly Extent[] | undefined;
  /** The first of them, if the client has named its bytes, whatever the size is; it may end after the blob. */
  readonly first?: Extent | undefined;
}

/** The size of a blob to serve. */
export interface ServedBlobStat extends Served {
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
}

/** The parameters `n` and `last` of the distribution spec ("Listing Tags"). */
export interface Page {
  /** The maximum number of entries; the source may return fewer. */
  readonly limit: number;
  /** Only entries that sort after this. */
  readonly after: string | undefined;
}

/** A page of tags to serve. */
export interface ServedTags extends Served {
  readonly tags: readonly string[];
  /** `last` for the next page, if there is one. */
  readonly next: string | undefined;
}

/** A list of referrers to serve. */
export interface ServedReferrers extends Served {
  readonly manifests: readonly Descriptor[];
  /** Whether `artifactType` was applied (OCI-Filters-Applied). */
  readonly filtered: boolean;
  readonly next: string | undefined;
}

/** What the client accepts. */
export interface ManifestWant {
  /** Whether this media type is acceptable. Without an Accept header, or with a wildcard, everything is. */
  accepts(mediaType: string): boolean;
  /** `?platform=os/arch[/variant]` as given. */
  readonly platform: string | undefined;
}

/** For a manifest as it is stored, whatever its media type. */
export const ANY_MANIFEST: ManifestWant = { accepts: () => true, platform: undefined };

/**
 * The read side of a repository, mirrored or hosted. Content that does not exist, or that the requester may not see, is
 * the same OciError (NAME_UNKNOWN, MANIFEST_UNKNOWN, BLOB_UNKNOWN).
 */
export interface PullSource {
  /** `reference` is a tag or a digest. Also serves HEAD: the caller ignores the bytes. */
  manifest(
    repository: Repository,
    reference: string,
    right: Right,
    want: ManifestWant,
  ): Promise<ServedManifest>;
  /** Size and media type of a blob, without ever starting its download. */
  statBlob(repository: Repository, digest: Digest, right: Right): Promise<ServedBlobStat>;
  /** `want`: what will be read; without it, everything. */
  openBlob(repository: Repository, digest: Digest, right: Right, want?: BlobWant): Promise<ServedBlob>;
  tags(repository: Repository, page: Page, right: Right): Promise<ServedTags>;
  referrers(
    repository: Repository,
    subject: Digest,
    query: { artifactType: string | undefined; page: Page },
    right: Right,
  ): Promise<ServedReferrers>;
}
