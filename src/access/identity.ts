import type { Credential } from '../oci/credential.ts';
import { ANONYMOUS, type Requester } from '../oci/requester.ts';
import { credentialRequester } from './principal.ts';
import type { Scope } from './scope.ts';

/** A token limits what may be done with it. */
interface Scoped {
  /** The scopes of the token that the request came with; `undefined` without one: no limit besides the rights. */
  readonly scopes?: readonly Scope[] | undefined;
}

/**
 * What a request proves, before its repository is known. `anonymous`: nothing. `credential`: some tenant has the
 * credential. `account`: a Kubernetes ServiceAccount, and thereby its namespace. `unknown`: a credential that may be
 * tried upstream. `wrong`: a credential that nobody has. `void`: a token that is not ours or no longer valid.
 */
export type Identity = Scoped &
  (
    | { readonly kind: 'anonymous' }
    | { readonly kind: 'credential'; readonly id: string; readonly tenant?: string | undefined }
    | { readonly kind: 'account'; readonly id: string; readonly tenant: string }
    | { readonly kind: 'unknown'; readonly credential: Credential }
    | { readonly kind: 'wrong' }
    | { readonly kind: 'void' }
  );

/** The requester of an identity, as far as it is known before a repository is named. */
export function requesterOfIdentity(identity: Identity): Requester {
  switch (identity.kind) {
    case 'account':
      return { tenant: identity.tenant, id: `tenant:${identity.tenant}`, credentialId: identity.id };
    case 'credential':
      return credentialRequester(identity.id);
    case 'unknown':
      return credentialRequester(identity.credential.id, { isUnknown: true });
    case 'anonymous':
    case 'wrong':
    case 'void':
      break;
  }
  return ANONYMOUS;
}
