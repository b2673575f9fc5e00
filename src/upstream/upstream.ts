/**
 * upstream/: another registry seen as a client. May import oci/ and lib/.
 *
 * The one idea: an `Upstream` turns HTTP with a registry that may be slow, strict, broken or hostile into answers or
 * one kind of failure (`UpstreamFailure`). It authenticates, follows redirects, keeps to the rate limit and tries the
 * mirrors; it never retries the same endpoint, caches no content and knows no requester, only credentials.
 */
import type { Credential } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import type { Manifest } from '../oci/manifest.ts';
import type { Page } from '../oci/pull-source.ts';

export interface Mirror {
  readonly url: string;
  /** The mirror's own; the credential of an Ask goes to the upstream's `url` only. */
  readonly credential?: Credential | undefined;
}

export interface Timeouts {
  /** TCP and TLS. */
  readonly connectMs: number;
  /** From the request to the end of the answer's headers. */
  readonly headersMs: number;
  /** Between two pieces of a body, while somebody reads. There is no limit on the whole. */
  readonly idleBodyMs: number;
}

export interface UpstreamOptions {
  /** As in `Repository.upstream`. */
  readonly name: string;
  /** `https://host[:port]`, without path. */
  readonly url: string;
  /** Tried in order after `url`. */
  readonly mirrors?: readonly Mirror[];
  /** Hosts (`host` or `host:port`), apart from an endpoint's own, whose token service may see a credential. */
  readonly realms?: readonly string[];
  /** PEM text of CAs to trust instead of the system's. */
  readonly ca?: string | undefined;
  /** Accepts any certificate. */
  readonly insecure?: boolean;
  /** CIDR blocks that may be connected to in spite of the address rules. */
  readonly allowAddresses?: readonly string[];
  readonly timeouts?: Partial<Timeouts>;
  readonly userAgent?: string;
}

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

/** What is known of the budget that upstream gives one credential. */
export interface Budget {
  readonly credentialId: string;
  readonly limit: number | undefined;
  readonly remaining: number | undefined;
  readonly windowS: number | undefined;
  /** How long nobody will be asked; 0 when the gate is open. */
  readonly limitedMs: number;
}

const todo = (): never => {
  throw new Error('not written yet');
};

/** One registry, with its mirrors. */
export class Upstream {
  readonly name: string;

  constructor(options: UpstreamOptions) {
    this.name = options.name;
  }

  /** What `reference` (a tag or a digest) means now, without transferring it. */
  async headManifest(_repository: string, _reference: string, _ask: Ask): Promise<ManifestHead> {
    return todo();
  }

  async fetchManifest(_repository: string, _reference: string, _ask: Ask): Promise<FetchedManifest> {
    return todo();
  }

  /** Whether the blob is there, and its size. */
  async headBlob(_repository: string, _digest: Digest, _ask: Ask): Promise<BlobHead> {
    return todo();
  }

  async fetchBlob(_repository: string, _digest: Digest, _ask: BlobAsk): Promise<FetchedBlob> {
    return todo();
  }

  async fetchTags(_repository: string, _page: Page, _ask: Ask): Promise<FetchedTags> {
    return todo();
  }

  /** Falls back to the referrers tag schema (distribution-spec) where the API is missing. */
  async fetchReferrers(_repository: string, _subject: Digest, _ask: Ask): Promise<FetchedReferrers> {
    return todo();
  }

  /** For metrics. One row per credential that was told a limit. */
  budgets(): readonly Budget[] {
    return todo();
  }

  /** Opens every gate that a rate limit closed, and forgets which endpoints were unreachable. */
  forgetFailures(): void {
    todo();
  }

  /** Breaks off what is in flight. */
  async close(): Promise<void> {
    return todo();
  }
}
