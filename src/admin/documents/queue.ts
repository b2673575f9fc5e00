import { z } from '../../config/fields.ts';
import { amount, arrayOf } from './parts.ts';

/** How many downloads run and wait, and why. */
export const queueSchema = z.object({
  running: amount,
  waiting: amount,
  maxConnections: amount.describe('pulls.maxConnections'),
  maxImagePulls: amount
    .nullable()
    .describe('pulls.maxParallelImagePulls, or 1 for serializeImagePulls; null for no limit'),
  requesters: arrayOf(z.object({ requester: z.string(), running: amount, waiting: amount })).describe(
    'Who waits or downloads: the first hundred, those with most first',
  ),
});
export type QueueDocument = z.output<typeof queueSchema>;
