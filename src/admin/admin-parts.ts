import type { Access } from '../access/access.ts';
import type { Explanation } from '../access/explanation.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Spool } from '../blobs/spool.ts';
import type { Config } from '../config/config.ts';
import type { PrefixQuota } from '../hosted/quota.ts';
import type { Clock } from '../lib/clock.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Mirror } from '../mirror/mirror.ts';
import type { Digest } from '../oci/digest.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import type { Issuer } from '../tenants/issuer.ts';
import type { Tenants } from '../tenants/tenant.ts';
import type { LastPulls } from '../prepull/last-pulls.ts';
import type { ImageRemoval } from '../upkeep/image-removal.ts';
import type { StoreSurvey } from '../upkeep/stores.ts';
import type { Upkeep } from '../upkeep/upkeep.ts';
import type { TransferTotals } from '../ops/transfer-totals.ts';
import type { Upstream } from '../upstream/upstream.ts';
import type { ReplicaDocument } from './documents/replicas.ts';
import type { ReportScope, ServingReport } from './serving-report.ts';

/** The parts of a server that operators see and command: of the composition root's parts, those that are used here. */
export interface AdminParts {
  readonly config: Config;
  readonly clock: Clock;
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly survey: StoreSurvey;
  readonly resolver: RepositoryResolver;
  readonly tenants: Tenants;
  readonly access: Pick<Access, 'isOpen' | 'pushPlace'>;
  readonly issuer: Issuer;
  readonly quota: PrefixQuota;
  /** By name. */
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly mirror: Mirror;
  readonly upkeep: Upkeep;
  readonly removal: ImageRemoval;
  /** As in the composition root's parts. */
  refresh(reference: string): Promise<Digest>;
  /** As in the composition root's parts. */
  explain(reference: string, tenant: string | undefined): Promise<Explanation | undefined>;
}

/** What only a running server knows. */
export interface AdminServer {
  readonly version: string;
  /** Epoch ms. */
  readonly startedAtMs: number;
  /** What this process has sent and fetched, and what is kept of all. */
  readonly totals: TransferTotals;
  /** Where it listens for clients, those for one upstream last; empty during startup. */
  readonly addresses: readonly string[];
  /** The processes that serve its clients, if it does not do so itself. */
  readonly servingPids: readonly number[];
  /** As in `ReplicasDocument`. */
  readonly replicas: readonly ReplicaDocument[];
  /** Which of `problems` are about other replicas. */
  readonly replicaProblems: readonly string[];
  /** What sends notifications. */
  readonly delivery: AdminDelivery;
  readonly lastPulls: Readonly<Pick<LastPulls, 'of' | 'failing'>>;
  /** As in `OpsServerOptions`. */
  notReady(): Promise<string | undefined>;
  /** As in `OpsServerOptions`. */
  problems(): Promise<readonly string[]>;
  /** What its serving processes report that answer soon. */
  reports(scope: ReportScope): Promise<readonly ServingReport[]>;
}

/** As in the composition root's `EventDelivery`. */
export interface AdminDelivery {
  problemOf(endpoint: string): { readonly reason: string; readonly refused: string | undefined } | undefined;
  isSending(endpoint: string): boolean;
  hurry(endpoint: string): void;
  /** Calls `listener` when any of it has changed; returns a function that stops this. */
  onChange(listener: () => void): () => void;
}
