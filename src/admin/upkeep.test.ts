import { expect, it } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { upkeepDocument } from './upkeep.ts';

const LOST_PAGE = 60;

/** An index with as much lost content, of which the survey lists a page at a time. */
function partsWith(count: number) {
  const asked: (string | undefined)[] = [];
  const lost = async (after?: string) => {
    asked.push(after);
    const from = Number(after ?? 0);
    const entries = Array.from({ length: Math.min(LOST_PAGE, count - from) }, (_, at) => ({
      kind: 'blob',
      digest: digestOf(Buffer.from(String(from + at))),
      reason: 'wrong bytes',
    }));
    return { entries, next: from + LOST_PAGE < count ? String(from + LOST_PAGE) : undefined };
  };
  const parts = {
    config: {
      storage: { path: '/data', maxBytes: undefined },
      upkeep: { gcIntervalMs: false, gcGracePeriodMs: 1, scrubIntervalMs: false, scrubBytesPerSecond: 1 },
    },
    metadata: {
      readTotals: async () => ({ blobBytes: 0, manifestBytes: 0 }),
      loss: () => undefined,
      countDamaged: async () => count,
      readSetting: async () => undefined,
    },
    spool: { unfinishedBytes: 0, space: { look: async () => ({ freeBytes: 1, minFreeBytes: 0 }) } },
    blobs: {},
    survey: { lost },
    upkeep: { scrubbedAtMs: async () => 0, needsEviction: async () => false },
  };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- nothing else is asked of them
  return { asked, parts: parts as unknown as Parameters<typeof upkeepDocument>[0] };
}

// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- nothing else is asked of it
const next = { look: async () => [] } as unknown as Parameters<typeof upkeepDocument>[1];

it('shows a hundred of what is lost and whether there is more, and looks no further', async () => {
  const many = partsWith(1_000_000);
  const document = await upkeepDocument(many.parts, next);
  expect([document.lost.length, document.moreLost]).toEqual([100, true]);
  expect(many.asked).toEqual([undefined, '60']);
  const hundred = await upkeepDocument(partsWith(100).parts, next);
  expect([hundred.lost.length, hundred.moreLost]).toEqual([100, false]);
});
