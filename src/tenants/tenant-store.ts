import type { Presence } from '../lib/lease.ts';
import type { CredentialUsage } from '../oci/credential.ts';
import type { IssuedCredential, KnownTenant } from '../oci/issued-credential.ts';

/** A change that is not made if others have considered this process dead since it was asked for. */
export interface AskedDuring {
  /** Default: it is made, however late. */
  readonly during?: Presence | undefined;
}

/** The part of the index that tenants need. */
export interface TenantStore {
  listKnownTenants(): Promise<readonly KnownTenant[]>;
  putKnownTenants(tenants: readonly KnownTenant[], asked?: AskedDuring): Promise<void>;
  removeKnownTenant(name: string, asked?: AskedDuring): Promise<void>;
  listIssuedCredentials(): Promise<readonly IssuedCredential[]>;
  /** None of them ends later than it did. */
  putIssuedCredentials(credentials: readonly IssuedCredential[], asked?: AskedDuring): Promise<void>;
  /** Tells other processes that any of this has changed. */
  notify(topic: 'secrets'): Promise<void>;
  onNotification(topic: 'secrets', listener: () => void): () => void;
  pollNotifications(): Promise<void>;
  listCredentialUsage(): Promise<readonly CredentialUsage[]>;
  putCredentialUsage(usage: readonly CredentialUsage[]): Promise<void>;
  removeCredentialUsage(credentialIds: readonly string[]): Promise<void>;
}

/** In place of a UID: the tenant gets the UID of its namespace when that is next seen. */
export const ADOPT_NEXT_UID = '';
