import { z } from '../../config/fields.ts';
import { pageSchema, time } from './parts.ts';

/** A failure of an upstream that is remembered, and answered without asking again. */
export const backoffSchema = z.object({
  id: z.string(),
  upstream: z.string(),
  repository: z.string(),
  reference: z.string().describe('A tag, a digest, or the name of another kind of question'),
  credential: z.string().describe("The beginning of the credential's id; empty for none"),
  kind: z.enum(['unknown', 'denied', 'refused', 'lockedOut', 'limited', 'unavailable', 'invalid']),
  reason: z.string(),
  since: time,
  until: time,
});
export type BackoffDocument = z.output<typeof backoffSchema>;

/** Ordered by upstream, repository and reference. */
export const backoffsSchema = pageSchema(backoffSchema);
export type BackoffsDocument = z.output<typeof backoffsSchema>;
