import { z } from '../../config/fields.ts';
import { amount, arrayOf } from './parts.ts';

const waited = z.number().nonnegative();

/** How long clients waited for the first byte of content. */
export const firstBytesSchema = arrayOf(
  z.object({
    outcome: z
      .enum(['hit', 'revalidated', 'stale', 'miss', 'joined', 'hosted'])
      .describe('Where the content came from, as in Cache-Status and the metrics'),
    count: amount.describe('Answers'),
    p50Ms: waited.describe('Half of them began within so many ms; estimates, up to half as long again'),
    p90Ms: waited,
    p99Ms: waited,
  }),
);
export type FirstBytesDocument = z.output<typeof firstBytesSchema>;
