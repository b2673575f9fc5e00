import type { Tenant } from '../tenants/tenant.ts';
import type { Parts } from '../compose/parts.ts';
import { CommandError, EXIT, type Input, textOption } from './command.ts';

/** The tenant of `--tenant`; `undefined` without that option. Throws CommandError if there is no such tenant. */
export function tenantOption({ tenants }: Parts, input: Input): Tenant | undefined {
  const name = textOption(input, 'tenant');
  const tenant = name === undefined ? undefined : tenants.find(name);
  if (name !== undefined && tenant === undefined) {
    throw new CommandError(`there is no tenant named ${name}`, EXIT.usage);
  }
  return tenant;
}
