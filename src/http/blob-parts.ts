import { randomBytes } from 'node:crypto';
import type { OutgoingHttpHeaders } from 'node:http';
import { parseByteRanges } from '../lib/byte-range.ts';
import type { Extent } from '../lib/extents.ts';
import { OciError } from '../oci/errors.ts';
import type { BlobWant } from '../oci/pull-source.ts';

/** Some bytes of a blob. */
export interface BlobPart {
  readonly start: number;
  readonly length: number;
}

/** What is sent around the parts of a multipart body, made as it is sent: a thousand headers need not wait for a slow client. */
export interface Framing {
  /** Before the part, of which `at` is the index. */
  readonly head: (part: BlobPart, at: number) => Uint8Array;
  /** After the last one. */
  readonly tail: () => Uint8Array;
}

/** The body of a response to a request for a blob. */
export interface BlobBody {
  readonly status: 200 | 206;
  /** Content-Range, or the Content-Type of a multipart body; with Content-Length. */
  readonly headers: OutgoingHttpHeaders;
  readonly parts: readonly BlobPart[];
  /** If it is multipart. */
  readonly framing?: Framing;
  /** How many bytes it has. */
  readonly length: number;
}

/**
 * What lazy clients ask for at once: containers/storage sends at most 1,024 ranges, and halves its list when it is
 * refused with 400.
 */
const MAX_RANGES = 1_024;

/** 96 bits: it does not occur in a blob by chance. */
const BOUNDARY_BYTES = 12;

/**
 * What a `Range` header (RFC 9110 §14.2) requests of a blob: the whole, a range, or several as `multipart/byteranges`,
 * one part for each in the order of the header. Clients count these, so ranges are never merged. Throws RANGE_INVALID
 * if none of them is in the blob or they overlap so much that they exceed it, and QUERY_INVALID if they are too many:
 * who asks for ranges does not want the whole.
 */
export function bodyFor(rangeHeader: string | undefined, size: number, contentType: string): BlobBody {
  const parts = partsFor(rangeHeader, size);
  if (parts === undefined) {
    const whole = { start: 0, length: size };
    return { status: 200, headers: { 'Content-Length': size }, parts: [whole], length: size };
  }
  const [first, ...others] = parts;
  if (first === undefined || others.length > 0) return multipart(parts, size, contentType);
  const headers = { 'Content-Range': contentRange(first, size), 'Content-Length': first.length };
  return { status: 206, headers, parts, length: first.length };
}

/** As `bodyFor`; `undefined` for the whole. */
function partsFor(rangeHeader: string | undefined, size: number): readonly BlobPart[] | undefined {
  const ranges = parseByteRanges(rangeHeader, size);
  if (ranges === undefined) return undefined;
  if (ranges === 'unsatisfiable') throw unsatisfiable(size);
  if (ranges.length > MAX_RANGES) {
    throw new OciError('QUERY_INVALID', { message: `at most ${MAX_RANGES} ranges may be requested at once` });
  }
  const parts = ranges.map(({ start, end }) => ({ start, length: end - start + 1 }));
  if (parts.reduce((sum, { length }) => sum + length, 0) > size) throw unsatisfiable(size);
  return parts;
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
  const parts = partsFor(rangeHeader, size);
  if (parts === undefined || WITHOUT_END.test(rangeHeader)) return undefined;
  return parts.map(({ start, length }) => ({ start, end: start + length }));
}

/** The multipart body of a blob that is in memory. */
export function multipartBytes(
  parts: readonly BlobPart[],
  { head, tail }: Framing,
  blob: Uint8Array,
): Uint8Array {
  const pieces = parts.flatMap((part, at) => {
    const { start, length } = part;
    return [head(part, at), blob.subarray(start, start + length)];
  });
  return Buffer.concat([...pieces, tail()]);
}

function multipart(parts: readonly BlobPart[], size: number, contentType: string): BlobBody {
  const boundary = randomBytes(BOUNDARY_BYTES).toString('hex');
  const head = (part: BlobPart, at: number): string =>
    `${at === 0 ? '' : '\r\n'}--${boundary}\r\n` +
    `Content-Type: ${contentType}\r\nContent-Range: ${contentRange(part, size)}\r\n\r\n`;
  const tail = `\r\n--${boundary}--\r\n`;
  const length = parts.reduce((sum, part, at) => sum + head(part, at).length + part.length, tail.length);
  const headers = { 'Content-Type': `multipart/byteranges; boundary=${boundary}`, 'Content-Length': length };
  const framing = {
    head: (part: BlobPart, at: number) => Buffer.from(head(part, at)),
    tail: () => Buffer.from(tail),
  };
  return { status: 206, headers, parts, framing, length };
}

function unsatisfiable(size: number): OciError {
  return new OciError('RANGE_INVALID', {
    detail: { size },
    headers: { 'Content-Range': `bytes */${size}` },
  });
}

function contentRange({ start, length }: BlobPart, size: number): string {
  return `bytes ${start}-${start + length - 1}/${size}`;
}
