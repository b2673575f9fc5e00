import type { Credential } from '../oci/credential.ts';
import { ANONYMOUS, type Requester } from '../oci/requester.ts';
import type { Tenant } from '../tenants/tenant.ts';

/**
 * Who asks for a certain repository, settled.
 * `anonymous`: nobody in particular. `stranger`: somebody known, whose credential says nothing here. `upstream`: one of
 * these tenants, by the credential for that upstream, which is all that may be used for it. `tenant`: by a secret of
 * ours, or a service account. `unknown`: a credential that no tenant holds, to be tried upstream.
 */
export type Principal =
  | { readonly as: 'anonymous' }
  | { readonly as: 'stranger'; readonly credentialId: string }
  | {
      readonly as: 'upstream';
      readonly tenants: readonly Tenant[];
      readonly credential: Credential;
    }
  | {
      readonly as: 'tenant';
      readonly tenant: Tenant;
      readonly readOnly: boolean;
      readonly credentialId: string;
    }
  | { readonly as: 'unknown'; readonly credential: Credential };

/** The tenant, logged in with a secret of this registry's that is not for pulling only; without one, anybody. */
export function principalFor(tenant: Tenant | undefined): Principal {
  return tenant === undefined
    ? { as: 'anonymous' }
    : { as: 'tenant', tenant, readOnly: false, credentialId: '' };
}

/** How much of a credential's id tells requesters apart in a log. */
const SHORT_ID = 12;

/** The principal as others count and log it. All credentials of a tenant take turns as one. */
export function requesterOf(principal: Principal): Requester {
  switch (principal.as) {
    case 'anonymous':
      return ANONYMOUS;
    case 'stranger':
      return credentialRequester(principal.credentialId);
    case 'unknown':
      return { ...credentialRequester(principal.credential.id), isUnknown: true };
    case 'tenant':
      return tenantRequester([principal.tenant], principal.credentialId);
    case 'upstream':
      break;
  }
  return tenantRequester(principal.tenants, principal.credential.id);
}

/** One whose credential is known by its id alone. */
export function credentialRequester(credentialId: string): Requester {
  return { tenant: undefined, id: `credential:${credentialId.slice(0, SHORT_ID)}`, credentialId };
}

/** Of several tenants that hold one credential nobody can say which it is: they count as one of their own, with the least limit of theirs. */
function tenantRequester(tenants: readonly Tenant[], credentialId: string): Requester {
  const limits = tenants.flatMap(({ options }) => options.maxTransfers ?? []);
  const limit = limits.length === 0 ? {} : { maxTransfers: Math.min(...limits) };
  const [first, ...others] = tenants;
  if (first === undefined || others.length > 0) return { ...credentialRequester(credentialId), ...limit };
  return { tenant: first.name, id: `tenant:${first.name}`, credentialId, ...limit };
}
