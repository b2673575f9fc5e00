import type { Readable } from 'node:stream';
import type { Ingest } from '../blobs/spool.ts';
import type { Presence } from '../lib/lease.ts';
import { OciError } from '../oci/errors.ts';
import { parseContentRange, uploadRange } from './content-range.ts';
import { BODY_IDLE_MS, takeIn } from './request-body.ts';

/** A client's request. */
export interface Arrived {
  /** The Presence in which it arrived, to which its effects belong. */
  readonly during: Presence;
}

/** The body of a request, and what its headers say about it. */
export interface Chunk extends Arrived {
  readonly body: Readable;
  readonly contentRange: string | undefined;
  /** Content-Length; `undefined` for a chunked transfer coding. */
  readonly contentLength: number | undefined;
}

/** Where a chunk is written. */
export type ChunkIngest = Pick<Ingest, 'offset' | 'write' | 'truncate'>;

/**
 * Appends the body of a PATCH; RANGE_INVALID if it is not the next chunk. A chunk that contradicts its Content-Range
 * leaves nothing behind; one whose client disconnects is kept as far as it arrived.
 */
export async function takeChunk(
  ingest: ChunkIngest,
  chunk: Chunk,
  idleMs: number = BODY_IDLE_MS,
): Promise<void> {
  const start = ingest.offset;
  const maxBytes = expectedBytes(chunk, start);
  try {
    await takeIn(chunk.body, ingest, { idleMs, maxBytes: maxBytes ?? Number.MAX_SAFE_INTEGER });
    if (maxBytes !== undefined && ingest.offset - start !== maxBytes) {
      throw new OciError('SIZE_INVALID', { message: `the body is shorter than ${maxBytes} bytes` });
    }
  } catch (error) {
    if (error instanceof OciError && error.code === 'SIZE_INVALID') await ingest.truncate(start);
    throw error;
  }
}

/**
 * Appends the body of a PUT. Without Content-Range, a client that retries sends it from its start, so an incomplete
 * body is removed again.
 */
export async function takeLastChunk(
  ingest: ChunkIngest,
  chunk: Chunk,
  idleMs: number = BODY_IDLE_MS,
): Promise<void> {
  const start = ingest.offset;
  try {
    await takeChunk(ingest, chunk, idleMs);
  } catch (error) {
    if (chunk.contentRange === undefined) await ingest.truncate(start);
    throw error;
  }
}

/**
 * The length given by Content-Range, after checking it against `offset` and Content-Length; `undefined` without one.
 */
function expectedBytes({ contentRange, contentLength }: Chunk, offset: number): number | undefined {
  if (contentRange === undefined) return undefined;
  const { start, end } = parseContentRange(contentRange);
  if (start !== offset) {
    throw new OciError('RANGE_INVALID', {
      message: `the chunk starts at byte ${start}, but the upload continues at byte ${offset}`,
      headers: { Range: uploadRange(offset) },
    });
  }
  const bytes = end - start + 1;
  if (contentLength !== undefined && contentLength !== bytes) {
    throw new OciError('SIZE_INVALID', {
      message: `Content-Range says ${bytes} bytes, Content-Length ${contentLength}`,
    });
  }
  return bytes;
}
