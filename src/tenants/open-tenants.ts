import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { CredentialPlugins } from './credential-plugins.ts';
import type { SecretSource } from './secret-source.ts';
import type { ConfiguredTenant, Tenants } from './tenant.ts';
import { TenantDirectory } from './tenant-directory.ts';
import type { TenantStore } from './tenant-store.ts';

export interface TenantsParts {
  /** In order of precedence if several have Secrets of one tenant. */
  readonly sources: readonly SecretSource[];
  /** The tenants of the configuration, which exist whatever the sources say. */
  readonly configured: readonly ConfiguredTenant[];
  /** Files or folders of Docker configs, as in `NodeConfig`. */
  readonly nodeConfig: readonly string[];
  readonly plugins: Pick<CredentialPlugins, 'configsFor' | 'close'> | undefined;
  readonly store: TenantStore;
  /** The store's secret for credential ids. */
  readonly credentialKey: string;
  /** Why no tenant may have a name (because it means something else); `undefined` if one may. */
  readonly nameProblem: (name: string) => string | undefined;
  /** If set, does not wait for a source that reports what its start waits for. */
  readonly startsMeanwhile?: boolean;
  /** Whose unusable Secrets are logged; `undefined` stands for `nodeConfig`. By default everybody's. */
  readonly reportsSecretsOf?: (tenant: string | undefined) => boolean;
  readonly log: Log;
  readonly meter: Meter;
  readonly nowMs?: () => number;
}

/**
 * Opens all tenants; resolves when everything that has to be waited for was read. Rejects if a source can never work.
 */
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
