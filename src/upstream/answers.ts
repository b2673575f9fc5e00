import type { Credential } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import type { Manifest } from '../oci/manifest.ts';

/** With which credential to ask, and for how long. */
export interface Ask {
  /** `undefined` asks anonymously. */
  readonly credential: Credential | undefined;
  /** When it aborts, the request is ended and rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** The part that all answers have in common. */
export interface Answer {
  /** Whether it came from `url` itself: only that proves a right, or that a repository is public. */
  readonly proof: boolean;
}

/** Headers only. After a redirect `proof` is false, since the target may confirm any digest. */
export interface ManifestHead extends Answer {
  /** `undefined` if upstream did not say (HEAD answered with 405, or without a digest): it has to be fetched. */
  readonly digest: Digest | undefined;
  readonly size: number | undefined;
  readonly mediaType: string | undefined;
}

/** A manifest from upstream. */
export interface FetchedManifest extends Answer {
  /** Its digest was verified if it was requested by digest, otherwise computed. */
  readonly manifest: Manifest;
}

/** The result of HEAD for a blob. */
export interface BlobHead extends Answer {
  /** `undefined` if upstream did not say. */
  readonly size: number | undefined;
}

/** A strong ETag and the host that sent it. It is sent to no other host in `If-Range`. */
export interface HostETag {
  readonly value: string;
  /** Scheme, host and port. */
  readonly origin: string;
}

/** A request for a blob or a part of it. */
export interface BlobAsk extends Ask {
  /** How many bytes are already stored; default 0. */
  readonly offset?: number;
  /** How many bytes are wanted from `offset` on; all if absent. A server may send more. */
  readonly length?: number | undefined;
  /** From an earlier response for this blob. */
  readonly etag?: HostETag | undefined;
  /** The size, if a manifest declares it: a response with another size is `invalid`. */
  readonly size?: number | undefined;
  /** Whether nothing depends on it, so that a refusal for too many requests need not hold others up. */
  readonly isSpare?: boolean | undefined;
  /** Endpoints not to ask, such as one that sent wrong bytes. */
  readonly skipEndpoints?: ReadonlySet<number> | undefined;
}

/** A response with a blob or a part of it. */
export interface FetchedBlob extends Answer {
  readonly endpoint: number;
  /** Where `body` begins: at the requested offset, or at 0 if the server ignores ranges. */
  readonly offset: number;
  /** Whether it is the requested range; otherwise it is the whole blob, from 0 on. */
  readonly isPart: boolean;
  /** The size of the whole blob; `undefined` if upstream did not say. */
  readonly size: number | undefined;
  readonly etag: HostETag | undefined;
  /**
   * May be iterated once; ending the iteration frees the connection. Throws an UpstreamFailure if the bytes end before
   * or after the announced length, or stop arriving. Not verified against the digest. A piece is overwritten as soon as
   * the next one is requested.
   */
  readonly body: AsyncIterable<Uint8Array>;
  /** Frees the connection if the body is not read to its end. May be called at any time. */
  destroy(): void;
}

/** A page of tags from upstream. */
export interface FetchedTags extends Answer {
  readonly tags: readonly string[];
  /** `after` for the next page, if there is one. */
  readonly next: string | undefined;
}

/** The referrers of a manifest from upstream. */
export interface FetchedReferrers extends Answer {
  readonly mediaType: string;
  /** An image index with the referrers of all pages, unfiltered; empty if there are none. */
  readonly bytes: Uint8Array;
}
