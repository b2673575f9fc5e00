import parseRanges from 'range-parser';

/** Both ends are inside, as in RFC 9110 §14.1.2. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/**
 * The one range that `header` asks for of `size` bytes; 'unsatisfiable' if it starts behind the end. `undefined` means
 * to serve everything: no header, another unit, malformed, or several ranges (a multipart answer helps no client).
 */
export function parseByteRange(
  header: string | undefined,
  size: number,
): ByteRange | 'unsatisfiable' | undefined {
  // Nothing can be satisfied of an empty body, yet `bytes=0-` is how clients ask for "all of it".
  if (header === undefined || size === 0 || header.includes(',')) return undefined;
  // `bytes=-500` of 300 bytes are all 300; range-parser calls that unsatisfiable.
  const suffix = /^bytes=\s*-(\d+)\s*$/.exec(header);
  if (suffix !== null && Number(suffix[1]) >= size) return { start: 0, end: size - 1 };
  const ranges = parseRanges(size, header);
  if (ranges === -1) return header.startsWith('bytes=') ? 'unsatisfiable' : undefined;
  if (ranges === -2 || ranges.type !== 'bytes') return undefined;
  const [range] = ranges;
  return range === undefined ? undefined : { start: range.start, end: range.end };
}
