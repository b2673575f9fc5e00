import { isJsonObject } from '../lib/json.ts';
import type { Log } from '../lib/log.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import type { ServiceAccount } from './door.ts';
import { verifyForeignToken } from './tokens.ts';

/** Who signs the tokens, and with which keys. */
interface Issuer {
  readonly issuer: string;
  readonly keys: readonly Readonly<Record<string, unknown>>[];
}

export interface ServiceAccountTokensOptions {
  /** What tokens for this registry are made out to. */
  readonly audiences: readonly string[];
  readonly readIssuer: () => Promise<Issuer>;
  /** Whether the account is there now: a deleted one's tokens end with it. */
  readonly hasAccount: (namespace: string, uid: string) => boolean;
  readonly log: Log;
  readonly nowMs?: () => number;
}

/** A key that the cluster has withdrawn counts no longer than this. */
const KEYS_MS = 3_600_000;

/** Tokens with invented keys make no more questions than this; a new key is known as soon. */
const MIN_QUESTION_MS = 10_000;

/** Verifies the tokens of a cluster's ServiceAccounts (Kubernetes, "Bound service account tokens"). */
export class ServiceAccountTokens {
  readonly #options: ServiceAccountTokensOptions;
  readonly #nowMs: () => number;
  readonly #questions = new SingleFlight<void>();
  #issuer: Issuer | undefined;
  #readAtMs = Number.NEGATIVE_INFINITY;
  #askedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ServiceAccountTokensOptions) {
    this.#options = options;
    this.#nowMs = options.nowMs ?? Date.now;
  }

  /** Whose token it is; `undefined` for one of another issuer or audience, that is over, or whose account is gone. */
  async verify(token: string): Promise<ServiceAccount | undefined> {
    const { audiences, hasAccount } = this.#options;
    if (audiences.length === 0) return undefined;
    if (this.#nowMs() - this.#readAtMs > KEYS_MS) await this.#ask();
    let claims = await this.#claimsOf(token);
    if (claims === 'unknown-key') {
      await this.#ask();
      claims = await this.#claimsOf(token);
    }
    if (claims === undefined || claims === 'unknown-key') return undefined;
    const account = accountOf(claims);
    return account !== undefined && hasAccount(account.namespace, account.uid) ? account : undefined;
  }

  async #claimsOf(token: string) {
    if (this.#issuer === undefined) return undefined;
    const { audiences } = this.#options;
    return verifyForeignToken({ ...this.#issuer, token, audiences, nowMs: this.#nowMs() });
  }

  /** While the cluster cannot be asked, the keys that it had go on counting. */
  async #ask(): Promise<void> {
    const { promise } = this.#questions.run('', async () => {
      if (this.#nowMs() - this.#askedAtMs < MIN_QUESTION_MS) return;
      this.#askedAtMs = this.#nowMs();
      try {
        this.#issuer = await this.#options.readIssuer();
        this.#readAtMs = this.#nowMs();
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#options.log.error({ reason }, 'the keys of service-account tokens cannot be read');
      }
    });
    await promise;
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
