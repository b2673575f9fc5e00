import { z } from '../../config/fields.ts';
import { firstBytesSchema } from './first-bytes.ts';
import { amount, arrayOf, time } from './parts.ts';

/** What an upstream still allows with one credential. */
const budgetSchema = z.object({
  credential: z.string().describe("The beginning of the credential's id; empty for none"),
  limit: amount.nullable(),
  remaining: amount.nullable(),
  windowSeconds: amount.nullable(),
  blockedUntil: time.nullable().describe('No request is sent with it before'),
  exhaustedAt: time
    .nullable()
    .describe(
      'When nothing will remain, at the rate of the last minutes; null if it lasts, or if that is not known',
    ),
});
export type BudgetDocument = z.output<typeof budgetSchema>;

/** A registry that is mirrored. */
export const upstreamSchema = z.object({
  name: z.string(),
  url: z.string(),
  mirrors: arrayOf(z.string()),
  state: z.enum(['ok', 'failing', 'limited', 'unknown']).describe('unknown: it was not asked yet'),
  lastAnswer: time.nullable(),
  lastError: z.object({ at: time, reason: z.string(), repository: z.string() }).nullable(),
  budgets: arrayOf(budgetSchema),
  backoffs: amount,
  firstBytes: firstBytesSchema.describe('How long clients waited for its content in the last hour'),
  login: z
    .object({
      username: z.string(),
      state: z.enum(['accepted', 'refused', 'unknown']),
      at: time.nullable(),
    })
    .nullable()
    .describe("Entrepot's own credentials; null if it has none"),
});
export type UpstreamDocument = z.output<typeof upstreamSchema>;

/** In the order of the configuration. */
export const upstreamsSchema = z.object({ entries: arrayOf(upstreamSchema) });
export type UpstreamsDocument = z.output<typeof upstreamsSchema>;
