import { z } from '../../config/fields.ts';
import { bytes, amount, arrayOf, pageSchema, time } from './parts.ts';
import { downloadSchema } from './status.ts';

/** A download in progress, of a whole layer or of ranges. */
export const fillSchema = downloadSchema.extend({
  id: z.string().describe('The same for as long as it runs'),
  upstream: z.string(),
  bytesPerSecond: bytes.nullable().describe('Over the last seconds; null while nothing was measured'),
  remainingSeconds: amount.nullable().describe('null if the size or the rate is not known'),
});
export type FillDocument = z.output<typeof fillSchema>;

/** A download that has ended, as it was when it was last seen. */
const endedFillSchema = fillSchema.extend({
  ended: time,
  stored: z.boolean().describe('Whether its blob is stored now'),
});

/** Downloads in progress, oldest first. */
export const fillsSchema = pageSchema(fillSchema).extend({
  total: amount,
  ended: arrayOf(endedFillSchema).describe(
    'Those that have ended in the last 20 s, if somebody looked before: on each page, the last 200',
  ),
});
export type FillsDocument = z.output<typeof fillsSchema>;
