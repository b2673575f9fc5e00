import type { HttpClient, HttpResponse } from '../lib/http-client.ts';
import { parseUrl } from '../lib/url.ts';
import { discard, headerOf } from './body.ts';
import { UpstreamFailure } from './failures.ts';

/** Registries redirect once, to storage; a second redirect, to a region, is known. */
const MAX_REDIRECTS = 5;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

export interface RedirectedRequest {
  readonly method: 'GET' | 'HEAD';
  readonly url: URL;
  /** Sent to every host on the way. */
  readonly headers: Readonly<Record<string, string>>;
  /** Sent only to the host of `url`, and never again after a redirect to another one. */
  readonly authorization?: string | undefined;
  /** `If-Range`, sent only to the host that sent the ETag. */
  readonly condition?: { readonly value: string; readonly origin: string } | undefined;
  readonly signal?: AbortSignal | undefined;
  /** As in HttpRequest. */
  readonly isBulk?: boolean | undefined;
}

/** The response at the end of all redirects. */
export interface Followed {
  readonly response: HttpResponse;
  /** The URL that sent the response. */
  readonly url: URL;
  /** Whether that is another host (scheme, host and port) than the requested one, or was reached through one. */
  readonly crossed: boolean;
  /** Whether it is the response to another request than the original one. */
  readonly redirected: boolean;
}

/** Sends a request and follows redirects, by the rules of which host may see what. */
export async function follow(client: HttpClient, request: RedirectedRequest): Promise<Followed> {
  const { method, authorization, condition, signal, isBulk } = request;
  let { url } = request;
  let crossed = false;
  for (let hops = 0; ; hops += 1) {
    const headers = { ...request.headers };
    if (authorization !== undefined && !crossed) headers['authorization'] = authorization;
    if (condition?.origin === url.origin) headers['if-range'] = condition.value;
    const response = await client.request({ method, url, headers, signal, isBulk });
    if (!REDIRECTS.has(response.status)) return { response, url, crossed, redirected: hops > 0 };
    discard(response.body);
    if (hops === MAX_REDIRECTS)
      throw new UpstreamFailure('invalid', `${request.url.host} redirects too many times`);
    const target = nextHop(url, headerOf(response, 'location'));
    // After a redirect to another host, a request never gets its credential back: that host chose the way back.
    crossed ||= target.origin !== url.origin;
    url = target;
  }
}

function nextHop(from: URL, location: string | undefined): URL {
  const target = location === undefined ? undefined : parseUrl(location, from);
  const refuse = (why: string) => new UpstreamFailure('invalid', `${from.host} redirects ${why}`);
  if (target === undefined) throw refuse('without a valid Location');
  if (target.protocol !== 'https:' && target.protocol !== 'http:') throw refuse(`to ${target.protocol}`);
  if (from.protocol === 'https:' && target.protocol !== 'https:')
    throw refuse(`from https to http at ${target.host}`);
  if (target.username !== '' || target.password !== '') throw refuse('to an address with a user name');
  return target;
}
