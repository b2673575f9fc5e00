import { Lru } from '../lib/lru.ts';
import { SingleFlight, unlessAborted } from '../lib/single-flight.ts';
import { type Credential, credentialId } from '../oci/credential.ts';

/** What a token is asked for, and by whom. */
export interface TokenRequest {
  /** The endpoint's API: a token for one is never shown to another, even of the same service. */
  readonly endpoint: string;
  readonly realm: URL;
  readonly service: string | undefined;
  readonly scope: string;
  readonly credential: Credential | undefined;
}

export interface IssuedToken {
  readonly value: string;
  /** From now. */
  readonly lifetimeMs: number;
}

export interface HeldToken {
  readonly value: string;
  /** Whether it was issued for this very call, not remembered from before. */
  readonly fresh: boolean;
}

/** A token of each credential for each repository in use; more are fetched again. */
const MAX_TOKENS = 5_000;
/** A token must outlive the request it is sent with, and clocks that tick differently. */
const MARGIN = 0.1;

/** Tokens until they expire, each fetched once for all who wait for it. A failure is shared too, and not remembered. */
export class TokenCache {
  readonly #fetch: (request: TokenRequest) => Promise<IssuedToken>;
  readonly #tokens = new Lru<IssuedToken>({ maxEntries: MAX_TOKENS });
  readonly #flights = new SingleFlight<IssuedToken>();

  constructor(fetch: (request: TokenRequest) => Promise<IssuedToken>) {
    this.#fetch = fetch;
  }

  /** Aborting leaves; the fetch goes on for the others. */
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

  /** Forgets a token that was turned away, unless another has taken its place already. */
  end(request: TokenRequest, value: string): void {
    const key = keyOf(request);
    if (this.#tokens.get(key)?.value === value) this.#tokens.delete(key);
  }
}

function keyOf({ endpoint, realm, service, scope, credential }: TokenRequest): string {
  return JSON.stringify([endpoint, realm.href, service, scope, credentialId(credential)]);
}
