import type { Config } from '../config/config.ts';
import type { BoundAddress } from '../http/listen.ts';
import type { Audit } from '../ops/audit.ts';
import type { MetricsSnapshot } from '../ops/metrics.ts';
import type { TlsMaterial } from '../ops/tls-files.ts';
import type { Parts } from './parts.ts';
import { hostAliasesOf, openRegistryServer, type RegistryServerNeeds } from './registry-server.ts';
import type { ReportScope, ServingReport } from '../admin/serving-report.ts';

/** What serves clients: this process, or several that it has started. */
export interface Serving {
  /** In the order of the configuration. */
  readonly addresses: readonly BoundAddress[];
  renewTls(material: TlsMaterial): void;
  /** Call when this process has put another configuration in force; resolves when clients are served by it. */
  reload(): Promise<void>;
  /** Opens the audit log by its name again; rejects if that fails. */
  reopenAudit(): Promise<void>;
  /** Why no client can be served now, apart from what this process knows itself; `undefined` if one can. */
  notReady(): Promise<string | undefined>;
  /** As in `StatusDocument`. */
  readonly servingPids: readonly number[];
  /** As in `StatusDocument`: what this process knows of the others, and what each reports that answers soon. */
  problems(): Promise<readonly string[]>;
  reports(scope: ReportScope): Promise<readonly ServingReport[]>;
  metrics(): Promise<readonly MetricsSnapshot[]>;
  /** As `RunningServer.close`. */
  close(deadlineMs: number): Promise<void>;
}

/** Serves clients in this process. */
export async function serveHere(
  config: Config,
  parts: Parts,
  needs: RegistryServerNeeds & { readonly audit: Audit | undefined },
): Promise<Serving> {
  const server = await openRegistryServer(config, parts, needs);
  return {
    addresses: server.addresses,
    renewTls: material => server.renewTls(material),
    reload: async () => server.setHostAliases(hostAliasesOf(config)),
    reopenAudit: async () => needs.audit?.reopen(),
    notReady: async () => undefined,
    servingPids: [],
    problems: async () => [],
    reports: async () => [],
    metrics: async () => [],
    close: deadlineMs => server.close(deadlineMs),
  };
}
