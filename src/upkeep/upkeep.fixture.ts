import { MemoryRecordStore } from '../blobs/memory-record-store.fixture.ts';
import { silentLog } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import { Upkeep, type UpkeepOptions } from './upkeep.ts';
import type { RowRemoval, Stores, StoreSurvey } from './stores.ts';

/** An Upkeep for tests: nothing has a grace period, there are no uploads, and nothing is reported. */
export function upkeepOf(
  stores: Pick<Stores, 'metadata' | 'spool' | 'blobs'>,
  survey: StoreSurvey & RowRemoval,
  options: Partial<UpkeepOptions> = {},
): Upkeep {
  const { metadata, spool, blobs } = stores;
  return new Upkeep({
    metadata,
    spool,
    blobs,
    records: new MemoryRecordStore(),
    survey,
    rows: survey,
    log: silentLog,
    meter: silentMeter,
    gracePeriodMs: -1,
    keepUnfinishedMs: 3_600_000,
    keepGrantsMs: 60_000,
    uploads: {
      expire: async () => ({ items: 0, bytes: 0 }),
      expirable: async () => ({ items: 0, bytes: 0 }),
    },
    isOfUpload: async () => false,
    maxBytes: undefined,
    bytesPerSecond: 1e9,
    ...options,
  });
}
