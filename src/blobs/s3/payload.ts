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
export async function payloadOfIngest(ingest: Pick<Ingest, 'read'>, span: ByteSpan): Promise<Payload> {
  const hash = createHash('sha256');
  for await (const piece of piecesOf(ingest, span)) hash.update(piece);
  // The next piece is read while the connection takes one; the one after, only once it has been taken.
  const stream = () => Readable.from(piecesOf(ingest, span), { highWaterMark: 1 });
  return { size: span.end - span.start, sha256: hash.digest('hex'), stream };
}

/**
 * Pieces of `PIECE_BYTES`, and the rest. Each is valid until the next but one is requested: new memory for each would make V8 mark
 * its whole heap every few pieces.
 */
async function* piecesOf(ingest: Pick<Ingest, 'read'>, { start, end }: ByteSpan): AsyncGenerator<Uint8Array> {
  const pieceBytes = Math.min(PIECE_BYTES, end - start);
  const pages = [pageOf(pieceBytes), pageOf(end - start > pieceBytes ? pieceBytes : 0)];
  for (let position = start, at = 0; position < end; at = 1 - at) {
    const piece = pages[at]!.subarray(0, end - position);
    for (let filled = 0; filled < piece.length; ) {
      const count = await ingest.read(piece.subarray(filled), position + filled);
      if (count === 0) throw new Error(`the ingest ends at ${position + filled} of ${end} bytes`);
      filled += count;
    }
    yield piece;
    position += piece.length;
  }
}

function pageOf(bytes: number): Buffer {
  return bytes < PIECE_BYTES ? Buffer.allocUnsafeSlow(bytes) : pageAligned(bytes);
}
