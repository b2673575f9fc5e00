import { z } from '../../config/fields.ts';
import { arrayOf, typed } from './parts.ts';

export const explainQuery = z.object({
  reference: typed.describe('An image reference, such as ghcr.io/org/app:v1'),
  tenant: typed.optional().describe('Who pulls; without it, a client that does not log in'),
});

const grantSchema = z.object({
  of: z.enum(['credential', 'public', 'imported for all', 'imported for this tenant']),
  verifiedAtMs: z.number(),
  state: z.enum(['counts', 'stale', 'over']),
});

/** Whether a pull would succeed, and why: in the words of `entrepot explain`. */
export const explainSchema = z.object({
  repository: z.string(),
  tenant: z.string().nullable(),
  attempts: arrayOf(
    z.object({
      credentialId: z.string().optional(),
      username: z.string().optional(),
      secret: z.string(),
      source: z.string(),
      matchedKey: z.string().optional(),
      grant: grantSchema.optional(),
    }),
  ).describe('Credentials in the order in which they are tried upstream'),
  grants: arrayOf(grantSchema),
  conclusions: arrayOf(z.string()).describe('What would happen and why, a sentence each'),
});
export type ExplainDocument = z.output<typeof explainSchema>;
