import { z } from '../../config/fields.ts';
import { bytes, arrayOf, pageSchema, pageQuery, typed } from './parts.ts';

const epochMs = z.number().describe('Milliseconds since 1970');

const secretSchema = z.object({
  name: z.string(),
  source: z.enum(['file', 'folder', 'kubernetes', 'node', 'issued', 'plugin']),
  state: z.enum(['loaded', 'malformed', 'missing', 'unread']),
  reason: z.string().exactOptional(),
  loadedAtMs: epochMs.exactOptional(),
  lastUsedAtMs: epochMs.exactOptional(),
  lastRefusedAtMs: epochMs.exactOptional(),
});

const issuedSchema = z.object({
  id: z.string(),
  server: z.string(),
  readOnly: z.boolean(),
  issuedAtMs: epochMs,
  endsAtMs: epochMs.exactOptional(),
  lastUsedAtMs: epochMs.exactOptional(),
});

/** A tenant: its Secrets' state, its use and quota. Never a secret. */
export const tenantSchema = z.object({
  name: z.string(),
  suspended: z.string().exactOptional(),
  usedBytes: bytes.describe('The size of its repositories, as counted by its quota'),
  quotaBytes: bytes.nullable(),
  secrets: arrayOf(secretSchema),
  issued: arrayOf(issuedSchema),
});
export type TenantOfPage = z.output<typeof tenantSchema>;

export const tenantsQuery = pageQuery.extend({
  q: typed.optional().describe('Words that are all in the name'),
  name: typed.optional().describe('Only the tenant of exactly this name'),
});

/** Ordered by name. What is not about one tenant is on every page. */
export const tenantsSchema = pageSchema(tenantSchema).extend({
  problems: arrayOf(z.string()),
  passedOver: arrayOf(
    z.object({ resource: z.string(), namespace: z.string(), name: z.string(), reason: z.string() }),
  ),
  node: arrayOf(secretSchema),
  refused: arrayOf(z.object({ name: z.string(), reason: z.string() })),
});
export type TenantsPage = z.output<typeof tenantsSchema>;
