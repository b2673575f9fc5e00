import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { pageAligned } from '../../lib/page-aligned.ts';
import type { Ingest } from '../spool.ts';

/** What is sent as an object, or as a part of one. */
export interface Payload {
  /** Bytes. */
  readonly size: number;
  /** The SHA-256 of the bytes in hex: S3 refuses others. */
  readonly sha256: string;
  /** The bytes, again with each call. */
  readonly stream: () => Readable;
}

/** A run of bytes: `end` is the position after the last one. */
export interface ByteSpan {
  readonly start: number;
  readonly end: number;
}

/** How much of an ingest is read at a time. */
const PIECE_BYTES = 256 * 1024;

/** Some bytes in memory. */
export function payloadOfBytes(bytes: Uint8Array): Payload {
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  return { size: bytes.byteLength, sha256, stream: () => Readable.from([bytes]) };
}

/** Some bytes of an ingest, which are read once for their hash, and once more each time they are sent. */
export async function payloadOfIngest(ingest: Ingest, span: ByteSpan): Promise<Payload> {
  const hash = createHash('sha256');
  const size = span.end - span.start;
  const reused = size < PIECE_BYTES ? Buffer.allocUnsafeSlow(size) : pageAligned(PIECE_BYTES);
  for await (const piece of piecesOf(ingest, span, bytes => reused.subarray(0, bytes))) hash.update(piece);
  // Whoever sends a piece keeps it for a while.
  const stream = () =>
    Readable.from(
      piecesOf(ingest, span, bytes => Buffer.allocUnsafeSlow(bytes)),
      { highWaterMark: 1 },
    );
  return { size, sha256: hash.digest('hex'), stream };
}

/** `take` returns the memory for each piece. */
async function* piecesOf(
  ingest: Ingest,
  { start, end }: ByteSpan,
  take: (bytes: number) => Buffer,
): AsyncGenerator<Uint8Array> {
  for (let position = start; position < end; ) {
    const piece = take(Math.min(PIECE_BYTES, end - position));
    const count = await ingest.read(piece, position);
    if (count === 0) throw new Error(`the ingest ends at ${position} of ${end} bytes`);
    yield piece.subarray(0, count);
    position += count;
  }
}
