import { z } from '../../config/fields.ts';

/** What somebody may do. */
export const rightsSchema = z.enum(['read', 'full']);
export type AdminRights = z.output<typeof rightsSchema>;

/** Who asks, and what changes need. */
export const sessionSchema = z.object({
  name: z.string().describe('As in the audit log: a login of server.admins, a Kubernetes user, or operator'),
  by: z.enum(['socket', 'loopback', 'login', 'kubernetes']).describe('How that is known'),
  rights: rightsSchema,
  token: z.string().describe('For the header X-Entrepot-Token of every request that is not GET or HEAD'),
});
export type SessionDocument = z.output<typeof sessionSchema>;
