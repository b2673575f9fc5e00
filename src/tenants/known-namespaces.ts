import type { KnownTenant } from '../oci/issued-credential.ts';
import type { SecretSink, SecretSource } from './secret-source.ts';
import { ADOPT_NEXT_UID } from './tenant-store.ts';

/**
 * The namespaces that a server has seen, without their Secrets: in place of the cluster for commands, which need to know
 * whose a name is and nothing more.
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
