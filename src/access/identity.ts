import type { Credential } from '../oci/credential.ts';
import { ANONYMOUS, type Requester } from '../oci/requester.ts';
import { credentialRequester } from './principal.ts';
import type { Scope } from './scope.ts';

/**
 * What a client proved at the door, before it is known what it wants.
 * `anonymous`: nothing. `credential`: one that some tenant holds. `account`: a Kubernetes service account, and so its
 * namespace. `unknown`: a credential that may be tried upstream. `wrong`: one that is nobody's. `void`: a token that is
 * not ours, or no longer.
 */
export type Identity =
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'credential'; readonly id: string; readonly tenant?: string | undefined }
  | { readonly kind: 'account'; readonly id: string; readonly tenant: string }
  | { readonly kind: 'unknown'; readonly credential: Credential }
  | { readonly kind: 'wrong' }
  | { readonly kind: 'void' };

/** An identity, and what a token bounds it to. */
export interface Proven {
  readonly identity: Identity;
  /** `undefined` for who came without a token: whatever it may, it may do now. */
  readonly scopes: readonly Scope[] | undefined;
}

/** As far as it can be said before a repository is named. */
export function requesterOfIdentity(identity: Identity): Requester {
  switch (identity.kind) {
    case 'account':
      return { tenant: identity.tenant, id: `tenant:${identity.tenant}`, credentialId: identity.id };
    case 'credential':
      return credentialRequester(identity.id);
    case 'unknown':
      return { ...credentialRequester(identity.credential.id), isUnknown: true };
    case 'anonymous':
    case 'wrong':
    case 'void':
      break;
  }
  return ANONYMOUS;
}
