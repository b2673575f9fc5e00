import type { HttpClient } from '../lib/http-client.ts';
import { type Credential, credentialId } from '../oci/credential.ts';
import { essence } from '../oci/media-types.ts';
import type { RegistryUrl } from '../oci/registry-url.ts';
import { type BodyContext, discard, type DocumentMemory, errorTextOf, headerOf } from './body.ts';
import { type Budgets, limitedFailure, parseRetryAfter } from './budget.ts';
import { type Challenge, parseChallenges } from './challenge.ts';
import { basicAuthorization } from './credentials.ts';
import { isRateRefusal, kindOfStatus, UpstreamFailure, unreachable } from './failures.ts';
import { judgeRealm } from './realm.ts';
import { type Followed, follow } from './redirect.ts';
import type { TokenCache, TokenRequest } from './token-cache.ts';

export interface TransportOptions {
  /** The upstream's name, for error messages. */
  readonly name: string;
  /** Its index: 0 is the upstream's `url`, mirrors follow. */
  readonly endpoint: number;
  readonly registry: RegistryUrl;
  readonly client: HttpClient;
  /** As in `UpstreamOptions`. */
  readonly realms: readonly string[];
  /** Shared by the endpoints of an upstream. */
  readonly tokens: TokenCache;
  /** The rate limits of this endpoint. */
  readonly budgets: Budgets;
  readonly userAgent: string;
  readonly memory: DocumentMemory;
}

export interface TransportRequest {
  readonly method: 'GET' | 'HEAD';
  /** `undefined` requests the base of the API, which only tells whether the credential is accepted. */
  readonly repository: string | undefined;
  /** What follows `<api>/<repository>/`, built of validated parts. Empty without a repository. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly condition?: { readonly value: string; readonly origin: string } | undefined;
  /** As in HttpRequest. */
  readonly isBulk?: boolean | undefined;
  /** As in `BlobAsk`. */
  readonly isSpare?: boolean | undefined;
  readonly credential: Credential | undefined;
  readonly signal: AbortSignal | undefined;
}

/** A successful response, with what messages about its body need. */
export interface Reply extends Followed {
  readonly context: BodyContext;
}

/** How this endpoint wants requests to be authenticated, according to its last challenge. */
type Scheme =
  | { readonly kind: 'basic' }
  | { readonly kind: 'bearer'; readonly realm: URL; readonly service: string | undefined };

/** The credentials that a request was sent with, and their origin. */
interface Authorization {
  readonly header: string;
  readonly token?: { readonly request: TokenRequest; readonly value: string; readonly fresh: boolean };
}

/** Media types of pages for people, which are never content of a registry. */
const PAGES: ReadonlySet<string> = new Set(['text/html', 'application/xhtml+xml']);

/** Docker token specification, "Resource Scope Grammar". */
const SCOPE_START = 'repository:';
const SCOPE_END = ':pull';
/** Scopes of several repositories have some hundred characters. */
const MAX_SCOPE_LENGTH = 2_000;

/** Sends requests to one endpoint, with the authentication that it asks for. */
export class Transport {
  readonly budgets: Budgets;
  readonly #options: TransportOptions;
  #scheme: Scheme | undefined;
  /**
   * What precedes repository names in the endpoint's scopes: its own prefix, until a challenge says otherwise. A proxy
   * may pass on the names of the registry behind it.
   */
  #scopePrefix: string;

  constructor(options: TransportOptions) {
    this.#options = options;
    this.#scopePrefix = options.registry.prefix;
    this.budgets = options.budgets;
  }

  /**
   * The response if it is successful or its status is in `accept`. Once the endpoint's challenge is known, a request
   * needs no second attempt unless a token has expired. Rejects with an UpstreamFailure, or the signal's reason.
   */
  async send(request: TransportRequest, accept: readonly number[] = []): Promise<Reply> {
    const { name, endpoint, budgets, memory } = this.#options;
    const id = credentialId(request.credential);
    const limitedMs = budgets.limitedMs(id);
    if (limitedMs > 0) throw limitedFailure(name, limitedMs, endpoint);
    const followed = await this.#authenticated(request);
    const { response, url, crossed } = followed;
    const retryAfterMs = crossed
      ? undefined
      : budgets.note(id, response, { isBlob: request.isBulk, isSpare: request.isSpare });
    if (isSuccess(response.status) || (!crossed && accept.includes(response.status))) {
      this.#requireIdentity(followed, request);
      this.#requireContent(followed, request);
      return {
        ...followed,
        context: { url, what: this.#message(request), signal: request.signal, endpoint, memory },
      };
    }
    throw await this.#failure(followed, request, retryAfterMs);
  }

  async #authenticated(request: TransportRequest): Promise<Followed> {
    const first = await this.#prepare(request);
    const followed = await this.#follow(request, first);
    const { response, crossed } = followed;
    // The target of a redirect does not decide how this endpoint authenticates.
    if (response.status !== 401 || crossed) return followed;
    if (first?.token !== undefined) this.#options.tokens.end(first.token.request, first.token.value);
    const challenges = parseChallenges(response.headers['www-authenticate']);
    const second = await this.#answer(challenges, request, first).catch((error: unknown) => {
      discard(response.body);
      throw error;
    });
    if (second === undefined) return followed;
    discard(response.body);
    const again = await this.#follow(request, second);
    if (again.response.status === 401 && second.token !== undefined) {
      this.#options.tokens.end(second.token.request, second.token.value);
    }
    return again;
  }

  /** What to send before there is a challenge. */
  async #prepare(request: TransportRequest): Promise<Authorization | undefined> {
    if (this.#scheme === undefined) return undefined;
    try {
      return await this.#authorization(this.#scheme, this.#scopeOf(request), request);
    } catch (error) {
      // If no anonymous token is issued, the repository may still need none.
      if (request.credential === undefined && error instanceof UpstreamFailure && error.kind === 'denied')
        return undefined;
      throw error;
    }
  }

  /** What to send after a challenge; `undefined` if there is nothing new to send. */
  async #answer(
    challenges: readonly Challenge[],
    request: TransportRequest,
    sent: Authorization | undefined,
  ): Promise<Authorization | undefined> {
    const bearer = challenges.find(({ scheme }) => scheme === 'bearer');
    if (bearer !== undefined) {
      this.#scheme = {
        kind: 'bearer',
        realm: this.#trustedRealm(bearer),
        service: bearer.parameters.get('service'),
      };
      const named = bearer.parameters.get('scope');
      // For the base of the API, some name a repository that does not exist (GitHub: `user/image`).
      const isUsable =
        request.repository !== undefined &&
        named !== undefined &&
        named.length <= MAX_SCOPE_LENGTH &&
        named !== '';
      if (isUsable) this.#scopePrefix = scopePrefixOf(named, request.repository) ?? this.#scopePrefix;
      // Never both: a strict token service refuses a request with a scope that it does not know (containerd#13412).
      const scope = isUsable ? named : this.#scopeOf(request);
      // A token that was issued for this request was not sufficient; another one would not be either.
      if (sent?.token?.fresh && sent.token.request.scope === scope) return undefined;
      return this.#authorization(this.#scheme, scope, request);
    }
    if (!challenges.some(({ scheme }) => scheme === 'basic')) return undefined;
    this.#scheme = { kind: 'basic' };
    const next = await this.#authorization(this.#scheme, '', request);
    return next?.header === sent?.header ? undefined : next;
  }

  async #authorization(
    scheme: Scheme,
    scope: string,
    request: TransportRequest,
  ): Promise<Authorization | undefined> {
    const { credential, signal } = request;
    if (scheme.kind === 'basic') return credential && { header: basicAuthorization(credential) };
    const { registry, tokens, budgets, endpoint } = this.#options;
    const tokenRequest = {
      endpoint: registry.api,
      realm: scheme.realm,
      service: scheme.service,
      scope,
      credential,
    };
    try {
      const token = await tokens.token(tokenRequest, signal);
      // A cached token would say nothing about the current password.
      if (request.repository === undefined) tokens.end(tokenRequest, token.value);
      return { header: `Bearer ${token.value}`, token: { request: tokenRequest, ...token } };
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      const { message, status } = error;
      // A token without a repository can only be denied because of the credential.
      const isLogin = request.repository === undefined && credential !== undefined;
      const kind = isLogin && error.kind === 'denied' ? 'refused' : error.kind;
      const retryAfterMs =
        kind === 'limited' ? budgets.close(credentialId(credential), error.retryAfterMs) : undefined;
      // One failure is shared by all who waited for the token: each gets its own error, with its own stack.
      throw new UpstreamFailure(kind, this.#message(request, message), {
        status,
        retryAfterMs,
        endpoint,
        cause: error,
      });
    }
  }

  #trustedRealm(challenge: Challenge): URL {
    const { name, registry, realms, endpoint } = this.#options;
    const realm = challenge.parameters.get('realm') ?? '';
    const judged = judgeRealm(realm, { endpoint: new URL(registry.api), realms });
    if (judged instanceof URL) return judged;
    throw new UpstreamFailure('invalid', `${name}: ${judged}`, { endpoint });
  }

  async #follow(request: TransportRequest, authorization: Authorization | undefined): Promise<Followed> {
    const { registry, client, userAgent, endpoint } = this.#options;
    const { method, condition, signal, isBulk } = request;
    const headers = { 'user-agent': userAgent, 'accept-encoding': 'identity', ...request.headers };
    try {
      return await follow(client, {
        method,
        url: new URL(`${registry.api}/${pathOf(request)}`),
        headers,
        authorization: authorization?.header,
        condition,
        signal,
        isBulk,
      });
    } catch (error) {
      if (error instanceof UpstreamFailure) {
        throw new UpstreamFailure(error.kind, this.#message(request, error.message), {
          endpoint,
          cause: error,
        });
      }
      throw unreachable(error, this.#message(request), endpoint);
    }
  }

  /** Bytes are stored and served as they are, so a content encoding would become part of the content. */
  #requireIdentity({ response, url }: Followed, request: TransportRequest): void {
    const coding = headerOf(response, 'content-encoding')?.trim().toLowerCase();
    if (coding === undefined || coding === '' || coding === 'identity') return;
    response.body.on('error', () => {}).destroy();
    const message = this.#message(
      request,
      `${url.host} responded with a content encoding that was not requested`,
    );
    throw new UpstreamFailure('invalid', message, { endpoint: this.#options.endpoint });
  }

  /** A login or maintenance page is not a valid response, whatever its status. */
  #requireContent({ response, url }: Followed, request: TransportRequest): void {
    const type = essence(headerOf(response, 'content-type') ?? '');
    if (!isSuccess(response.status) || !PAGES.has(type)) return;
    response.body.on('error', () => {}).destroy();
    const message = this.#message(request, `${url.host} responded with a web page`);
    throw new UpstreamFailure('invalid', message, { endpoint: this.#options.endpoint });
  }

  async #failure(
    { response, url, crossed }: Followed,
    request: TransportRequest,
    retryAfterMs: number | undefined,
  ): Promise<UpstreamFailure> {
    const { status } = response;
    const said = await errorTextOf(response);
    const message = this.#message(
      request,
      `${url.host} responded ${status}${said === undefined ? '' : ` (${said.text})`}`,
    );
    const details = { status, code: said?.code, retryAfterMs, endpoint: this.#options.endpoint };
    const namedMs = parseRetryAfter(headerOf(response, 'retry-after'), Date.now());
    if (!crossed && isRateRefusal(status, { code: said?.code, retryAfterMs: namedMs })) {
      const { budgets } = this.#options;
      const id = credentialId(request.credential);
      const closedMs =
        retryAfterMs ?? (request.isSpare ? budgets.closeToSpare(id, namedMs) : budgets.close(id, namedMs));
      return new UpstreamFailure('limited', message, { ...details, retryAfterMs: closedMs });
    }
    // Storage behind a redirect knows no rights: a refusal there is an outage of something that exists.
    if (crossed) return new UpstreamFailure('unavailable', message, details);
    const isRefused = status === 401 && this.#scheme?.kind === 'basic' && request.credential !== undefined;
    return new UpstreamFailure(isRefused ? 'refused' : kindOfStatus(status), message, details);
  }

  #scopeOf({ repository }: TransportRequest): string {
    if (repository === undefined) return '';
    return `${SCOPE_START}${this.#scopePrefix}${repository}${SCOPE_END}`;
  }

  #message({ repository, path }: TransportRequest, detail?: string): string {
    const { name } = this.#options;
    const what =
      repository === undefined ? `login at ${name}` : `${name}/${repository} ${path.split('?', 1)[0]}`;
    return detail === undefined ? what : `${what}: ${detail}`;
  }
}

function pathOf({ repository, path }: TransportRequest): string {
  return repository === undefined ? path : `${repository}/${path}`;
}

/**
 * What precedes the repository's name in a scope; `undefined` if the scope is not for pulling this repository alone.
 */
function scopePrefixOf(scope: string, repository: string): string | undefined {
  const end = `${repository}${SCOPE_END}`;
  if (!scope.startsWith(SCOPE_START) || !scope.endsWith(end) || scope.includes(' ')) return undefined;
  const prefix = scope.slice(SCOPE_START.length, -end.length);
  return prefix === '' || prefix.endsWith('/') ? prefix : undefined;
}

function isSuccess(status: number): boolean {
  return status === 200 || status === 206;
}
