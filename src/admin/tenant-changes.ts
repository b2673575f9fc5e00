import type { Config } from '../config/config.ts';
import { registryHost, repositoryPrefix } from '../config/fields.ts';
import { plainTenantsProblem } from '../config/rules.ts';
import { OwnSite } from '../http/own-site.ts';
import { issuedSecret } from '../tenants/issued-secret.ts';
import { type IssueRequest, UnknownTenant } from '../tenants/issuer.ts';
import type { AskedDuring } from '../tenants/tenant-store.ts';
import type { AdminParts } from './admin-parts.ts';
import { AdminProblem } from './admin-problem.ts';
import type { RotatedDocument } from './documents/actions.ts';
import type { AdminAnswer, AdminBody } from './operations.ts';
import { timeOf } from './status.ts';

type TenantParts = Pick<AdminParts, 'config' | 'issuer' | 'tenants' | 'metadata'>;

/** What is wrong with a request about tenants. The message says what to do. */
export class TenantRequestInvalid extends Error {
  override readonly name = 'TenantRequestInvalid';
}

/** A request for a credential, and a warning about it, if there is any. */
export interface CheckedIssueRequest {
  readonly request: IssueRequest;
  readonly warning: string | undefined;
}

/**
 * The request for a credential of `tenant` for `written`, this registry as its clients name it. Throws
 * TenantRequestInvalid.
 */
export function issueRequest(
  { server }: Pick<Config, 'server'>,
  {
    tenant,
    written,
    readOnly,
  }: { readonly tenant: string; readonly written: string; readonly readOnly: boolean },
): CheckedIssueRequest {
  const [host, ...path] = written.split('/');
  const isValid =
    registryHost.safeParse(host).success && path.every(part => repositoryPrefix.safeParse(part).success);
  if (!isValid) throw new TenantRequestInvalid(`${written} is not a host such as registry.example:5000`);
  return { request: { tenant, server: written, readOnly }, warning: unknownName(host, server) };
}

/**
 * The error that a push under this name would get; `undefined` if it is a name of this registry, or any name is
 * allowed.
 */
function unknownName(
  host: string | undefined,
  { serverNames, externalUrl }: Config['server'],
): string | undefined {
  if (serverNames.length === 0) return undefined;
  const external = externalUrl === undefined ? [] : [new URL(externalUrl).host];
  const site = new OwnSite({ names: [...serverNames, ...external], isClosed: true });
  return site.problem({ headers: { host } });
}

/** Adds a tenant; false if there is one already. Throws TenantRequestInvalid if the name cannot be one. */
export async function addTenant(
  { config, issuer, tenants }: Pick<TenantParts, 'config' | 'issuer' | 'tenants'>,
  name: string,
  asked?: AskedDuring,
): Promise<boolean> {
  const problem = plainTenantsProblem(config);
  if (problem !== undefined) throw new TenantRequestInvalid(`${name} ${problem}`);
  if (tenants.find(name) !== undefined) return false;
  return issuer.addTenant(name, asked).catch((error: unknown) => {
    throw error instanceof RangeError ? new TenantRequestInvalid(error.message) : error;
  });
}

/** Whether the tenant is in the configuration, in the store, or in a source. */
export async function isTenant({ tenants, metadata }: TenantParts, name: string): Promise<boolean> {
  if (tenants.find(name) !== undefined) return true;
  return (await metadata.listKnownTenants()).some(tenant => tenant.name === name);
}

async function requireKnown(parts: TenantParts, name: string): Promise<void> {
  if (!(await isTenant(parts, name))) throw new AdminProblem('not-found', `there is no tenant named ${name}`);
}

/** Issues a credential, and ends the earlier ones for the same server after the overlap. */
export async function rotateLogin(
  parts: TenantParts,
  { tenant, server, readOnly, overlap: overlapMs, secretName }: AdminBody<'tenantRotate'>,
  asked: AskedDuring,
): Promise<RotatedDocument> {
  await requireKnown(parts, tenant);
  const written = server ?? parts.config.server.serverNames[0];
  if (written === undefined) {
    throw new AdminProblem(
      'invalid',
      'the name of this registry is not known: give server, or set server.serverNames',
    );
  }
  const { request, warning = null } = issueRequest(parts.config, { tenant, written, readOnly });
  const credential = await parts.issuer.rotate(request, overlapMs, asked);
  const { id, username, password } = credential;
  const secret = { ...issuedSecret(credential, { tenant, server: written, name: secretName }) };
  const earlierEndAt = timeOf(Date.now() + overlapMs);
  return { tenant, server: written, credential: id, username, password, earlierEndAt, secret, warning };
}

/** Ends one login of the tenant, or all. */
export async function revokeLogins(
  parts: TenantParts,
  { tenant, credential }: AdminBody<'tenantRevoke'>,
  asked: AskedDuring,
): Promise<AdminAnswer<'tenantRevoke'>> {
  await requireKnown(parts, tenant);
  const ended = await parts.issuer.revoke(tenant, credential, asked).catch((error: unknown) => {
    throw error instanceof UnknownTenant ? new AdminProblem('not-found', error.message) : error;
  });
  return { tenant, revoked: ended.map(({ id, server }) => ({ credential: id, server })) };
}

/** Binds the tenant to the namespace that has its name now. */
export async function adoptNamespace(
  parts: TenantParts,
  tenant: string,
  asked: AskedDuring,
): Promise<AdminAnswer<'tenantAdopt'>> {
  if (parts.config.kubernetes === undefined) throw new AdminProblem('refused', NO_CLUSTER);
  await requireKnown(parts, tenant);
  await parts.issuer.adoptTenant(tenant, asked);
  return { tenant, adopted: true };
}

/** Without a cluster there is no namespace to bind a tenant to, and it would be suspended. */
export const NO_CLUSTER = 'the configuration has no cluster (kubernetes), so no namespace can be adopted';
