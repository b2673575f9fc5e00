import { createHash } from 'node:crypto';
import { type Digest, digestAlgorithm, digestHex, isDigest } from '../../oci/digest.ts';

/** The beginning of a Fill's key, with the upstream. */
const FILL_PREFIX = /^fill-[0-9a-f]+-/;
/** The beginning of a key of parts, with the source. */
const PARTS_PREFIX = /^part\d-[0-9a-f]+-/;

/**
 * The key of a Fill's ingest and Lease. Names of upstreams have characters that a key may not have, so they are hashed.
 */
export function fillKey(upstream: string, digest: Digest): string {
  return `fill-${hashed(upstream)}-${digestAlgorithm(digest)}-${digestHex(digest)}`;
}

/**
 * The key of the parts of a blob. `source` is where they come from, and for whom; processes that keep some at the same time
 * differ in `slot`.
 */
export function partsKey(source: string, digest: Digest, slot = 0): string {
  return `part${slot}-${hashed(source)}-${digestAlgorithm(digest)}-${digestHex(digest)}`;
}

/** The digest in a key; `undefined` if it is not one of a Fill. */
export function digestInFillKey(key: string): Digest | undefined {
  return digestAfter(FILL_PREFIX, key);
}

/** The digest in a key; `undefined` if it is not one of parts. */
export function digestInPartsKey(key: string): Digest | undefined {
  return digestAfter(PARTS_PREFIX, key);
}

function digestAfter(prefix: RegExp, key: string): Digest | undefined {
  const digest = prefix.test(key) ? key.replace(prefix, '').replace('-', ':') : '';
  return isDigest(digest) ? digest : undefined;
}

function hashed(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
