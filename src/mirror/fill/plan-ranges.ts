import { type Extent, Extents, type KnownExtents } from '../../lib/extents.ts';

/**
 * Gaps of up to this size between missing bytes are requested with them: they cost less than another request. Of a
 * layer of 158 MB, lists of 201 ranges with 16 MB in all then bring 17 MB; blocks of 64 KiB would bring 30 MB.
 */
const JOINED_GAP_BYTES = 16 * 1024;

/**
 * The ranges to request from upstream for `wanted`, in ascending order: what is not in `known`, and small gaps between
 * that, unless they are known. So nothing known is requested again.
 */
export function planRanges(wanted: Iterable<Extent>, known: KnownExtents): readonly Extent[] {
  const plan: Extent[] = [];
  for (const extent of new Extents(wanted)) {
    for (const piece of known.missing(extent)) {
      const last = plan.at(-1);
      if (last !== undefined && isJoined(last.end, piece.start, known)) {
        plan[plan.length - 1] = { start: last.start, end: piece.end };
      } else plan.push(piece);
    }
  }
  return plan;
}

function isJoined(start: number, end: number, known: KnownExtents): boolean {
  return end - start <= JOINED_GAP_BYTES && (known.next(start)?.start ?? end) >= end;
}
