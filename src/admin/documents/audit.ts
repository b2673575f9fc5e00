import { z } from '../../config/fields.ts';
import { pageQuery, pageSchema, time, typed } from './parts.ts';

/** A line of the audit log. */
export const auditEntrySchema = z.object({
  id: z.string(),
  at: time,
  who: z.string().describe('A tenant, `anonymous`, or who used the administration API'),
  remote: z.string().nullable(),
  action: z.string(),
  subject: z.string().nullable().describe('The repository with its tag or digest, or whatever was changed'),
  outcome: z.string(),
  reason: z.string().nullable(),
});
export type AuditEntry = z.output<typeof auditEntrySchema>;

export const auditQuery = pageQuery.extend({
  q: typed.optional().describe('Words that are in who, action, subject, outcome, reason or address together'),
});

/** The end of the audit log, the latest first. A page of a search may be short, and have a `next`. */
export const auditSchema = pageSchema(auditEntrySchema).extend({
  output: z.enum(['none', 'stdout', 'file']).describe('audit.output'),
  covers: z
    .enum(['requests', 'changes'])
    .describe('changes: only what was changed by this API since the start, since there is no file to read'),
});
export type AuditDocument = z.output<typeof auditSchema>;
