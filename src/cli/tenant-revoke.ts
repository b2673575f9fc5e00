import { UnknownTenant } from '../tenants/issuer.ts';
import {
  printResult,
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  jsonOption,
  textOption,
} from './command.ts';
import { requireTenant, TENANT } from './tenant-name.ts';
import { withParts } from './with-parts.ts';

/** `entrepot tenant revoke`: ends credentials at once. */
export const tenantRevoke: Command = {
  name: 'tenant revoke',
  summary: 'revoke credentials that were issued to a tenant',
  description:
    'Revokes one credential, or all that were issued to the tenant. A running server refuses them within seconds; its ' +
    'tokens expire within 5 minutes. Secrets that contain a copy become useless.',
  arguments: [TENANT],
  options: [
    { flags: '--credential <id>', description: 'the one to revoke, by its id (see entrepot tenants)' },
    { flags: '--all', description: 'revoke all of them' },
    jsonOption('a line for each revoked credential, with credential, server'),
    CONFIG_OPTION,
  ],
  examples: [['entrepot tenant revoke team-a --all', 'revoke everything that was issued to team-a']],
  run: async (input, io) => {
    const [tenant = ''] = input.arguments;
    const credential = textOption(input, 'credential');
    if ((credential === undefined) === (input.options['all'] !== true)) {
      throw new CommandError('say which: --credential ID, or --all', EXIT.usage);
    }
    return withParts(input, io, async parts => {
      const { presence: during } = parts.metadata;
      const ended = await parts.issuer
        .revoke(tenant, credential, { during })
        .catch(async (error: unknown) => {
          if (!(error instanceof UnknownTenant)) throw error;
          await requireTenant(parts, tenant);
          throw new CommandError(error.message);
        });
      for (const { id, server } of ended) {
        printResult(input, io, { credential: id, server }, `${id}: revoked (${server})\n`);
      }
      return EXIT.done;
    });
  },
};
