import type { OutgoingHttpHeaders } from 'node:http';
import { Lru } from '../lib/lru.ts';
import { isDigest } from '../oci/digest.ts';
import type { ManifestWant, PullSource } from '../oci/pull-source.ts';
import { notConfirmed } from '../oci/reasons.ts';
import { answer } from './answer.ts';
import { cacheStatus } from './cache-status.ts';
import { entityTag, isNotModified } from './conditional.ts';
import type { ManifestCall } from './hosted-handlers.ts';
import { warning } from './warning.ts';
import type { WholeBodies } from './whole-bodies.ts';

/** GET and HEAD of a manifest (distribution spec, "Pulling manifests"). */
export async function readManifest(
  call: ManifestCall,
  source: PullSource,
  bodies: WholeBodies,
): Promise<void> {
  const { exchange, repository, reference, right } = call;
  const want = new AcceptedTypes(exchange.req.headers.accept, exchange.query.get('platform') ?? undefined);
  const served = await exchange.inTime(source.manifest(repository, reference, right, want));
  exchange.note(served);

  const { digest, mediaType } = served.descriptor;
  const headers: OutgoingHttpHeaders = { 'Docker-Content-Digest': digest, ETag: entityTag(digest) };
  const status = cacheStatus(served);
  if (status !== undefined) headers['Cache-Status'] = status;
  if (served.outcome === 'stale') headers['Warning'] = warning(notConfirmed(repository, reference));
  // Which child of an index a tag means may depend on Accept; a digest does not depend on it.
  if (!isDigest(reference)) headers['Vary'] = 'Accept';
  if (isNotModified(exchange.req, digest)) {
    return answer(exchange, 304, headers);
  }
  headers['Content-Type'] = mediaType;
  if (!exchange.bodyless) exchange.pulled = served.descriptor;
  return bodies.send(exchange, { status: 200, headers, bytes: served.bytes, digest });
}

/**
 * The media types that `Accept` allows (RFC 9110 §12.5.1). Parsed only when needed: most requests accept everything.
 */
class AcceptedTypes implements ManifestWant {
  readonly platform: string | undefined;
  readonly #accept: string | undefined;
  #ranges: ReadonlyMap<string, boolean> | undefined;

  constructor(accept: string | undefined, platform: string | undefined) {
    this.#accept = accept;
    this.platform = platform;
  }

  accepts(mediaType: string): boolean {
    if (this.#accept === undefined || this.#accept.trim() === '') return true;
    this.#ranges ??= rangesOf(this.#accept);
    const type = mediaType.toLowerCase();
    const family = `${type.slice(0, type.indexOf('/'))}/*`;
    // The most specific range decides: `*, application/x;q=0` means everything but that type.
    return this.#ranges.get(type) ?? this.#ranges.get(family) ?? this.#ranges.get('*/*') ?? false;
  }
}

/** The headers of some versions of each client. */
const MAX_REMEMBERED = 100;
const MAX_REMEMBERED_LENGTH = 1_000;

const remembered = new Lru<ReadonlyMap<string, boolean>>({ maxEntries: MAX_REMEMBERED });

function rangesOf(accept: string): ReadonlyMap<string, boolean> {
  const known = remembered.get(accept);
  if (known !== undefined) return known;
  const ranges = parseAccept(accept);
  if (accept.length <= MAX_REMEMBERED_LENGTH) remembered.set(accept, ranges);
  return ranges;
}

/** Media ranges in lower case, and whether their weight is above 0. Other parameters are ignored. */
function parseAccept(accept: string): Map<string, boolean> {
  const ranges = new Map<string, boolean>();
  for (const entry of accept.split(',')) {
    const [range = '', ...parameters] = entry.split(';').map(part => part.trim().toLowerCase());
    if (range !== '') ranges.set(range, !parameters.some(parameter => /^q=0(?:\.0*)?$/.test(parameter)));
  }
  return ranges;
}
