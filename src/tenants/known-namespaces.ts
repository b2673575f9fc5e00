import type { KnownTenant } from '../oci/issued-credential.ts';
import type { SecretSink, SecretSource } from './secret-source.ts';
import { ADOPT_NEXT_UID } from './tenant-store.ts';

/**
 * Namespaces that a server has recorded, without their Secrets. Replaces the cluster in commands, which only need to
 * know which names are tenants.
 */
export class KnownNamespaces implements SecretSource {
  readonly #listKnownTenants: () => Promise<readonly KnownTenant[]>;

  constructor(listKnownTenants: () => Promise<readonly KnownTenant[]>) {
    this.#listKnownTenants = listKnownTenants;
  }

  async start(sink: SecretSink): Promise<void> {
    for (const { name, uid } of await this.#listKnownTenants()) {
      if (uid !== undefined) sink.put(name, { secrets: [], ...(uid !== ADOPT_NEXT_UID && { uid }) });
    }
  }

  async close(): Promise<void> {}
}
