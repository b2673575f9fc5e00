import type { Digest } from '../oci/digest.ts';
import type { Ask, BlobAsk, BlobHead, FetchedBlob } from './answers.ts';
import { discard, headerOf, lengthOf, pieces } from './body.ts';
import type { Endpoint } from './endpoints.ts';
import { UpstreamFailure } from './failures.ts';
import { blobEndpoint } from './names.ts';
import type { Reply } from './transport.ts';

/** See `Upstream.headBlob`. */
export async function headBlob(
  endpoint: Endpoint,
  repository: string,
  digest: Digest,
  ask: Ask,
): Promise<BlobHead> {
  const path = blobEndpoint(repository, digest);
  const proof = endpoint.index === 0;
  const head = await endpoint
    .send({ method: 'HEAD', repository, path }, ask, [405])
    .catch((error: unknown) => {
      if (isStorageWithoutHead(error)) return undefined;
      throw error;
    });
  if (head !== undefined) discard(head.response.body);
  if (head?.response.status === 200) return { size: announcedLength(head), proof };
  // From a server without HEAD, the size comes with the first byte.
  const get = await endpoint.send({ method: 'GET', repository, path, headers: { range: 'bytes=0-0' } }, ask);
  get.response.body.on('error', () => {}).destroy();
  return { size: get.response.status === 206 ? rangeOf(get)?.size : announcedLength(get), proof };
}

/** A storage URL that is signed for GET answers HEAD with 403: after a redirect that says nothing about rights. */
function isStorageWithoutHead(error: unknown): boolean {
  return (
    error instanceof UpstreamFailure && error.kind === 'unavailable' && [403, 405].includes(error.status ?? 0)
  );
}

/** See `Upstream.fetchBlob`. */
export async function fetchBlob(
  endpoint: Endpoint,
  repository: string,
  digest: Digest,
  ask: BlobAsk,
): Promise<FetchedBlob> {
  const { offset = 0, length, etag } = ask;
  const last = length === undefined ? '' : offset + length - 1;
  const reply = await endpoint.send(
    {
      method: 'GET',
      repository,
      path: blobEndpoint(repository, digest),
      headers: offset > 0 || length !== undefined ? { range: `bytes=${offset}-${last}` } : {},
      condition: offset > 0 ? etag : undefined,
      isBulk: true,
      isSpare: ask.isSpare,
    },
    ask,
  );
  const { body } = reply.response;
  const destroy = () => {
    body.on('error', () => {}).destroy();
  };
  try {
    const isRanged = offset > 0 || length !== undefined;
    const extent = extentOf(reply, { offset, isRanged, size: ask.size });
    return {
      endpoint: endpoint.index,
      proof: endpoint.index === 0,
      offset: extent.offset,
      isPart: reply.response.status === 206,
      size: extent.size,
      etag: strongTag(reply),
      body: pieces(reply.response, extent.length, reply.context),
      destroy,
    };
  } catch (error) {
    destroy();
    throw error;
  }
}

/**
 * Where the body begins, its length, and the size of the whole blob; throws `invalid` if they contradict each other.
 */
function extentOf(reply: Reply, asked: Pick<BlobAsk, 'size'> & { offset: number; isRanged: boolean }) {
  const { size: named } = asked;
  const { response, context } = reply;
  const refuse = (why: string) =>
    new UpstreamFailure('invalid', `${context.what}: ${context.url.host} ${why}`, context);
  const length = announcedLength(reply);
  let extent: { offset: number; size: number | undefined; length: number | undefined };
  if (response.status === 206) {
    const range = rangeOf(reply);
    if (range === undefined || range.start !== asked.offset)
      throw refuse('sent a different range than requested');
    const rangeLength = range.end - range.start + 1;
    if (length !== undefined && length !== rangeLength) throw refuse('names a range and another length');
    // Without the size, it is not known whether there is more to request.
    if (!asked.isRanged && range.size === undefined && rangeLength !== named)
      throw refuse(
        `sent a range of ${rangeLength} bytes that was not requested, without the size of the blob`,
      );
    extent = { offset: asked.offset, size: range.size, length: rangeLength };
  } else {
    extent = { offset: 0, size: length, length };
  }
  if (named !== undefined && extent.size !== undefined && extent.size !== named) {
    throw refuse(`reports a size of ${extent.size} bytes, not ${named}`);
  }
  return extent;
}

function announcedLength({ response }: Reply): number | undefined {
  return lengthOf(headerOf(response, 'content-length'));
}

/** `Content-Range: bytes 5-9/10` (RFC 9110, 14.4); both ends are inclusive, the size may be `*`. */
function rangeOf({ response }: Reply): { start: number; end: number; size: number | undefined } | undefined {
  const match = /^bytes (\d{1,15})-(\d{1,15})\/(?:(\d{1,15})|\*)$/.exec(
    headerOf(response, 'content-range') ?? '',
  );
  if (match === null) return undefined;
  const [start, end, size] = [Number(match[1]), Number(match[2]), lengthOf(match[3])];
  return start <= end && (size === undefined || end < size) ? { start, end, size } : undefined;
}

/**
 * Only a strong ETag: a weak one may stand for other bytes (RFC 9110, 8.8.1), so it cannot connect two parts of a blob.
 */
function strongTag({ response, url }: Reply): { value: string; origin: string } | undefined {
  const value = headerOf(response, 'etag');
  return value !== undefined && /^"[\x21\x23-\x7e]*"$/.test(value)
    ? { value, origin: url.origin }
    : undefined;
}
