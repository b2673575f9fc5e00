import type { Credential } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import type { Manifest } from '../oci/manifest.ts';

/** On whose behalf, and for how long the asker cares. */
export interface Ask {
  /** `undefined` asks anonymously. */
  readonly credential: Credential | undefined;
  /** Aborting rejects with the signal's reason and frees the connection. */
  readonly signal?: AbortSignal | undefined;
}

/** What every answer carries. */
export interface Answer {
  /** Whether it came from `url` itself: only that proves a right or makes a repository public. */
  readonly proof: boolean;
}

/** Headers alone, so `proof` is false of a redirected one too: where it led, any digest may be affirmed. */
export interface ManifestHead extends Answer {
  /** `undefined` when upstream does not say (HEAD answered 405, or without a digest): fetch it to know. */
  readonly digest: Digest | undefined;
  readonly size: number | undefined;
  readonly mediaType: string | undefined;
}

export interface FetchedManifest extends Answer {
  /** Its digest was verified when it was asked for by one, and computed otherwise. */
  readonly manifest: Manifest;
}

export interface BlobHead extends Answer {
  /** `undefined` when upstream does not say. */
  readonly size: number | undefined;
}

/** A strong ETag and the host that gave it: no other host is ever asked `If-Range` with it. */
export interface HostETag {
  readonly value: string;
  /** Scheme, host and port. */
  readonly origin: string;
}

export interface BlobAsk extends Ask {
  /** Bytes already held; default 0. */
  readonly offset?: number;
  /** Bytes wanted from `offset` on; all that follow if left out. A server may give more. */
  readonly length?: number | undefined;
  /** From an earlier answer for this blob. */
  readonly etag?: HostETag | undefined;
  /** The size, when a manifest names it: an answer with another total is `invalid`. */
  readonly size?: number | undefined;
  /** Endpoints not to ask, such as one that gave wrong bytes. */
  readonly skipEndpoints?: ReadonlySet<number> | undefined;
}

export interface FetchedBlob extends Answer {
  readonly endpoint: number;
  /** Where `body` begins: the offset asked for, or 0 from a server that ignores ranges. */
  readonly offset: number;
  /** Whether it answers the range that was asked for; else it is the whole, from 0 on. */
  readonly isPart: boolean;
  /** Of the whole blob; `undefined` when upstream does not say. */
  readonly size: number | undefined;
  readonly etag: HostETag | undefined;
  /**
   * Iterated at most once; leaving the iteration frees the connection. Throws an UpstreamFailure when the bytes end
   * before or after their announced length, or stop coming. Not verified against the digest.
   */
  readonly body: AsyncIterable<Uint8Array>;
  /** Frees the connection of a body that nobody will read to its end. May be called at any time. */
  destroy(): void;
}

export interface FetchedTags extends Answer {
  readonly tags: readonly string[];
  /** `after` of the next page, when there is one. */
  readonly next: string | undefined;
}

export interface FetchedReferrers extends Answer {
  readonly mediaType: string;
  /** An image index with the referrers of all pages, unfiltered. Empty when there are none. */
  readonly bytes: Uint8Array;
}
