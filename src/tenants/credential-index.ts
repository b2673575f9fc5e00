import type { Holder, Tenant } from './tenant.ts';
import type { SecretEntry } from './tenant-secrets.ts';

/** Where each credential is found, over all tenants. */
export class CredentialIndex {
  /** Nearly every credential is in one place, which needs no list. */
  readonly #places = new Map<string, Holder | Holder[]>();
  readonly #byTenant = new Map<Tenant, readonly SecretEntry[]>();

  /** The returned list changes with the index: use it at once and do not keep it. */
  find(credentialId: string): readonly Holder[] {
    const found = this.#places.get(credentialId);
    if (found === undefined) return [];
    return isList(found) ? found : [found];
  }

  /** Replaces everything that the tenant has by `entries`; returns every credential that it has or had. */
  set(tenant: Tenant, entries: readonly SecretEntry[]): ReadonlySet<string> {
    const before = this.#byTenant.get(tenant) ?? [];
    for (const credentialId of new Set(before.map(entry => entry.credentialId))) {
      this.#remove(credentialId, tenant);
    }
    for (const entry of entries) this.#add(tenant, entry);
    if (entries.length > 0) this.#byTenant.set(tenant, entries);
    else this.#byTenant.delete(tenant);
    return new Set([...before, ...entries].map(({ credentialId }) => credentialId));
  }

  #add(tenant: Tenant, { credentialId, secret, key }: SecretEntry): void {
    const holder: Holder = { tenant, secret, key, issued: false, readOnly: false };
    const others = this.#places.get(credentialId);
    if (others === undefined) this.#places.set(credentialId, holder);
    else if (isList(others)) others.push(holder);
    else this.#places.set(credentialId, [others, holder]);
  }

  #remove(credentialId: string, tenant: Tenant): void {
    const [first, ...rest] = this.find(credentialId).filter(holder => holder.tenant !== tenant);
    if (first === undefined) this.#places.delete(credentialId);
    else this.#places.set(credentialId, rest.length === 0 ? first : [first, ...rest]);
  }
}

function isList(found: Holder | Holder[]): found is Holder[] {
  return Array.isArray(found);
}
