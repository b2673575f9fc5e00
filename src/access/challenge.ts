import type { Log } from '../lib/log.ts';
import { OciError } from '../oci/errors.ts';
import { type Scope, scopeText } from './scope.ts';
import type { Sender } from './subject.ts';

export interface ChallengeOptions {
  /** The name of this registry in challenges and tokens. */
  readonly service: string;
  /** How clients reach this server, where the Host header does not say it. */
  readonly externalUrl: string | undefined;
  /** Asks for credentials over plain HTTP too. */
  readonly allowPlainCredentials: boolean;
  /**
   * A repository's name as every client can read it in a scope: skopeo and others split scopes at each colon, and so
   * take none with the port of an upstream. `/token` has to understand it as the same repository.
   */
  readonly nameInScope: (name: string) => string;
  readonly log: Log;
}

export interface Demand {
  readonly scope?: Scope;
  /** RFC 6750 §3.1: why the token that was sent does not do. containerd gets another one only when it hears this. */
  readonly error?: 'invalid_token' | 'insufficient_scope';
  /** For who reads the answer or the audit log, where it is more than that one has to log in. */
  readonly message?: string;
}

/** What is heard wherever a user name and a password are nobody's. */
export const WRONG_PASSWORD = 'the user name or password is wrong';

/** What may stand in a realm: a Host header is a client's word, and it is echoed. */
const HOST = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$/;

/** The same client asks with every request; once in a while is enough to be found in the log. */
const EXPLAIN_EVERY_MS = 60_000;

/** Makes the one challenge that clients hear (distribution, "Token Authentication"): Bearer, with an absolute realm. */
export class Challenges {
  readonly #options: ChallengeOptions;
  #explainedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ChallengeOptions) {
    this.#options = options;
  }

  /** UNAUTHORIZED with its challenge, or `undefined` where credentials may not be asked for. */
  demand(sender: Sender, { scope, error, message }: Demand = {}): OciError | undefined {
    const realm = this.#realm(sender);
    if (realm === undefined) return undefined;
    const parameters = [
      `realm="${realm}"`,
      `service="${this.#options.service}"`,
      ...(scope === undefined ? [] : [`scope="${this.#scopeText(scope)}"`]),
      ...(error === undefined ? [] : [`error="${error}"`]),
    ];
    return new OciError('UNAUTHORIZED', {
      ...(message === undefined ? {} : { message }),
      headers: { 'WWW-Authenticate': `Bearer ${parameters.join(',')}` },
    });
  }

  #scopeText(scope: Scope): string {
    return scopeText({ ...scope, name: this.#options.nameInScope(scope.name) });
  }

  /** Whether passwords may come on this connection: else they cross a network as they are. */
  mayCarryPasswords({ secure, loopback }: Sender): boolean {
    return secure || loopback || this.#options.allowPlainCredentials;
  }

  #realm(sender: Sender): string | undefined {
    const { externalUrl } = this.#options;
    const { secure, host, upstreamListener } = sender;
    if (!this.mayCarryPasswords(sender)) {
      this.#explain();
      return undefined;
    }
    // A port or name that belongs to one upstream is another place than the external URL, and tokens are got there too.
    if (externalUrl !== undefined && upstreamListener === undefined) return `${externalUrl}/token`;
    if (host === undefined || !HOST.test(host)) return undefined;
    return `${secure ? 'https' : 'http'}://${host}/token`;
  }

  #explain(): void {
    const nowMs = performance.now();
    if (nowMs - this.#explainedAtMs < EXPLAIN_EVERY_MS) return;
    this.#explainedAtMs = nowMs;
    this.#options.log.warn(
      {},
      'a client was not asked to log in, because its password would have been sent over plain HTTP: ' +
        'set server.tls, or server.externalUrl and trustedProxies, or server.allowPlainCredentials',
    );
  }
}
