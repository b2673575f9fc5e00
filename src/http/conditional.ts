import type { IncomingMessage } from 'node:http';
import type { Digest } from '../oci/digest.ts';

/** A strong entity tag: equal digests are equal bytes. */
export function entityTag(digest: Digest): string {
  return `"${digest}"`;
}

/** Whether `If-None-Match` includes the digest, so that the response is 304. RFC 9110 §13.1.2: a weak comparison. */
export function isNotModified(req: IncomingMessage, digest: Digest): boolean {
  const header = req.headers['if-none-match'];
  if (header === undefined) return false;
  return header.split(',').some(entry => {
    const tag = entry.trim().replace(/^W\//, '');
    return tag === '*' || tag === entityTag(digest);
  });
}

/**
 * The `Range` header, unless `If-Range` is another entity tag (RFC 9110 §13.1.5). Dates never match, since we send
 * none.
 */
export function rangeHeader(req: IncomingMessage, digest: Digest): string | undefined {
  const condition = req.headers['if-range'];
  return condition === undefined || condition === entityTag(digest) ? req.headers.range : undefined;
}
