import type { OutgoingHttpHeaders } from 'node:http';
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Digest } from '../oci/digest.ts';
import type { PullSource, Served, ServedBlob } from '../oci/pull-source.ts';
import { answer } from './answer.ts';
import { type BlobBody, bodyFor, multipartBytes, requireInOrder, wantOf } from './blob-parts.ts';
import type { BodyWriter } from './body-writer.ts';
import { cacheStatus } from './cache-status.ts';
import { entityTag, isNotModified, rangeHeader } from './conditional.ts';
import type { BlobCall } from './hosted-handlers.ts';
import type { WholeBodies } from './whole-bodies.ts';

const CONTENT_TYPE = 'application/octet-stream';

/** GET and HEAD of a blob (distribution spec, "Pulling blobs"), with ranges. */
export async function readBlob(
  call: BlobCall,
  source: PullSource,
  { writer, bodies }: { readonly writer: BodyWriter; readonly bodies: WholeBodies },
): Promise<void> {
  const { exchange, repository, digest, right } = call;
  const notModified = isNotModified(exchange.req, digest);
  // HEAD, or a client that has the bytes, is no reason to download them.
  if (exchange.bodyless || notModified) {
    const stat = await exchange.inTime(source.statBlob(repository, digest, right));
    exchange.note(stat);
    const headers = blobHeaders(stat.digest, stat);
    if (notModified) return answer(exchange, 304, headers);
    const body = bodyFor(rangeHeader(exchange.req, digest), stat.size, CONTENT_TYPE);
    exchange.contentRange = contentRangeOf(body);
    return answer(exchange, body.status, { ...headers, ...body.headers });
  }
  const range = rangeHeader(exchange.req, digest);
  const want = range === undefined ? undefined : wantOf(range);
  const blob = await exchange.inTime(source.openBlob(repository, digest, right, want), closeLate);
  exchange.note(blob);
  const { reader } = blob;
  const body = await orClose(reader, () => {
    const asked = bodyFor(range, reader.size, CONTENT_TYPE);
    if (!blob.stored) requireInOrder(asked);
    return asked;
  });
  const { status, parts, framing, length } = body;
  // Clients that ask for several ranges rely on an answer in parts, which object stores do not give.
  if (reader.url !== undefined && framing === undefined) return redirect(exchange, reader, reader.url);
  exchange.contentRange = contentRangeOf(body);
  const headers = { ...blobHeaders(blob.digest, blob), ...body.headers };
  const { bytes } = reader;
  if (bytes === undefined) return writer.write(exchange, { status, headers, reader, parts, framing });
  await reader.close();
  if (framing !== undefined) {
    const compose = () => multipartBytes(parts, framing, bytes);
    return bodies.sendComposed(exchange, { status, headers, length, compose });
  }
  return bodies.send(exchange, { status, headers, bytes, part: parts[0], digest });
}

/** As in `Exchange`; `undefined` for the whole blob. */
function contentRangeOf({ headers, framing }: BlobBody): string | undefined {
  return framing === undefined ? headers['Content-Range']?.toString() : 'multipart/byteranges';
}

/** Sends the client to where it may read the bytes itself, by a request with the same headers. */
async function redirect(
  exchange: BlobCall['exchange'],
  reader: BlobReader,
  url: () => Promise<string>,
): Promise<void> {
  try {
    // Each client gets a URL of its own, so none may be kept for others.
    return answer(exchange, 307, { Location: await url(), 'Cache-Control': 'no-store' });
  } finally {
    await reader.close();
  }
}

/** The result of `act`; closes the reader if it throws. */
async function orClose<Result>(reader: BlobReader, act: () => Result): Promise<Result> {
  try {
    return act();
  } catch (error) {
    await reader.close();
    throw error;
  }
}

function blobHeaders(digest: Digest, served: Served): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {
    'Content-Type': CONTENT_TYPE,
    'Docker-Content-Digest': digest,
    ETag: entityTag(digest),
    'Accept-Ranges': 'bytes',
  };
  const status = cacheStatus(served);
  if (status !== undefined) headers['Cache-Status'] = status;
  return headers;
}

function closeLate({ reader }: ServedBlob): void {
  reader.close().catch(() => {});
}
