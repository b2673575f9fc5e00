import { z } from '../../config/fields.ts';
import { amount, pageSchema, pageQuery, time, typed } from './parts.ts';

/** Something that a client was refused, once or repeatedly. */
export const refusalSchema = z.object({
  id: z.string().describe('The same for as long as it is remembered'),
  at: time.describe('The last time'),
  since: time.describe('The first time'),
  times: amount,
  requester: z
    .string()
    .describe(
      '`tenant:` and a name, `credential:` and the beginning of an id, `anonymous`, or `unknown` if nobody found out',
    ),
  remote: z.string().describe('The address of the client, the last time'),
  repository: z.string().nullable(),
  reference: z.string().nullable(),
  method: z.string(),
  status: z.int(),
  code: z.string().describe('The error code of the registry API'),
  reason: z.string().describe('As in the log'),
});
export type RefusalDocument = z.output<typeof refusalSchema>;

export const refusalsQuery = pageQuery.extend({
  q: typed
    .optional()
    .describe('Words that are in repository, reference, requester, address or reason together'),
});

/** The latest first. */
export const refusalsSchema = pageSchema(refusalSchema);
export type RefusalsDocument = z.output<typeof refusalsSchema>;
