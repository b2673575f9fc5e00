import { formatDuration } from '../lib/units.ts';
import { stopText, whyNotCollected } from '../metadata/store-identity.ts';
import { everything, type LostContent } from '../metadata/survey.ts';
import type { AdminParts } from './admin-parts.ts';
import type { UpkeepDocument } from './documents/upkeep.ts';
import type { NextToGo } from './next-to-go.ts';
import { storeStatus, timeOf } from './status.ts';

const SHOWN_LOST = 100;
/** Who looks at it asks again. */
const NEXT_WITHIN_MS = 300;

/** What keeps the store small and undamaged, and what it will do next. */
export async function upkeepDocument(
  parts: Pick<AdminParts, 'config' | 'metadata' | 'spool' | 'blobs' | 'survey' | 'upkeep'>,
  next: NextToGo,
): Promise<UpkeepDocument> {
  const { config, metadata, upkeep } = parts;
  const { gcIntervalMs, gcGracePeriodMs, scrubIntervalMs, scrubBytesPerSecond } = config.upkeep;
  const store = await storeStatus(parts, next, NEXT_WITHIN_MS);
  const stop = await whyNotCollected(metadata);
  const scrubbedAtMs = await upkeep.scrubbedAtMs();
  const overMax = store.maxBytes === null ? 0 : store.heldBytes + store.unfinishedBytes - store.maxBytes;
  return {
    store,
    collection: {
      interval: intervalText(gcIntervalMs),
      gracePeriod: formatDuration(gcGracePeriodMs),
      stopped: stop === undefined ? null : stopText(stop),
    },
    eviction: {
      due: await upkeep.needsEviction(),
      overBytes: Math.max(0, overMax, store.minFreeBytes - store.freeBytes),
    },
    scrub: {
      interval: intervalText(scrubIntervalMs),
      bytesPerSecond: scrubBytesPerSecond,
      finished: scrubbedAtMs === 0 ? null : timeOf(scrubbedAtMs),
    },
    // The survey opens the index by its name.
    ...(store.indexLost ? { lost: [], moreLost: false } : await lostContent(parts)),
  };
}

/** The first of what is lost, and whether there is more. */
async function lostContent({
  survey,
}: Pick<AdminParts, 'survey'>): Promise<Pick<UpkeepDocument, 'lost' | 'moreLost'>> {
  const lost: LostContent[] = [];
  for await (const contents of everything(after => survey.lost(after))) {
    lost.push(...contents);
    if (lost.length > SHOWN_LOST) break;
  }
  return { lost: lost.slice(0, SHOWN_LOST), moreLost: lost.length > SHOWN_LOST };
}

function intervalText(value: number | false): string | null {
  return value === false ? null : formatDuration(value);
}
