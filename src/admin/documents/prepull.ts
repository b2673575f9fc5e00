import { z } from '../../config/fields.ts';
import { amount, arrayOf, pageSchema, pageQuery, time, truth } from './parts.ts';

/** An image that is to be stored before anybody asks for it. */
export const prepullImageSchema = z.object({
  image: z.string(),
  line: z.string().nullable().describe('For a list of `entrepot pull --from`; null if the name is invalid'),
  complete: z.boolean(),
  missing: arrayOf(z.string()).describe('What is missing: the first few'),
  reason: z.string().nullable().describe('Why it cannot be complete'),
  last: z
    .object({
      at: time,
      outcome: z.enum(['pulled', 'failed']),
      reason: z.string().nullable().describe('Of the failure'),
    })
    .nullable()
    .describe('The last attempt of this server; null if there was none since it started'),
});
export type PrepullImageDocument = z.output<typeof prepullImageSchema>;

export const prepullQuery = pageQuery.extend({
  missing: truth.optional().describe('true: only images that are not completely stored'),
});

/** The images of `prepull`, in the order of the lists, and what is missing of them. */
export const prepullSchema = pageSchema(prepullImageSchema).extend({
  total: amount,
  schedule: z.string().nullable().describe('In cron syntax; null if the server does not pull by itself'),
  nextRun: time.nullable(),
  from: arrayOf(z.object({ file: z.string(), problem: z.string().nullable() })),
  offline: z.boolean(),
});
export type PrepullDocument = z.output<typeof prepullSchema>;
