import { type Digest, digestAlgorithm, digestOf, isDigest } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { essence, MANIFEST_ACCEPT } from '../oci/media-types.ts';
import type { Ask, FetchedManifest, ManifestHead } from './answers.ts';
import { collect, discard, headerOf, lengthOf } from './body.ts';
import type { Endpoint } from './endpoints.ts';
import { UpstreamFailure } from './failures.ts';
import { manifestPath } from './names.ts';
import type { Reply } from './transport.ts';

/** Media types without meaning, as sent by static file servers and object storage. */
const GENERIC_TYPES: ReadonlySet<string> = new Set([
  '',
  'application/json',
  'application/octet-stream',
  'text/plain',
]);

const HEADERS = { accept: MANIFEST_ACCEPT };

/** See `Upstream.headManifest`. */
export async function headManifest(
  endpoint: Endpoint,
  repository: string,
  reference: string,
  ask: Ask,
): Promise<ManifestHead> {
  const path = manifestPath(repository, reference);
  const reply = await endpoint.send({ method: 'HEAD', repository, path, headers: HEADERS }, ask, [405]);
  discard(reply.response.body);
  if (reply.response.status === 405)
    return { digest: undefined, size: undefined, mediaType: undefined, proof: false };
  return {
    digest: announcedDigest(reply),
    size: lengthOf(headerOf(reply.response, 'content-length')),
    mediaType: essence(headerOf(reply.response, 'content-type') ?? '') || undefined,
    proof: endpoint.index === 0 && !reply.redirected,
  };
}

/** See `Upstream.fetchManifest`. */
export async function fetchManifest(
  endpoint: Endpoint,
  repository: string,
  reference: string,
  ask: Ask,
): Promise<FetchedManifest> {
  const path = manifestPath(repository, reference);
  const reply = await endpoint.send({ method: 'GET', repository, path, headers: HEADERS }, ask);
  const bytes = await collect(reply.response, MAX_MANIFEST_BYTES, reply.context);
  const expected = isDigest(reference) ? reference : announcedDigest(reply);
  const digest = digestOf(bytes, expected && digestAlgorithm(expected));
  if (expected !== undefined && digest !== expected) {
    const { what, url } = reply.context;
    throw new UpstreamFailure(
      'invalid',
      `${what}: ${url.host} sent ${digest} for ${expected}`,
      reply.context,
    );
  }
  return {
    manifest: { digest, mediaType: await mediaTypeOf(reply, bytes), bytes },
    proof: endpoint.index === 0,
  };
}

function announcedDigest({ response }: Reply): Digest | undefined {
  const digest = headerOf(response, 'docker-content-digest');
  return digest !== undefined && isDigest(digest) ? digest : undefined;
}

/** The media type of the header or, if that has no meaning, the one in the manifest. */
async function mediaTypeOf(reply: Reply, bytes: Uint8Array): Promise<string> {
  const announced = essence(headerOf(reply.response, 'content-type') ?? '');
  if (!GENERIC_TYPES.has(announced)) return announced;
  const mediaType = await documents.ask('ownMediaType', bytes);
  if (mediaType !== undefined) return mediaType;
  const { what, url } = reply.context;
  throw new UpstreamFailure('invalid', `${what}: ${url.host} did not send a manifest`, reply.context);
}
