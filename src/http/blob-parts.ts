import { randomBytes } from 'node:crypto';
import type { OutgoingHttpHeaders } from 'node:http';
import { type ByteRange, parseByteRanges } from '../lib/byte-range.ts';
import type { Extent } from '../lib/extents.ts';
import { OciError } from '../oci/errors.ts';
import type { BlobWant } from '../oci/pull-source.ts';

/** Some bytes of a blob, and what is sent before them. */
export interface BlobPart {
  readonly start: number;
  readonly length: number;
  /** The header of a part in a multipart body. */
  readonly head?: Uint8Array;
}

/** The body of a response to a request for a blob. */
export interface BlobBody {
  readonly status: 200 | 206;
  /** Content-Range, or the Content-Type of a multipart body; with Content-Length. */
  readonly headers: OutgoingHttpHeaders;
  readonly parts: readonly BlobPart[];
  /** The end of a multipart body. */
  readonly tail?: Uint8Array;
}

/**
 * What lazy clients ask for at once: containers/storage sends at most 1,024 ranges, and halves its list when it is
 * refused with 400. Each part costs a page and a header.
 */
const MAX_RANGES = 1_024;

/** 96 bits: it does not occur in a blob by chance. */
const BOUNDARY_BYTES = 12;

const NOTHING = new Uint8Array();

/**
 * What a `Range` header (RFC 9110 §14.2) requests of a blob: the whole, a range, or several as `multipart/byteranges`,
 * one part for each in the order of the header. Clients count these, so ranges are never merged. Throws RANGE_INVALID
 * if none of them is in the blob or they overlap so much that they exceed it, and QUERY_INVALID if they are too many:
 * who asks for ranges does not want the whole.
 */
export function bodyFor(rangeHeader: string | undefined, size: number, contentType: string): BlobBody {
  const ranges = parseByteRanges(rangeHeader, size);
  if (ranges === undefined) {
    return { status: 200, headers: { 'Content-Length': size }, parts: [{ start: 0, length: size }] };
  }
  if (ranges === 'unsatisfiable') throw unsatisfiable(size);
  const [first, ...others] = ranges;
  if (first !== undefined && others.length === 0) {
    const headers = { 'Content-Range': contentRange(first, size), 'Content-Length': lengthOf(first) };
    return { status: 206, headers, parts: [{ start: first.start, length: lengthOf(first) }] };
  }
  if (ranges.length > MAX_RANGES) {
    throw new OciError('QUERY_INVALID', { message: `at most ${MAX_RANGES} ranges may be requested at once` });
  }
  if (ranges.reduce((sum, range) => sum + lengthOf(range), 0) > size) throw unsatisfiable(size);
  return multipart(ranges, size, contentType);
}

/**
 * Throws QUERY_INVALID unless each part begins where the one before ends, or later: the bytes of a blob that is not stored
 * come from upstream in order, and are gone then. Clients that are refused so ask for fewer ranges at once.
 */
export function requireInOrder({ parts }: Pick<BlobBody, 'parts'>): void {
  let end = 0;
  for (const { start, length } of parts) {
    if (start < end) {
      throw new OciError('QUERY_INVALID', {
        message: 'the blob is not stored, so several ranges of it have to be in order, and must not overlap',
      });
    }
    end = start + length;
  }
}

/**
 * A range without an end (`bytes=500-`) is the rest of a whole pull, as of containerd when it resumes one, or splits it into
 * parts that each break off. However short it is, its last bytes are not sent before the whole is verified.
 */
const WITHOUT_END = /^bytes\s*=[\s,]*\d+\s*-[\s,]*$/i;
const NAMED_FIRST = /^bytes\s*=[\s,]*(\d{1,15})\s*-\s*(\d{1,15})\s*(?:,|$)/i;

/** The bytes that a `Range` header requests. It throws as `bodyFor`. */
export function wantOf(rangeHeader: string): BlobWant {
  return Object.assign((size: number) => wantedBy(rangeHeader, size), { first: firstNamed(rangeHeader) });
}

/** The first range of the header if it has both ends. */
function firstNamed(rangeHeader: string): Extent | undefined {
  const [, start, end] = NAMED_FIRST.exec(rangeHeader) ?? [];
  return start === undefined || Number(end) < Number(start)
    ? undefined
    : { start: Number(start), end: Number(end) + 1 };
}

function wantedBy(rangeHeader: string, size: number): readonly Extent[] | undefined {
  const { status, parts } = bodyFor(rangeHeader, size, '');
  const wanted = parts.map(({ start, length }) => ({ start, end: start + length }));
  return status === 200 || WITHOUT_END.test(rangeHeader) ? undefined : wanted;
}

/** The multipart body of a blob that is in memory. */
export function multipartBytes({ parts, tail = NOTHING }: BlobBody, blob: Uint8Array): Uint8Array {
  const pieces = parts.flatMap(({ head = NOTHING, start, length }) => [
    head,
    blob.subarray(start, start + length),
  ]);
  return Buffer.concat([...pieces, tail]);
}

/** How many bytes the body has. */
export function bodyLength({ parts, tail = NOTHING }: Pick<BlobBody, 'parts' | 'tail'>): number {
  return parts.reduce((sum, { head = NOTHING, length }) => sum + head.byteLength + length, tail.byteLength);
}

function multipart(ranges: readonly ByteRange[], size: number, contentType: string): BlobBody {
  const boundary = randomBytes(BOUNDARY_BYTES).toString('hex');
  const parts = ranges.map((range, at) => ({
    start: range.start,
    length: lengthOf(range),
    head: Buffer.from(
      `${at === 0 ? '' : '\r\n'}--${boundary}\r\n` +
        `Content-Type: ${contentType}\r\nContent-Range: ${contentRange(range, size)}\r\n\r\n`,
    ),
  }));
  const tail = Buffer.from(`\r\n--${boundary}--\r\n`);
  const headers = {
    'Content-Type': `multipart/byteranges; boundary=${boundary}`,
    'Content-Length': bodyLength({ parts, tail }),
  };
  return { status: 206, headers, parts, tail };
}

function unsatisfiable(size: number): OciError {
  return new OciError('RANGE_INVALID', {
    detail: { size },
    headers: { 'Content-Range': `bytes */${size}` },
  });
}

function contentRange({ start, end }: ByteRange, size: number): string {
  return `bytes ${start}-${end}/${size}`;
}

function lengthOf({ start, end }: ByteRange): number {
  return end - start + 1;
}
