import { isTenant } from '../admin/tenant-changes.ts';
import type { Parts } from '../compose/parts.ts';
import { CommandError } from './command.ts';

/** The argument with the name of a tenant. */
export const TENANT = { name: '<tenant>', description: 'name of the tenant' } as const;

/** Throws CommandError for a tenant that is neither in the configuration nor in the store nor in a source. */
export async function requireTenant(parts: Parts, name: string): Promise<void> {
  if (await isTenant(parts, name)) return;
  throw new CommandError(
    `there is no tenant named ${name}: entrepot tenants lists them, entrepot tenant add ${name} creates it`,
  );
}
