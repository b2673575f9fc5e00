import parseRanges from 'range-parser';

/** Both ends are inclusive, as in RFC 9110 §14.1.2. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/**
 * The single range that `header` requests of `size` bytes; 'unsatisfiable' if it begins after the end. `undefined`
 * means the whole: no header, another unit, malformed, or several ranges (no client benefits from a multipart
 * response).
 */
export function parseByteRange(
  header: string | undefined,
  size: number,
): ByteRange | 'unsatisfiable' | undefined {
  // No range of an empty body can be satisfied, yet clients send `bytes=0-` for "everything".
  if (header === undefined || size === 0 || header.includes(',')) return undefined;
  // `bytes=-500` of 300 bytes means all 300; range-parser considers that unsatisfiable.
  const suffix = /^bytes=\s*-(\d+)\s*$/.exec(header);
  if (suffix !== null && Number(suffix[1]) >= size) return { start: 0, end: size - 1 };
  const ranges = parseRanges(size, header);
  if (ranges === -1) return header.startsWith('bytes=') ? 'unsatisfiable' : undefined;
  if (ranges === -2 || ranges.type !== 'bytes') return undefined;
  const [range] = ranges;
  return range === undefined ? undefined : { start: range.start, end: range.end };
}
