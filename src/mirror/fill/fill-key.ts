import { createHash } from 'node:crypto';
import { type Digest, digestAlgorithm, digestHex, isDigest } from '../../oci/digest.ts';

/** The beginning of a key, with the upstream. */
const PREFIX = /^fill-[0-9a-f]+-/;

/**
 * The key of a Fill's ingest and Lease. Names of upstreams have characters that a key may not have, so they are hashed.
 */
export function fillKey(upstream: string, digest: Digest): string {
  const upstreamKey = createHash('sha256').update(upstream).digest('hex').slice(0, 16);
  return `fill-${upstreamKey}-${digestAlgorithm(digest)}-${digestHex(digest)}`;
}

/** The digest in a key; `undefined` if it is not one of a Fill. */
export function digestInFillKey(key: string): Digest | undefined {
  const digest = PREFIX.test(key) ? key.replace(PREFIX, '').replace('-', ':') : '';
  return isDigest(digest) ? digest : undefined;
}
