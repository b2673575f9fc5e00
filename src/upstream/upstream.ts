/**
 * upstream/: the client of another registry. May import oci/ and lib/.
 *
 * The main idea: an `Upstream` turns HTTP with a registry that may be slow, strict, broken or hostile into answers, or
 * into one kind of failure (`UpstreamFailure`). It authenticates, follows redirects, respects rate limits and tries
 * mirrors; it does not retry an endpoint, stores no content, and knows credentials but no requesters.
 */
import { HttpClient } from '../lib/http-client.ts';
import { type Lookup, systemLookup } from '../lib/lookup.ts';
import { MemoryBudget } from '../lib/memory-budget.ts';
import { noNews, type News } from '../lib/news.ts';
import type { ProxySettings } from '../lib/proxy.ts';
import { bareHost } from '../lib/url.ts';
import { type Credential, credentialId } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import type { Page } from '../oci/pull-source.ts';
import { parseRegistryUrl } from '../oci/registry-url.ts';
import { AddressRules } from './address.ts';
import type {
  Ask,
  BlobAsk,
  BlobHead,
  FetchedBlob,
  FetchedManifest,
  FetchedReferrers,
  FetchedTags,
  ManifestHead,
} from './answers.ts';
import { fetchBlob, headBlob } from './blobs.ts';
import { discard } from './body.ts';
import { type Budget, Budgets, limitedFailure, type LimitNews } from './budget.ts';
import { Endpoints } from './endpoints.ts';
import { UpstreamFailure } from './failures.ts';
import { fetchManifest, headManifest } from './manifests.ts';
import { fetchReferrers } from './referrers.ts';
import { fetchTags } from './tags.ts';
import { TokenCache } from './token-cache.ts';
import { fetchToken } from './token-service.ts';
import { Transport } from './transport.ts';

export type * from './answers.ts';
export type { Budget } from './budget.ts';

/** Another server with the content of an upstream, tried when `url` fails. */
export interface UpstreamMirror {
  /** In the form that `parseRegistryUrl` reads. */
  readonly url: string;
  /** The mirror's own; the credential of an Ask is sent to the upstream's `url` only. */
  readonly credential?: Credential | undefined;
}

export interface Timeouts {
  /** TCP and TLS. */
  readonly connectMs: number;
  /** From the request to the end of the response headers. */
  readonly headersMs: number;
  /** Between two chunks of a body, while somebody reads. The whole body has no limit. */
  readonly idleBodyMs: number;
}

export interface UpstreamOptions {
  /** As in `Repository.upstream`. */
  readonly name: string;
  /** In the form that `parseRegistryUrl` reads. */
  readonly url: string;
  /** Tried in order after `url`. */
  readonly mirrors?: readonly UpstreamMirror[];
  /** Hosts (`host` or `host:port`) besides an endpoint's own whose token service may see a credential. */
  readonly realms?: readonly string[];
  /** PEM text of CAs to trust instead of the system's. */
  readonly ca?: string | undefined;
  /** Accepts any certificate. */
  readonly insecure?: boolean;
  /** CIDR blocks to which connections are allowed despite the address rules. */
  readonly allowAddresses?: readonly string[];
  /** Default, for each that is absent: 5 s to connect, 15 s for headers, 30 s without a byte. */
  readonly timeouts?: Partial<Timeouts>;
  /** Default: none, whatever the environment says. */
  readonly proxy?: ProxySettings | undefined;
  /** Default: `entrepot`. */
  readonly userAgent?: string;
  /** The memory for documents; each upstream has a share. */
  readonly memory?: MemoryBudget;
  /** Default: the system's resolver. */
  readonly lookup?: Lookup;
  /** How processes of one server tell each other of this upstream's rate limits. */
  readonly limitNews?: News<LimitNews>;
}

/**
 * A connection that takes longer has lost packets or a dead host; headers that take longer mean a hung server. Both
 * together leave time for a mirror within the 20 s in which a client must be answered.
 */
const DEFAULT_TIMEOUTS: Timeouts = { connectMs: 5_000, headersMs: 15_000, idleBodyMs: 30_000 };

/**
 * One registry with its mirrors. Names, tags and digests must be valid, otherwise a TypeError is thrown. Everything
 * rejects with an UpstreamFailure, or with the reason of the ask's signal.
 */
export class Upstream {
  readonly name: string;
  readonly #client: HttpClient;
  readonly #endpoints: Endpoints;
  /** Their indexes among the endpoints. */
  readonly #mirrors: ReadonlySet<number>;
  readonly #budgets: readonly Budgets[];
  readonly #unlisten: () => void;

  constructor(options: UpstreamOptions) {
    const { name, url, mirrors = [], realms = [], lookup = systemLookup, userAgent = 'entrepot' } = options;
    const { limitNews: news = noNews } = options;
    this.name = name;
    const client = new HttpClient({
      ...DEFAULT_TIMEOUTS,
      ...options.timeouts,
      ca: options.ca,
      insecure: options.insecure,
      proxy: options.proxy,
      lookup,
      guard: new AddressRules({ home: bareHost(new URL(url)), allow: options.allowAddresses ?? [], lookup }),
    });
    this.#client = client;
    const memory = { budget: options.memory ?? new MemoryBudget(), holder: { name: `upstream ${name}` } };
    const tokens = new TokenCache(request => fetchToken(client, request, { userAgent, memory }));
    const transports = [url, ...mirrors.map(mirror => mirror.url)].map(
      (site, endpoint) =>
        new Transport({
          name,
          endpoint,
          registry: parseRegistryUrl(site),
          client,
          realms,
          tokens,
          budgets: new Budgets(Date.now, { endpoint, news }),
          userAgent,
          memory,
        }),
    );
    this.#budgets = transports.map(({ budgets }) => budgets);
    this.#unlisten = news.listen(limit => this.#budgets[limit.endpoint]?.learn(limit));
    this.#mirrors = new Set(mirrors.map((_, index) => index + 1));
    this.#endpoints = new Endpoints(
      transports.map((transport, index) => ({
        index,
        // The credential of an Ask is meant for `url`, not for a mirror.
        send: (request, ask, accept) => {
          const credential = index === 0 ? ask.credential : mirrors[index - 1]?.credential;
          return transport.send({ ...request, credential, signal: ask.signal }, accept);
        },
      })),
    );
  }

  /** The current digest of `reference` (a tag or a digest), without transferring the manifest. */
  async headManifest(repository: string, reference: string, ask: Ask): Promise<ManifestHead> {
    return this.#endpoints.attempt(endpoint => headManifest(endpoint, repository, reference, ask));
  }

  async fetchManifest(repository: string, reference: string, ask: Ask): Promise<FetchedManifest> {
    return this.#endpoints.attempt(endpoint => fetchManifest(endpoint, repository, reference, ask));
  }

  /** Whether the blob exists, and its size. */
  async headBlob(repository: string, digest: Digest, ask: Ask): Promise<BlobHead> {
    return this.#endpoints.attempt(endpoint => headBlob(endpoint, repository, digest, ask));
  }

  async fetchBlob(repository: string, digest: Digest, ask: BlobAsk): Promise<FetchedBlob> {
    const { skipEndpoints } = ask;
    return this.#endpoints.attempt(endpoint => fetchBlob(endpoint, repository, digest, ask), skipEndpoints);
  }

  async fetchTags(repository: string, page: Page, ask: Ask): Promise<FetchedTags> {
    return this.#endpoints.attempt(endpoint => fetchTags(endpoint, repository, page, ask));
  }

  /** Falls back to the referrers tag schema (distribution-spec) if the API is missing. */
  async fetchReferrers(repository: string, subject: Digest, ask: Ask): Promise<FetchedReferrers> {
    return this.#endpoints.attempt(endpoint => fetchReferrers(endpoint, repository, subject, ask));
  }

  /** Whether `url` accepts the credential at all, whatever it may read; `undefined` if `url` does not say. */
  async acceptsLogin(credential: Credential, signal: AbortSignal): Promise<boolean | undefined> {
    const request = { method: 'GET', repository: undefined, path: '' } as const;
    try {
      const { response } = await this.#endpoints.attempt(
        url => url.send(request, { credential, signal }),
        this.#mirrors,
      );
      discard(response.body);
      return true;
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      if (error.kind === 'refused') return false;
      return error.kind === 'denied' || error.kind === 'unknown' ? true : undefined;
    }
  }

  /** The known rate limits of `url`, by credential, for metrics. */
  budget(): readonly Budget[] {
    return this.#budgets[0]?.list() ?? [];
  }

  /** The failure of all requests with the credential while `url` limits the rate; `undefined` if they are sent. */
  limitOf(credential: Credential | undefined): UpstreamFailure | undefined {
    const limitedMs = this.#budgets[0]?.limitedMs(credentialId(credential)) ?? 0;
    // While `url` cannot be reached, mirrors are asked first.
    return limitedMs > 0 && this.#endpoints.first === 0 ? limitedFailure(this.name, limitedMs, 0) : undefined;
  }

  /** Whether it is known to limit requests for blobs: each further one may cost a pull. */
  get limitsBlobs(): boolean {
    return this.#budgets.some(({ limitsBlobs }) => limitsBlobs);
  }

  /** Forgets rate limits and which endpoints were unreachable. */
  forgetFailures(): void {
    for (const budgets of this.#budgets) budgets.forget();
    this.#endpoints.forget();
  }

  /** Aborts all requests. */
  async close(): Promise<void> {
    this.#unlisten();
    await this.#client.close();
  }
}
