import type { Credential } from '../oci/credential.ts';
import { ANONYMOUS, type Requester } from '../oci/requester.ts';
import type { Tenant } from '../tenants/tenant.ts';

/**
 * Who makes a request on a given repository. `anonymous`: no credentials. `stranger`: a known credential that does not
 * apply here. `upstream`: one of these tenants, by a credential that their Secrets have for the repository's upstream,
 * which is the only one that may be used. `tenant`: by a credential of this registry, or a ServiceAccount token.
 * `unknown`: a credential that no tenant has, to be tried upstream.
 */
export type Principal =
  | { readonly as: 'anonymous' }
  | { readonly as: 'stranger'; readonly credentialId: string }
  | { readonly as: 'upstream'; readonly tenants: readonly Tenant[]; readonly credentialId: string }
  | {
      readonly as: 'tenant';
      readonly tenant: Tenant;
      readonly readOnly: boolean;
      readonly credentialId: string;
    }
  | { readonly as: 'unknown'; readonly credential: Credential };

/** A principal that brings its own credential for the upstream. */
export type UpstreamPrincipal = Extract<Principal, { readonly as: 'upstream' }>;

/**
 * The principal of a tenant that logged in with a credential of this registry that may push; anonymous without a
 * tenant.
 */
export function principalFor(tenant: Tenant | undefined): Exclude<Principal, UpstreamPrincipal> {
  return tenant === undefined
    ? { as: 'anonymous' }
    : { as: 'tenant', tenant, readOnly: false, credentialId: '' };
}

/** How many characters of a credential's id are enough to tell requesters apart in a log. */
const SHORT_ID = 12;

/**
 * The requester to count and log for a principal, with the address that it connects from. All credentials of a tenant share
 * its turns in queues.
 */
export function requesterOf(principal: Principal, remote?: string): Requester {
  switch (principal.as) {
    case 'anonymous':
      return remote === undefined ? ANONYMOUS : { tenant: undefined, id: ANONYMOUS.id, remote };
    case 'stranger':
      return credentialRequester(principal.credentialId, { remote });
    case 'unknown':
      return credentialRequester(principal.credential.id, { remote, isUnknown: true });
    case 'tenant':
      return tenantRequester([principal.tenant], principal.credentialId, remote);
    case 'upstream':
      break;
  }
  return tenantRequester(principal.tenants, principal.credentialId, remote);
}

/** The requester of a credential of which only the id is known. */
export function credentialRequester(
  credentialId: string,
  others: Pick<Requester, 'remote' | 'isUnknown' | 'maxTransfers'> = {},
): Requester {
  return { tenant: undefined, id: `credential:${credentialId.slice(0, SHORT_ID)}`, credentialId, ...others };
}

/**
 * If several tenants have the credential, it is not known which one asks: they count as one requester of their own,
 * with the lowest of their limits.
 */
function tenantRequester(
  tenants: readonly Tenant[],
  credentialId: string,
  remote: string | undefined,
): Requester {
  const limits = tenants.flatMap(({ options }) => options.maxTransfers ?? []);
  const maxTransfers = limits.length === 0 ? undefined : Math.min(...limits);
  const [first, ...others] = tenants;
  if (first === undefined || others.length > 0)
    return credentialRequester(credentialId, { remote, maxTransfers });
  return { tenant: first.name, id: `tenant:${first.name}`, credentialId, remote, maxTransfers };
}
