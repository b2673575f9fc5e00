import { duration, platform, rate, repositoryPrefix, z } from '../../config/fields.ts';
import { DURATION_FORM, formatDuration } from '../../lib/units.ts';
import { arrayOf, typed } from './parts.ts';

const reference = typed.describe('An image reference, such as docker.io/library/nginx:1.27');

export const pullBody = z.strictObject({
  image: reference,
  platforms: z
    .union([z.literal('all'), z.array(platform).min(1)])
    .optional()
    .describe('Default: those of the configuration'),
  tenant: typed.optional().describe("With this tenant's credentials only"),
  referrers: z.boolean().default(false).describe('Also signatures, SBOMs and other attached artifacts'),
});

export const referenceBody = z.strictObject({ reference });

export const refreshSchema = z.object({ image: z.string(), digest: z.string() });

export const pinSchema = z.object({
  image: z.string(),
  pinned: z.boolean(),
  changed: z.boolean().describe('Whether it was different before'),
});

export const removeBody = z.strictObject({
  reference,
  force: z
    .boolean()
    .default(false)
    .describe('Also what is pinned, a digest with its tags, or a whole hosted repository'),
  purge: z.boolean().default(false).describe('Also the manifest of a tag, and free space at once'),
});

export const gcBody = z.strictObject({
  dryRun: z.boolean().default(false),
  gracePeriod: duration.optional().describe('Default: upkeep.gcGracePeriod'),
  force: z.boolean().default(false).describe('Collect even if the index may be incomplete'),
});

export const scrubBody = z.strictObject({
  dryRun: z.boolean().default(false),
  rate: rate.optional().describe('Bytes per second; default: upkeep.scrubRate'),
});

export const tenantBody = z.strictObject({ tenant: typed });

export const tenantAddBody = z.strictObject({ tenant: repositoryPrefix });

export const tenantAddedSchema = z.object({ tenant: z.string(), added: z.boolean() });

export const tenantAdoptedSchema = z.object({ tenant: z.string(), adopted: z.boolean() });

/** Ten years: for longer, nobody wants to replace a login. Its end has to be a time that a date can have. */
export const MAX_OVERLAP_MS = 3_650 * 24 * 3_600_000;

export const rotateBody = z.strictObject({
  tenant: typed,
  server: typed
    .optional()
    .describe('This registry as clients name it; default: the first of server.serverNames'),
  readOnly: z.boolean().default(false),
  overlap: duration
    .refine(ms => ms <= MAX_OVERLAP_MS, {
      error: `expected ${DURATION_FORM}, of at most ${formatDuration(MAX_OVERLAP_MS)}`,
    })
    .default(3_600_000)
    .describe('How long the earlier ones remain valid'),
  secretName: typed.optional().describe('The name of the Secret; default: entrepot'),
});

/** The only answer with a password: the one that was issued by the request. */
export const rotatedSchema = z.object({
  tenant: z.string(),
  server: z.string(),
  credential: z.string().describe('Its id'),
  username: z.string(),
  password: z.string().describe('Shown once: only a hash of it is stored'),
  earlierEndAt: z.iso.datetime().describe('When credentials issued earlier for this server end'),
  secret: z.record(z.string(), z.unknown()).describe('A Kubernetes Secret with it, for kubectl apply'),
  warning: z
    .string()
    .nullable()
    .describe('Why a push under the name `server` would be refused; null if it would not'),
});
export type RotatedDocument = z.output<typeof rotatedSchema>;

export const revokeBody = z.strictObject({
  tenant: typed,
  credential: typed.optional().describe('The id of the one to revoke; without it, all of them'),
});

export const revokedSchema = z.object({
  tenant: z.string(),
  revoked: arrayOf(z.object({ credential: z.string(), server: z.string() })),
});
