import { z } from '../../config/fields.ts';
import { bytes, amount, arrayOf, time } from './parts.ts';
import { storeSchema } from './status.ts';

/** What keeps the store small and undamaged, and what it will do next. */
export const upkeepSchema = z.object({
  store: storeSchema,
  collection: z.object({
    interval: z.string().nullable().describe('upkeep.gcInterval; null for never'),
    gracePeriod: z.string(),
    stopped: z.string().nullable().describe('Why no garbage is collected, and what to do; null if it is'),
  }),
  eviction: z.object({
    due: z.boolean().describe('Whether a limit is exceeded now'),
    overBytes: bytes.describe(
      'By how much the store exceeds storage.maxBytes, or the disk lacks storage.minFree',
    ),
  }),
  scrub: z.object({
    interval: z.string().nullable().describe('upkeep.scrubInterval; null for never'),
    bytesPerSecond: amount,
    finished: time.nullable().describe('When everything was last verified'),
  }),
  lost: arrayOf(
    z.object({ kind: z.enum(['blob', 'manifest']), digest: z.string(), reason: z.string() }),
  ).describe(
    'Damaged content of hosted repositories and pinned images that was not replaced yet: the first hundred',
  ),
  moreLost: z.boolean().describe('Whether there is more than that'),
});
export type UpkeepDocument = z.output<typeof upkeepSchema>;
