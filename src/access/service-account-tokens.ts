import { isJsonObject } from '../lib/json.ts';
import type { ServiceAccount } from './authenticator.ts';
import { verifyForeignToken } from './tokens.ts';

/** Who signs the tokens of now, and with which keys. */
export interface TokenIssuer {
  /** `undefined` while nobody could be asked yet. */
  readonly current:
    | { readonly issuer: string; readonly keys: readonly Readonly<Record<string, unknown>>[] }
    | undefined;
  /** Asks again, unless it was asked a moment ago: tokens of invented signers make few questions. Never rejects. */
  refresh(): Promise<void>;
}

/** The accounts of the cluster, as far as news of them have come. */
export interface FollowedAccounts {
  /** Whether the account is there now: a deleted one's tokens end with it. */
  hasAccount(namespace: string, uid: string): boolean;
  /** Whether the accounts of this namespace are followed at all. */
  isFollowed(namespace: string): boolean;
  /** Returns the way to stop listening. */
  onAccounts(listener: () => void): () => void;
}

export interface ServiceAccountTokensOptions {
  /** What tokens for this registry are made out to. */
  readonly audiences: readonly string[];
  readonly issuer: TokenIssuer;
  readonly accounts: FollowedAccounts;
  readonly nowMs?: () => number;
  /** How long the news of an account is waited for. */
  readonly newsMs?: number;
}

/** A token may come before the news that its account was made, which takes a fraction of that. */
const NEWS_MS = 1_000;

/** Verifies the tokens of a cluster's ServiceAccounts (Kubernetes, "Bound service account tokens"). */
export class ServiceAccountTokens {
  readonly #options: ServiceAccountTokensOptions;

  constructor(options: ServiceAccountTokensOptions) {
    this.#options = options;
  }

  /** Whose token it is; `undefined` for one of another issuer or audience, that is over, or whose account is gone. */
  async verify(token: string): Promise<ServiceAccount | undefined> {
    const { audiences, issuer } = this.#options;
    if (audiences.length === 0) return undefined;
    let claims = await this.#claimsOf(token);
    if (claims === 'unknown-signer') {
      await issuer.refresh();
      claims = await this.#claimsOf(token);
    }
    if (claims === undefined || claims === 'unknown-signer') return undefined;
    const account = accountOf(claims);
    return account !== undefined && (await this.#isThere(account)) ? account : undefined;
  }

  async #isThere({ namespace, uid }: ServiceAccount): Promise<boolean> {
    const { accounts, newsMs = NEWS_MS } = this.#options;
    if (accounts.hasAccount(namespace, uid)) return true;
    if (!accounts.isFollowed(namespace)) return false;
    return new Promise(resolve => {
      const end = (isThere: boolean) => {
        clearTimeout(timer);
        stopListening();
        resolve(isThere);
      };
      const timer = setTimeout(() => end(false), newsMs);
      const stopListening = accounts.onAccounts(() => {
        if (accounts.hasAccount(namespace, uid)) end(true);
      });
    });
  }

  async #claimsOf(token: string) {
    const { audiences, issuer, nowMs = Date.now } = this.#options;
    if (issuer.current === undefined) return 'unknown-signer';
    return verifyForeignToken({ ...issuer.current, token, audiences, nowMs: nowMs() });
  }
}

const SUBJECT = 'system:serviceaccount';

/** Tokens of before 1.21, which lie in Secrets and never end, have these claims elsewhere, and are not taken. */
function accountOf(claims: Readonly<Record<string, unknown>>): ServiceAccount | undefined {
  const bound = claims['kubernetes.io'];
  const { namespace, serviceaccount } = isJsonObject(bound) ? bound : {};
  const { name, uid } = isJsonObject(serviceaccount) ? serviceaccount : {};
  if (typeof namespace !== 'string' || typeof name !== 'string' || typeof uid !== 'string') return undefined;
  return claims['sub'] === `${SUBJECT}:${namespace}:${name}` ? { namespace, name, uid } : undefined;
}
