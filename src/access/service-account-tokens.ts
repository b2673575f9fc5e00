import { type Clock, systemClock } from '../lib/clock.ts';
import { isJsonObject } from '../lib/json.ts';
import type { ServiceAccount } from './authenticator.ts';
import { verifyForeignToken } from './tokens.ts';

/** The issuer of a cluster's tokens, with its signing keys. */
export interface TokenIssuer {
  /** `undefined` until the API server was asked successfully. */
  readonly current:
    | { readonly issuer: string; readonly keys: readonly Readonly<Record<string, unknown>>[] }
    | undefined;
  /**
   * Asks again, unless that was done a moment ago, so that tokens with invented signers cause few requests. Never
   * rejects.
   */
  refresh(): Promise<void>;
}

/** The ServiceAccounts of the cluster, as far as its changes have arrived. */
export interface FollowedAccounts {
  /** Whether the account exists. When it is deleted, its tokens end. */
  hasAccount(namespace: string, uid: string): boolean;
  /** Whether the accounts of this namespace are watched. */
  isFollowed(namespace: string): boolean;
  /** Calls `listener` after each change; returns a function that stops this. */
  onAccounts(listener: () => void): () => void;
}

export interface ServiceAccountTokensOptions {
  /** The accepted audiences of tokens: the names of this registry. */
  readonly audiences: readonly string[];
  /** The cluster: its name in tokens, and the keys that verify them. */
  readonly issuer: TokenIssuer;
  /** The ServiceAccounts that exist now: a token of any other is refused. */
  readonly accounts: FollowedAccounts;
  /** Default: the system's. */
  readonly clock?: Clock;
}

/** A token may be used before its new account has arrived here, which takes a fraction of this. */
const NEWS_MS = 1_000;

/** Verifies the tokens of a cluster's ServiceAccounts (Kubernetes, "Bound service account tokens"). */
export class ServiceAccountTokens {
  readonly #options: ServiceAccountTokensOptions;
  readonly #clock: Clock;

  constructor(options: ServiceAccountTokensOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /**
   * The account of a token; `undefined` if the token has another issuer or audience, has expired, or its account is
   * gone.
   */
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
    const { accounts } = this.#options;
    if (accounts.hasAccount(namespace, uid)) return true;
    if (!accounts.isFollowed(namespace)) return false;
    return new Promise(resolve => {
      const end = (isThere: boolean) => {
        timer.cancel();
        stopListening();
        resolve(isThere);
      };
      const timer = this.#clock.after(NEWS_MS, () => end(false));
      const stopListening = accounts.onAccounts(() => {
        if (accounts.hasAccount(namespace, uid)) end(true);
      });
    });
  }

  async #claimsOf(token: string) {
    const { audiences, issuer } = this.#options;
    if (issuer.current === undefined) return 'unknown-signer';
    return verifyForeignToken({ ...issuer.current, token, audiences, nowMs: this.#clock.nowMs() });
  }
}

const SUBJECT = 'system:serviceaccount';

/**
 * The account in a token's claims. Legacy tokens from Secrets (before Kubernetes 1.24), which never expire, have other
 * claims and are refused.
 */
function accountOf(claims: Readonly<Record<string, unknown>>): ServiceAccount | undefined {
  const bound = claims['kubernetes.io'];
  const { namespace, serviceaccount } = isJsonObject(bound) ? bound : {};
  const { name, uid } = isJsonObject(serviceaccount) ? serviceaccount : {};
  if (typeof namespace !== 'string' || typeof name !== 'string' || typeof uid !== 'string') return undefined;
  return claims['sub'] === `${SUBJECT}:${namespace}:${name}` ? { namespace, name, uid } : undefined;
}
