import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { CredentialPlugins } from './credential-plugins.ts';
import type { SecretSource } from './secret-source.ts';
import type { ConfiguredTenant, Tenants } from './tenant.ts';
import { TenantDirectory } from './tenant-directory.ts';
import type { TenantStore } from './tenant-store.ts';

export interface TenantsParts {
  /** In the order in which their Secrets count where several speak of one tenant. */
  readonly sources: readonly SecretSource[];
  /** Those of the configuration, which are there whatever the sources say. */
  readonly configured: readonly ConfiguredTenant[];
  /** Files, or folders of such, as `NodeConfig` reads them. */
  readonly nodeConfig: readonly string[];
  readonly plugins: Pick<CredentialPlugins, 'configsFor' | 'close'> | undefined;
  readonly store: TenantStore;
  /** The store's own secret for naming credentials. */
  readonly credentialKey: string;
  /** Why no tenant may have a name (it means something else); `undefined` if one may. */
  readonly nameProblem: (name: string) => string | undefined;
  /** A source that says what its start waits for is not waited for. */
  readonly startsMeanwhile?: boolean;
  readonly log: Log;
  readonly meter: Meter;
  readonly nowMs?: () => number;
}

/** All tenants, once everything that is waited for was read. Rejects when a source can never work. */
export async function openTenants(parts: TenantsParts): Promise<Tenants> {
  const directory = new TenantDirectory(parts);
  try {
    await directory.start();
    return directory;
  } catch (error) {
    await directory.close();
    throw error;
  }
}
