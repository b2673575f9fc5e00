/** Both ends are inclusive, as in RFC 9110 §14.1.2. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

const BYTES = /^bytes\s*=\s*(.*)$/i;
/** `1-5`, `1-`, or `-5`: the last five. */
const RANGE = /^(\d+)\s*-\s*(\d*)$|^-\s*(\d+)$/;

/**
 * The ranges that a `Range` header requests of `size` bytes, in its order, neither merged nor sorted; those that begin
 * after the end are left out. 'unsatisfiable' if all do. `undefined` means the whole: no header, another unit, or a
 * malformed one (RFC 9110 §14.2).
 */
export function parseByteRanges(
  header: string | undefined,
  size: number,
): readonly ByteRange[] | 'unsatisfiable' | undefined {
  const [, list] = BYTES.exec(header ?? '') ?? [];
  // No range of an empty body can be satisfied, yet clients send `bytes=0-` for "everything".
  if (list === undefined || size === 0) return undefined;
  const ranges: ByteRange[] = [];
  let requested = 0;
  for (const member of list.split(',')) {
    // Lists may have empty members (RFC 9110 §5.6.1.2).
    if (member.trim() === '') continue;
    requested += 1;
    const range = parseMember(member.trim(), size);
    if (range === undefined) return undefined;
    if (range.start <= range.end) ranges.push(range);
  }
  if (requested === 0) return undefined;
  return ranges.length === 0 ? 'unsatisfiable' : ranges;
}

/** `undefined` if it is malformed. One without bytes begins after its end. */
function parseMember(member: string, size: number): ByteRange | undefined {
  const [match, first, last, suffix] = RANGE.exec(member) ?? [];
  if (match === undefined) return undefined;
  if (suffix !== undefined) return { start: Math.max(0, size - Number(suffix)), end: size - 1 };
  const start = Number(first);
  if (last === '' || last === undefined) return { start, end: size - 1 };
  return Number(last) < start ? undefined : { start, end: Math.min(Number(last), size - 1) };
}
