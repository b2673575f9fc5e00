import { nextLink } from '../lib/link-header.ts';
import { parseUrl } from '../lib/url.ts';
import { type Digest, digestAlgorithm, digestHex } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { OciError } from '../oci/errors.ts';
import { MAX_INDEX_ENTRIES, MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { OCI_INDEX } from '../oci/media-types.ts';
import type { Ask, FetchedReferrers } from './answers.ts';
import { collect, discard, headerOf } from './body.ts';
import type { Endpoint } from './endpoints.ts';
import { UpstreamFailure } from './failures.ts';
import { fetchManifest } from './manifests.ts';
import { referrersPath } from './names.ts';
import type { Reply } from './transport.ts';

/** The pages are stored as one index, so together they must keep to its limits; small pages have 4 KiB. */
const MAX_PAGES = 100;
/** How registries without the referrers API answer; 404 is the spec's way. */
const MISSING: readonly number[] = [400, 404, 405];
/** distribution-spec, "Referrers Tag Schema": both parts are truncated so that the result is a valid tag. */
const MAX_ALGORITHM_LENGTH = 32;
const MAX_ENCODED_LENGTH = 64;

/** See `Upstream.fetchReferrers`. */
export async function fetchReferrers(
  endpoint: Endpoint,
  repository: string,
  subject: Digest,
  ask: Ask,
): Promise<FetchedReferrers> {
  const path = referrersPath(repository, subject);
  const pages: string[] = [];
  let count = 0;
  let left = MAX_MANIFEST_BYTES;
  let query = '';
  for (let page = 0; page < MAX_PAGES; page += 1) {
    const headers = { accept: OCI_INDEX };
    const reply = await endpoint.send(
      { method: 'GET', repository, path: path + query, headers },
      ask,
      MISSING,
    );
    if (MISSING.includes(reply.response.status)) {
      discard(reply.response.body);
      if (page === 0) return fetchTagged(endpoint, repository, subject, ask);
      throw broken(reply, 'no longer has the rest of a list');
    }
    const bytes = await collect(reply.response, left, reply.context);
    left -= bytes.length;
    const entries = await entriesOf(bytes, OCI_INDEX, reason =>
      broken(reply, `sent a list of referrers that ${reason}`),
    );
    pages.push(entries.text);
    count += entries.count;
    if (count > MAX_INDEX_ENTRIES) {
      throw broken(reply, `lists more than ${MAX_INDEX_ENTRIES} referrers`);
    }
    const next = nextLink(headerOf(reply.response, 'link'));
    if (next === undefined) return { ...indexOf(pages), proof: endpoint.index === 0 };
    // Only the query of a link is used, with the original path: upstream does not decide where to ask.
    query = parseUrl(next, reply.url)?.search ?? '';
    if (query === '') throw broken(reply, 'names a next page without an address');
  }
  throw new UpstreamFailure('invalid', `${repository}: the list of referrers does not end`, {
    endpoint: endpoint.index,
  });
}

/** Without the API, a tag is derived from the subject's digest. If it does not exist, there are no referrers. */
async function fetchTagged(
  endpoint: Endpoint,
  repository: string,
  subject: Digest,
  ask: Ask,
): Promise<FetchedReferrers> {
  try {
    const { manifest, proof } = await fetchManifest(endpoint, repository, referrersTag(subject), ask);
    await entriesOf(
      manifest.bytes,
      manifest.mediaType,
      reason =>
        new UpstreamFailure('invalid', `${repository}: the list of referrers ${reason}`, {
          endpoint: endpoint.index,
        }),
    );
    return { mediaType: manifest.mediaType, bytes: manifest.bytes, proof };
  } catch (error) {
    if (!(error instanceof UpstreamFailure) || error.kind !== 'unknown') throw error;
    return { ...indexOf([]), proof: false };
  }
}

/** The tag under which the referrers of `subject` are listed. */
export function referrersTag(subject: Digest): string {
  const algorithm = digestAlgorithm(subject).slice(0, MAX_ALGORITHM_LENGTH);
  return `${algorithm}-${digestHex(subject).slice(0, MAX_ENCODED_LENGTH)}`;
}

/** The entries of an index. An invalid one is upstream's fault; `failed` makes the failure of the reason. */
async function entriesOf(
  bytes: Uint8Array,
  mediaType: string,
  failed: (reason: string) => UpstreamFailure,
): Promise<{ readonly text: string; readonly count: number }> {
  try {
    return await documents.ask('entries', bytes, mediaType);
  } catch (error) {
    const isTheirs = error instanceof OciError && error.code !== 'UNAVAILABLE';
    throw isTheirs ? failed(`cannot be read: ${error.message}`) : error;
  }
}

function broken({ context }: Reply, how: string): UpstreamFailure {
  return new UpstreamFailure('invalid', `${context.what}: ${context.url.host} ${how}`, context);
}

function indexOf(pages: readonly string[]): { mediaType: string; bytes: Uint8Array } {
  const entries = pages.filter(page => page !== '').join(',');
  const bytes = Buffer.from(`{"schemaVersion":2,"mediaType":"${OCI_INDEX}","manifests":[${entries}]}`);
  return { mediaType: OCI_INDEX, bytes };
}
