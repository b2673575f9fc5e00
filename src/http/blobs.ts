import type { OutgoingHttpHeaders } from 'node:http';
import { parseByteRange } from '../lib/byte-range.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { PullSource, Served, ServedBlob } from '../oci/pull-source.ts';
import { answer } from './answer.ts';
import type { BodyWriter, StreamedAnswer } from './body-writer.ts';
import { cacheStatus } from './cache-status.ts';
import { entityTag, isNotModified, rangeHeader } from './conditional.ts';
import type { BlobCall } from './hosted-handlers.ts';
import type { WholeBodies } from './whole-bodies.ts';

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
    if (!notModified) headers['Content-Length'] = stat.size;
    answer(exchange, notModified ? 304 : 200, headers);
    return;
  }
  const blob = await exchange.inTime(source.openBlob(repository, digest, right), closeLate);
  exchange.note(blob);
  const streamed = await streamedAnswer(call, blob);
  const { status, headers, start, length, reader } = streamed;
  const { bytes } = reader;
  if (bytes === undefined) await writer.write(exchange, streamed);
  else await bodies.send(exchange, { status, headers, bytes, part: { start, length }, digest });
}

/** The whole blob, or the requested range. */
async function streamedAnswer({ exchange }: BlobCall, blob: ServedBlob): Promise<StreamedAnswer> {
  const { digest, reader } = blob;
  const headers = blobHeaders(digest, blob);
  const range = parseByteRange(rangeHeader(exchange.req, digest), reader.size);
  if (range === undefined) return { status: 200, headers, reader, start: 0, length: reader.size };
  if (range === 'unsatisfiable') {
    await reader.close();
    throw new OciError('RANGE_INVALID', {
      detail: { size: reader.size },
      headers: { 'Content-Range': `bytes */${reader.size}` },
    });
  }
  const { start, end } = range;
  headers['Content-Range'] = `bytes ${start}-${end}/${reader.size}`;
  return { status: 206, headers, reader, start, length: end - start + 1 };
}

function blobHeaders(digest: Digest, served: Served): OutgoingHttpHeaders {
  const headers: OutgoingHttpHeaders = {
    'Content-Type': 'application/octet-stream',
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
