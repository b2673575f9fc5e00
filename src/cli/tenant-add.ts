import { addTenant, NO_CLUSTER, TenantRequestInvalid } from '../admin/tenant-changes.ts';
import { printResult, type Command, CommandError, CONFIG_OPTION, EXIT, jsonOption } from './command.ts';
import { requireTenant, TENANT } from './tenant-name.ts';
import { withParts } from './with-parts.ts';

/** `entrepot tenant add`: adds a tenant that is neither in the configuration nor in a cluster. */
export const tenantAdd: Command = {
  name: 'tenant add',
  summary: 'add a tenant, which owns the repositories below its name',
  description:
    'Adds a tenant to the store. Tenants of the configuration and namespaces of a cluster need not be added. ' +
    'A running server recognizes it within seconds.',
  arguments: [TENANT],
  options: [jsonOption('tenant, added'), CONFIG_OPTION],
  makesStore: 'where-named',
  examples: [['entrepot tenant add team-a', 'then: entrepot tenant secret team-a --server registry.example']],
  run: (input, io) =>
    withParts(input, io, async parts => {
      const [name = ''] = input.arguments;
      const { presence: during } = parts.metadata;
      const isNew = await addTenant(parts, name, { during }).catch((error: unknown) => {
        throw error instanceof TenantRequestInvalid ? new CommandError(error.message, EXIT.usage) : error;
      });
      const text = `${name}: ${isNew ? 'added' : 'already exists'}\n`;
      printResult(input, io, { tenant: name, added: isNew }, text);
      return isNew ? EXIT.done : EXIT.failed;
    }),
};

/** `entrepot tenant adopt`: for a namespace that was deleted and created again. */
export const tenantAdopt: Command = {
  name: 'tenant adopt',
  summary: 'bind a tenant to a namespace that was created again',
  description:
    'A tenant is bound to the first namespace seen with its name. A later namespace of the same name is suspended: ' +
    'its creator need not be the owner of the repositories. This binds the tenant to the current namespace.',
  arguments: [TENANT],
  options: [jsonOption('tenant, adopted'), CONFIG_OPTION],
  examples: [['entrepot tenant adopt team-a', 'the current namespace team-a becomes the tenant']],
  run: (input, io) =>
    withParts(input, io, async parts => {
      const [name = ''] = input.arguments;
      const { presence: during } = parts.metadata;
      if (parts.config.kubernetes === undefined) throw new CommandError(NO_CLUSTER);
      await requireTenant(parts, name);
      await parts.issuer.adoptTenant(name, { during });
      printResult(input, io, { tenant: name, adopted: true }, `${name}: its namespace is adopted\n`);
      return EXIT.done;
    }),
};
