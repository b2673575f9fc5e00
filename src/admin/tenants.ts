import { tenantDocuments } from '../tenants/tenants-document.ts';
import type { AdminParts } from './admin-parts.ts';
import type { TenantsPage } from './documents/tenants.ts';
import type { AdminQuery } from './operations.ts';
import { pageOfSorted } from './paging.ts';
import { searchFor } from './search.ts';

/** A page of tenants by name, and what concerns all of them. */
export async function tenantsPage(
  { tenants, metadata, quota }: Pick<AdminParts, 'tenants' | 'metadata' | 'quota'>,
  { q, name: only, ...ask }: AdminQuery<'tenants'>,
): Promise<TenantsPage> {
  const search = searchFor(q);
  const wanted = tenants.list().filter(({ name }) => (only === undefined || name === only) && search(name));
  const { entries, next } = pageOfSorted(wanted, keyOf, ask);
  const issued = await metadata.listIssuedCredentials(entries.map(keyOf));
  return {
    entries: await tenantDocuments(entries, tenants, issued, names => quota.usedBytes(names)),
    next,
    problems: tenants.problems,
    passedOver: tenants.passedOver,
    node: tenants.node,
    refused: tenants.refused,
  };
}

function keyOf({ name }: { readonly name: string }): string {
  return name;
}
