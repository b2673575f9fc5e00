import type { Log } from '../lib/log.ts';
import { OciError } from '../oci/errors.ts';
import { type Scope, scopeText } from './scope.ts';
import type { Sender } from './subject.ts';

/** What challenges depend on. */
export interface ChallengeOptions {
  /** The name of this registry in challenges and tokens. */
  readonly service: string;
  /** The URL under which clients reach this server, if it is not that of the Host header. */
  readonly externalUrl: string | undefined;
  /** Whether to ask for credentials over plain HTTP, too. */
  readonly allowPlainCredentials: boolean;
  /**
   * A repository name as every client can parse it in a scope: skopeo and others split scopes at every colon, so an
   * upstream's port is a problem. `/token` must resolve it to the same repository.
   */
  readonly nameInScope: (name: string) => string;
  readonly log: Log;
}

/** What a challenge says. */
export interface Demand {
  readonly scope?: Scope;
  /** Why the token in the request is not sufficient (RFC 6750 §3.1). containerd renews a token only if this is set. */
  readonly error?: 'invalid_token' | 'insufficient_scope';
  /** For the client and the audit log, if there is more to say than that a login is needed. */
  readonly message?: string;
  /** For the log only: what the client may not know. */
  readonly cause?: unknown;
}

/** The message wherever a user name and password are not accepted. */
export const WRONG_PASSWORD = 'the user name or password is wrong';

/** A valid host for a realm, which repeats the client's Host header. */
const HOST = /^(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?$/;

/** All that may be in an `error_description`, but for quotes and backslashes. */
const NOT_DESCRIBABLE = /[^\x20\x21\x23-\x5b\x5d-\x7e]/g;
/** Longer than any message; the whole header must fit into the buffers of proxies. */
const MAX_DESCRIPTION_LENGTH = 1_000;

/** At most one log line per minute, since the same client sends many such requests. */
const EXPLAIN_EVERY_MS = 60_000;

/** Makes challenges (distribution, "Token Authentication"): always Bearer, with an absolute realm. */
export class Challenges {
  readonly #options: ChallengeOptions;
  #explainedAtMs = Number.NEGATIVE_INFINITY;

  constructor(options: ChallengeOptions) {
    this.#options = options;
  }

  /** UNAUTHORIZED with a challenge; `undefined` if credentials may not be asked for on this connection. */
  demand(sender: Sender, { scope, error, message, cause }: Demand = {}): OciError | undefined {
    const realm = this.#realm(sender);
    if (realm === undefined) return undefined;
    const parameters = [
      `realm="${realm}"`,
      `service="${this.#options.service}"`,
      ...(scope === undefined ? [] : [`scope="${this.#scopeText(scope)}"`]),
      ...(error === undefined ? [] : [`error="${error}"`]),
      // What skopeo, podman and Docker print instead of the body (RFC 6750 §3).
      ...(error === undefined || message === undefined ? [] : [`error_description="${described(message)}"`]),
    ];
    return new OciError('UNAUTHORIZED', {
      ...(message === undefined ? {} : { message }),
      headers: { 'WWW-Authenticate': `Bearer ${parameters.join(',')}` },
      cause,
    });
  }

  #scopeText(scope: Scope): string {
    return scopeText({ ...scope, name: this.#options.nameInScope(scope.name) });
  }

  /** Whether passwords may be sent over this connection: encrypted, on loopback, or allowed by the configuration. */
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
    // A port or host name that belongs to one upstream is not covered by the external URL: its clients get tokens
    // there.
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

function described(message: string): string {
  return message.slice(0, MAX_DESCRIPTION_LENGTH).replaceAll(NOT_DESCRIBABLE, "'");
}
