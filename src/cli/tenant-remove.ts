import { DELETING_DISABLED } from '../access/hosted-rights.ts';
import { tenantGrantee } from '../grants/grants.ts';
import { sizeText } from '../lib/units.ts';
import type { Repository } from '../oci/repository.ts';
import type { Parts } from '../compose/parts.ts';
import { printResult, type Command, CommandError, CONFIG_OPTION, EXIT, jsonOption } from './command.ts';
import { requireTenant, TENANT } from './tenant-name.ts';
import { withParts } from './with-parts.ts';

/** `entrepot tenant remove`: removes a tenant that is not in the configuration. */
export const tenantRemove: Command = {
  name: 'tenant remove',
  summary: 'remove a tenant, with its repositories and credentials',
  description:
    'Removes a tenant from the store: its issued credentials are revoked, what was imported or pulled for it only is available to ' +
    'nobody, and its own repositories are removed; the next entrepot gc frees their space. What its credentials proved ' +
    'upstream ends with their Secrets. A namespace that still exists becomes a new tenant, with ' +
    'nothing of the old one.',
  arguments: [TENANT],
  options: [
    { flags: '--dry-run', description: 'only show what would be removed' },
    jsonOption('tenant, dryRun, credentials (credential and server of each), repositories, bytes'),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot tenant remove team-a --dry-run', 'list what team-a has'],
    ['entrepot tenant remove team-a', 'remove all of it'],
  ],
  run: (input, io) =>
    withParts(input, io, async parts => {
      const [name = ''] = input.arguments;
      const { config, metadata, issuer } = parts;
      const { presence: during } = metadata;
      if (config.tenants.some(tenant => tenant.name === name)) {
        throw new CommandError(`${name} is in the configuration: remove it there (tenants)`);
      }
      await requireTenant(parts, name);
      const isTrial = input.options['dryRun'] === true;
      const bytes = (await metadata.readOwnerBytes([name])).get(name)?.bytes ?? 0;
      const repositories = await repositoriesOf(name, parts);
      if (!config.hosted.delete && repositories.length > 0) {
        throw new CommandError(
          `${DELETING_DISABLED}, and ${name} has repositories: entrepot tenant revoke ends its credentials`,
        );
      }
      if (!isTrial) {
        // First, so that a namespace that becomes the tenant by this finds nothing.
        await metadata.endPreloadsOf(tenantGrantee(name), { during });
        for (const repository of repositories) await metadata.removeRepository(repository, { during });
      }
      const credentials = isTrial ? await issuer.listLive(name) : await issuer.removeTenant(name, { during });
      const lines = [
        ...credentials.map(
          ({ id, server }) => `${id}: ${isTrial ? 'would be revoked' : 'revoked'} (${server})`,
        ),
        ...repositories.map(repository => `${repository.name}: ${isTrial ? 'would be removed' : 'removed'}`),
        `${name}: ${isTrial ? 'would be removed' : 'removed'}, with ${sizeText(bytes)} in its repositories`,
      ];
      const document = {
        tenant: name,
        dryRun: isTrial,
        credentials: credentials.map(({ id, server }) => ({ credential: id, server })),
        repositories: repositories.map(repository => repository.name),
        bytes,
      };
      printResult(input, io, document, lines.map(line => `${line}\n`).join(''));
      return EXIT.done;
    }),
};

const PAGE = 1_000;

/** The repositories below the tenant's name. */
async function repositoriesOf(tenant: string, { metadata }: Parts): Promise<readonly Repository[]> {
  const found: Repository[] = [];
  for (let after: string | undefined; ; ) {
    const page = await metadata.listRepositories('', { limit: PAGE, after });
    const own = page.entries.filter(name => name === tenant || name.startsWith(`${tenant}/`));
    found.push(...own.map(name => ({ upstream: '', name })));
    after = page.entries.at(-1);
    if (!page.more || after === undefined) return found;
  }
}
