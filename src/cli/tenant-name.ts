import type { Parts } from '../compose/parts.ts';
import { CommandError } from './command.ts';

/** The argument that names a tenant. */
export const TENANT = { name: '<tenant>', description: 'name of the tenant' } as const;

/** Throws for a tenant that neither the configuration nor the store nor a source knows. */
export async function requireTenant({ tenants, metadata }: Parts, name: string): Promise<void> {
  if (tenants.find(name) !== undefined) {
    return;
  }
  const known = await metadata.listKnownTenants();
  if (!known.some(tenant => tenant.name === name)) {
    throw new CommandError(`there is no tenant named ${name}; create it with: entrepot tenant add ${name}`);
  }
}
