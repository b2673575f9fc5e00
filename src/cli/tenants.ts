import type { TenantsPage } from '../admin/documents/tenants.ts';
import { sizeText } from '../lib/units.ts';
import type { SecretState } from '../tenants/tenant.ts';
import type { IssuedDocument, TenantDocument } from '../tenants/tenants-document.ts';
import { columnsText, timeText } from './columns.ts';
import { printResult, CONFIG_OPTION, type Command, CommandError, EXIT, jsonOption } from './command.ts';
import { askAdmin } from './running-server.ts';
import { storeConfig } from './store-config.ts';

/** What the command prints with --json. */
export type TenantsDocument = Pick<TenantsPage, 'problems' | 'passedOver' | 'node' | 'refused'> & {
  readonly tenants: readonly TenantDocument[];
};

const HEADINGS = ['TENANT', 'SECRET', 'SOURCE', 'STATE', 'READ', 'USED', 'REFUSED', 'NOTE'] as const;

/** `entrepot tenants`: shows the state of all tenants' Secrets. */
export const tenants: Command = {
  name: 'tenants',
  summary: 'show all tenants of the running server, the state of their Secrets and what they store',
  description:
    'Asks the running server of this store: which Secrets each tenant has, whether they could be read and why ' +
    'not, when upstream last accepted or refused them, and which credentials were issued here and when they were last used; then ' +
    'what the repositories of each tenant store, as counted by its quota (at least 4 KiB for each blob and manifest, ' +
    'including deleted content that is not collected yet, and unfinished pushes).',
  options: [
    jsonOption(
      'tenants (name, secrets, issued, usedBytes, quotaBytes or null of each), node, refused, problems, passedOver',
    ),
    CONFIG_OPTION,
  ],
  examples: [['entrepot tenants', 'which Secret is malformed, and why']],
  run: async (input, io) => {
    const { storage } = await storeConfig(input, io);
    const document = await askTenants(storage.path);
    if (document === undefined) {
      throw new CommandError(
        'no server answers for this store, and only a server knows the state of Secrets',
      );
    }
    printResult(input, io, document, tenantsText(document));
    return EXIT.done;
  },
};

/** All pages of the running server's tenants; `undefined` if no server answers. */
async function askTenants(storePath: string): Promise<TenantsDocument | undefined> {
  const all: TenantDocument[] = [];
  for (let query: Record<string, string> = { limit: '500' }; ; ) {
    const page: TenantsPage | undefined = await askAdmin(storePath, '/tenants', query);
    if (page === undefined) return undefined;
    const { entries, next, problems, passedOver, node, refused } = page;
    all.push(...entries);
    if (next === null) return { problems, passedOver, node, refused, tenants: all };
    query = { ...query, after: next };
  }
}

/**
 * First sources that cannot be watched, and objects that are skipped; then refused tenants; then a row for each Secret
 * and issued credential, and one for a tenant without any.
 */
export function tenantsText(
  { problems, passedOver, node, refused, tenants: all }: TenantsDocument,
  nowMs = Date.now(),
): string {
  const rows = [
    ...refused.map(({ name, reason }) => [name, '', '', 'refused', '', '', '', reason]),
    ...all.flatMap(tenant => tenantRows(tenant, nowMs)),
    ...node.map(state => secretRow('(all)', state, nowMs)),
  ];
  const notes = [
    ...problems.map(problem => `cannot be watched: ${problem}\n`),
    ...passedOver.map(
      ({ resource, namespace, name, reason }) => `skipped: ${resource} ${namespace}/${name}: ${reason}\n`,
    ),
  ].join('');
  if (rows.length === 0) return `${notes}there are no tenants\n`;
  return notes + columnsText(HEADINGS, rows) + usesText(all);
}

const USE_HEADINGS = ['TENANT', 'STORED', 'QUOTA', ''] as const;

/** A row for each tenant that stores something or has a quota. */
function usesText(all: readonly TenantDocument[]): string {
  const rows = all
    .filter(({ usedBytes, quotaBytes }) => usedBytes > 0 || quotaBytes !== null)
    .map(({ name, usedBytes, quotaBytes }) => [
      name,
      sizeText(usedBytes),
      quotaBytes === null ? '-' : sizeText(quotaBytes),
      quotaBytes === null || quotaBytes === 0 ? '' : `${Math.round((usedBytes / quotaBytes) * 100)} %`,
    ]);
  return rows.length === 0 ? '' : `\n${columnsText(USE_HEADINGS, rows)}`;
}

function tenantRows({ name, suspended, secrets, issued }: TenantDocument, nowMs: number): string[][] {
  const rows = [
    ...secrets.map(state => secretRow(name, state, nowMs)),
    ...issued.map(credential => issuedRow(name, credential, nowMs)),
  ];
  if (suspended !== undefined) {
    rows.unshift([name, '', '', 'suspended', '', '', '', suspended]);
  }
  return rows.length === 0 ? [[name, '', '', 'no Secret', '', '', '', '']] : rows;
}

function secretRow(tenant: string, state: SecretState, nowMs: number): string[] {
  const { name, source, reason = '', loadedAtMs, lastUsedAtMs, lastRefusedAtMs } = state;
  const times = [loadedAtMs, lastUsedAtMs, lastRefusedAtMs].map(atMs => timeText(atMs ?? 0, nowMs));
  return [tenant, name, source, state.state, ...times, reason];
}

function issuedRow(tenant: string, credential: IssuedDocument, nowMs: number): string[] {
  const { id, server, readOnly, issuedAtMs, endsAtMs, lastUsedAtMs } = credential;
  const note = [
    `for ${server}`,
    ...(readOnly ? ['read-only'] : []),
    ...(endsAtMs !== undefined && endsAtMs > nowMs ? [`ends ${new Date(endsAtMs).toISOString()}`] : []),
  ];
  const state = endsAtMs !== undefined && endsAtMs <= nowMs ? 'ended' : 'live';
  const times = [issuedAtMs, lastUsedAtMs ?? 0].map(atMs => timeText(atMs, nowMs));
  return [tenant, id, 'issued', state, ...times, '', note.join(', ')];
}
