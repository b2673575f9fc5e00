import { z } from '../../config/fields.ts';
import { amount, arrayOf } from './parts.ts';

/** How many connections to upstreams are in use, and what waits for one. */
export const queueSchema = z.object({
  running: amount.describe('Connections in use: of downloads, further ones of large layers, and of ranges'),
  waiting: amount.describe('Downloads and ranges that wait for one'),
  maxConnections: amount.describe('pulls.maxConnections'),
  maxImagePulls: amount
    .nullable()
    .describe('pulls.maxParallelImagePulls, or 1 for serializeImagePulls; null for no limit'),
  requesters: arrayOf(z.object({ requester: z.string(), running: amount, waiting: amount })).describe(
    'Who has connections or waits for one: the first hundred, those with most first. What several wait for counts for each',
  ),
});
export type QueueDocument = z.output<typeof queueSchema>;
