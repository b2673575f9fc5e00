import type { OutgoingHttpHeaders } from 'node:http';
import { OciError } from '../oci/errors.ts';
import type { Exchange } from './exchange.ts';

/** Docker's clients probe for it; the distribution spec calls it legacy and harmless. */
const API_VERSION = 'registry/2.0';

/** `headers` with what every answer carries. Adds to the object that it is given. */
export function withCommonHeaders(exchange: Exchange, headers: OutgoingHttpHeaders): OutgoingHttpHeaders {
  headers['Docker-Distribution-API-Version'] = API_VERSION;
  // Content is whatever somebody pushed: a browser must not guess that it is a page.
  headers['X-Content-Type-Options'] = 'nosniff';
  if (exchange.namespace !== undefined) headers['OCI-Namespace'] = exchange.namespace;
  if (exchange.closing) headers['Connection'] = 'close';
  return headers;
}

/**
 * Writes a whole answer whose body, if any, is in memory. Content-Length is the body's unless `headers` has one, as for
 * HEAD of a blob. For HEAD the body is not sent.
 */
export function answer(
  exchange: Exchange,
  status: number,
  headers: OutgoingHttpHeaders,
  body?: Uint8Array | string,
): void {
  const { res } = exchange;
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  // RFC 9110 §8.6: no Content-Length with 204, and with 304 only the one that a 200 would have had.
  if (status !== 204 && status !== 304) headers['Content-Length'] ??= bytes?.byteLength ?? 0;
  res.writeHead(status, withCommonHeaders(exchange, headers));
  if (bytes === undefined || exchange.bodyless) {
    res.end();
    return;
  }
  res.end(bytes, () => {
    exchange.bytesSent = bytes.byteLength;
  });
}

/** A JSON document as the whole answer. */
export function answerJson(
  exchange: Exchange,
  status: number,
  headers: OutgoingHttpHeaders,
  document: unknown,
): void {
  headers['Content-Type'] ??= 'application/json; charset=utf-8';
  answer(exchange, status, headers, JSON.stringify(document));
}

/**
 * A path of ours for `Location` and `Link`, relative to the server and with the `ns` that the client used:
 * `pathTo(exchange, 'team-a/app', 'tags/list', {n: '5'})`.
 */
export function pathTo(
  exchange: Exchange,
  name: string,
  rest: string,
  query: Readonly<Record<string, string | undefined>> = {},
): string {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined) parameters.set(key, value);
  }
  const namespace = exchange.query.get('ns');
  if (namespace !== null) parameters.set('ns', namespace);
  const text = parameters.toString();
  return `/v2/${name}/${rest}${text === '' ? '' : `?${text}`}`;
}

/** Largest page of a listing: at 255 bytes an entry well under a megabyte, whatever `n` asks for. */
export const MAX_PAGE_ENTRIES = 1000;

/** Longest `last` that can be the end of a page: a repository's name. */
const MAX_LAST_LENGTH = 255;

/**
 * `n` and `last` (distribution spec, "Listing Tags"), with what `open` makes of a `last` that is no name. `limit` 0 means
 * that the client asked for nothing.
 */
export function pageOf(
  query: URLSearchParams,
  open: (last: string) => string = last => last,
): { limit: number; after: string | undefined } {
  const n = query.get('n');
  if (n !== null && !/^\d+$/.test(n)) {
    throw new OciError('PAGINATION_NUMBER_INVALID', {
      message: 'n must be a whole number of at least 0',
      detail: { n: n.slice(0, 40) },
    });
  }
  const given = query.get('last');
  const last = given === null ? undefined : open(given);
  if (last !== undefined && last.length > MAX_LAST_LENGTH) {
    throw new OciError('QUERY_INVALID', { message: `last is longer than ${MAX_LAST_LENGTH} characters` });
  }
  return {
    limit: n === null ? MAX_PAGE_ENTRIES : Math.min(Number(n), MAX_PAGE_ENTRIES),
    after: last,
  };
}
