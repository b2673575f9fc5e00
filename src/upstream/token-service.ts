import type { HttpClient, HttpResponse } from '../lib/http-client.ts';
import { parseJsonObject } from '../lib/json.ts';
import { collect, type DocumentMemory, errorTextOf } from './body.ts';
import { parseRetryAfter } from './budget.ts';
import { basicAuthorization } from './credentials.ts';
import { isRateRefusal, UpstreamFailure, unreachable } from './failures.ts';
import { follow } from './redirect.ts';
import type { UpstreamToken, TokenRequest } from './token-cache.ts';

/** A token may contain rights: the largest known have 20 KiB, and larger ones would not fit into a request header. */
const MAX_TOKEN_BYTES = 64 * 1024;
/** Docker token specification: without `expires_in`, clients assume 60 seconds; the minimum is the same. */
const DEFAULT_LIFETIME_S = 60;
/** A token with a longer lifetime is renewed nevertheless, since rights change. */
const MAX_LIFETIME_S = 24 * 3600;

/** Fetches a token (Docker token specification, GET). The realm has been checked already. */
export async function fetchToken(
  client: HttpClient,
  request: TokenRequest,
  { userAgent, memory }: { readonly userAgent: string; readonly memory: DocumentMemory },
): Promise<UpstreamToken> {
  const url = new URL(request.realm);
  if (request.service !== undefined) url.searchParams.set('service', request.service);
  for (const scope of request.scope.split(' ').filter(Boolean)) url.searchParams.append('scope', scope);
  const what = `token for ${new URL(request.endpoint).host}`;
  const authorization = request.credential && basicAuthorization(request.credential);
  const headers = { accept: 'application/json', 'accept-encoding': 'identity', 'user-agent': userAgent };
  const { response } = await follow(client, { method: 'GET', url, headers, authorization }).catch(
    (error: unknown) => {
      throw unreachable(error, what, undefined);
    },
  );
  if (response.status !== 200) throw await refusal(response, request, what);
  const context = { url, what, signal: undefined, endpoint: undefined, memory };
  const token = parseToken(await collect(response, MAX_TOKEN_BYTES, context));
  if (token === undefined)
    throw new UpstreamFailure('invalid', `${what}: ${url.host} did not send a valid token`);
  return token;
}

async function refusal(
  response: HttpResponse,
  request: TokenRequest,
  what: string,
): Promise<UpstreamFailure> {
  const { status } = response;
  const said = await errorTextOf(response);
  const words = said?.text ?? `status ${status}`;
  const message = `${what}: ${request.realm.host} says ${words}`;
  const retryAfterMs = parseRetryAfter([response.headers['retry-after']].flat()[0], Date.now());
  if (isRateRefusal(status, { code: said?.code, retryAfterMs })) {
    return new UpstreamFailure('limited', message, { status, retryAfterMs });
  }
  // 401 refuses the credential itself; 403 only what is requested.
  if (status === 401 && request.credential !== undefined)
    return new UpstreamFailure('refused', message, { status });
  if (status === 401 || status === 403) return new UpstreamFailure('denied', message, { status });
  return new UpstreamFailure(status >= 500 ? 'unavailable' : 'invalid', message, { status });
}

function parseToken(bytes: Buffer): UpstreamToken | undefined {
  const answer = parseJsonObject(bytes);
  const value = answer?.['token'] ?? answer?.['access_token'];
  // It is sent in a header as it is.
  if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) return undefined;
  const expiresInS = answer?.['expires_in'];
  const lifetimeS = typeof expiresInS === 'number' && expiresInS > 0 ? expiresInS : DEFAULT_LIFETIME_S;
  return { value, lifetimeMs: Math.min(lifetimeS, MAX_LIFETIME_S) * 1000 };
}
