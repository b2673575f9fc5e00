import type { OutgoingHttpHeaders } from 'node:http';
import { OciError } from '../oci/errors.ts';
import type { Exchange } from './exchange.ts';
import type { Query } from './query.ts';

/** Docker's clients look for it; the distribution spec calls it legacy and harmless. */
const API_VERSION = 'registry/2.0';

/** Adds the headers that all responses have to `headers`, and returns the same object. */
export function withCommonHeaders(exchange: Exchange, headers: OutgoingHttpHeaders): OutgoingHttpHeaders {
  headers['Docker-Distribution-API-Version'] = API_VERSION;
  // Content is whatever somebody pushed: a browser must not take it for a page.
  headers['X-Content-Type-Options'] = 'nosniff';
  if (exchange.namespace !== undefined) headers['OCI-Namespace'] = exchange.namespace;
  if (exchange.closing) headers['Connection'] = 'close';
  return headers;
}

/**
 * Sends a whole response whose body, if any, is in memory. Content-Length is that of the body unless `headers` has one,
 * as for HEAD of a blob. For HEAD the body is not sent.
 */
export function answer(
  exchange: Exchange,
  status: number,
  headers: OutgoingHttpHeaders,
  body?: Uint8Array | string,
): void {
  const { res } = exchange;
  const bytes = typeof body === 'string' ? Buffer.from(body) : body;
  // RFC 9110 §8.6: no Content-Length with 204, and with 304 only that of the corresponding 200.
  if (status !== 204 && status !== 304) headers['Content-Length'] ??= bytes?.byteLength ?? 0;
  res.writeHead(status, withCommonHeaders(exchange, headers));
  if (bytes === undefined || exchange.bodyless) {
    res.end();
    return;
  }
  exchange.noteByte();
  res.end(bytes, () => {
    if (exchange.isSent) exchange.bytesSent = bytes.byteLength;
  });
}

/** Sends a JSON document as the whole response. */
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
 * A path for `Location` and `Link`, relative to the server and with the client's `ns`: `pathTo(exchange, 'team-a/app',
 * 'tags/list', {n: '5'})`.
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

/** The maximum page size of a listing, whatever `n` says: at 255 bytes an entry, a page is well below a megabyte. */
export const MAX_PAGE_ENTRIES = 1000;

/** The longest valid `last`: a repository name. */
const MAX_LAST_LENGTH = 255;

/**
 * The parameters `n` and `last` (distribution spec, "Listing Tags"). `open` turns a `last` that is not a name into one.
 * A `limit` of 0 means that the client asked for nothing.
 */
export function pageOf(
  query: Query,
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
