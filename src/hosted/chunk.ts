import type { Readable } from 'node:stream';
import type { Ingest } from '../blobs/blob-store.ts';
import { OciError } from '../oci/errors.ts';
import { parseContentRange, uploadRange } from './content-range.ts';
import { BODY_IDLE_MS, takeIn } from './request-body.ts';

/** A request's body, and what its headers say of it. */
export interface Chunk {
  readonly body: Readable;
  readonly contentRange: string | undefined;
  /** Content-Length; `undefined` when the body is sent in pieces of unknown number. */
  readonly contentLength: number | undefined;
}

/** Where a chunk goes. */
export type ChunkIngest = Pick<Ingest, 'offset' | 'write' | 'truncate'>;

/**
 * Appends the body of a PATCH: RANGE_INVALID when it is not what comes next. A chunk that is not what its Content-Range
 * says leaves no trace; one whose client left is kept as far as it came.
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
 * Appends the body of a PUT. One without Content-Range is tried again from its own start, not from where it broke, so
 * what came of it is taken back.
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

/** What Content-Range says, once it fits to `offset` and Content-Length; without one, nobody knows. */
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
