import { Lru } from '../lib/lru.ts';
import { SingleFlight, unlessAborted } from '../lib/single-flight.ts';
import { type Credential, credentialId } from '../oci/credential.ts';

/** What a token is requested for, and with which credential. */
export interface TokenRequest {
  /** The API of the endpoint: a token for one is never shown to another, even with the same token service. */
  readonly endpoint: string;
  readonly realm: URL;
  readonly service: string | undefined;
  readonly scope: string;
  readonly credential: Credential | undefined;
}

/** A token from a token service. */
export interface UpstreamToken {
  readonly value: string;
  /** From now on. */
  readonly lifetimeMs: number;
}

/** A token to use, from the cache or new. */
export interface HeldToken {
  readonly value: string;
  /** Whether it was issued for this call, not taken from the cache. */
  readonly fresh: boolean;
}

/** A token for each credential and repository in use; beyond that they are fetched again. */
const MAX_TOKENS = 5_000;
/** A token must outlive the request in which it is sent, and clocks differ. */
const MARGIN = 0.1;

/**
 * Caches tokens until they expire; concurrent requests share one fetch. A failure is shared, too, but not remembered.
 */
export class TokenCache {
  readonly #fetch: (request: TokenRequest) => Promise<UpstreamToken>;
  readonly #tokens = new Lru<UpstreamToken>({ maxEntries: MAX_TOKENS });
  readonly #flights = new SingleFlight<UpstreamToken>();

  constructor(fetch: (request: TokenRequest) => Promise<UpstreamToken>) {
    this.#fetch = fetch;
  }

  /** If `signal` aborts, this rejects; the fetch continues for others. */
  async token(request: TokenRequest, signal: AbortSignal | undefined): Promise<HeldToken> {
    const key = keyOf(request);
    const held = this.#tokens.get(key);
    if (held !== undefined) return { value: held.value, fresh: false };
    const { promise } = this.#flights.run(key, async () => {
      const issued = await this.#fetch(request);
      this.#tokens.set(key, issued, issued.lifetimeMs * (1 - MARGIN));
      return issued;
    });
    return { value: (await unlessAborted(promise, signal)).value, fresh: true };
  }

  /** Removes a token that was refused, unless another has replaced it. */
  end(request: TokenRequest, value: string): void {
    const key = keyOf(request);
    if (this.#tokens.get(key)?.value === value) this.#tokens.delete(key);
  }
}

function keyOf({ endpoint, realm, service, scope, credential }: TokenRequest): string {
  return JSON.stringify([endpoint, realm.href, service, scope, credentialId(credential)]);
}
