import type { Config } from '../config/config.ts';
import type { DownloadState } from '../mirror/fill/download-state.ts';
import type { PartialState } from '../mirror/fill/partial-list.ts';
import type { Mirror } from '../mirror/mirror.ts';
import type { OwnLoginState } from '../mirror/own-logins.ts';
import type { UpstreamState } from '../mirror/upstream-record.ts';
import type { FirstByteCounts } from '../ops/first-byte-times.ts';
import type { Traffic, TransferTotals } from '../ops/transfer-totals.ts';
import type { Budget } from '../upstream/budget.ts';
import type { Upstream } from '../upstream/upstream.ts';

/** `live`: without what has to be looked for on the disk. */
export type ReportScope = 'all' | 'live';

/** What a process that serves clients reports of itself; it can be cloned. */
export interface ServingReport {
  readonly downloads: readonly DownloadState[];
  readonly partials: readonly PartialState[];
  readonly upstreams: readonly UpstreamReport[];
  readonly firstBytes: readonly FirstByteCounts[];
  readonly sinceStart: Traffic;
  /** What it has not added to the totals in the store yet. */
  readonly unkept: Traffic;
}

/** What a process knows of an upstream. */
export interface UpstreamReport extends UpstreamState {
  readonly name: string;
  /** What it still allows, by credential. */
  readonly budgets: readonly Budget[];
  /** Entrepot's own credentials, if it has any. */
  readonly login: OwnLoginState | undefined;
}

interface ReportingParts {
  readonly config: Config;
  readonly mirror: Mirror;
  readonly upstreams: ReadonlyMap<string, Upstream>;
}

/** The report of this process. */
export async function servingReport(
  { config, mirror, upstreams }: ReportingParts,
  totals: TransferTotals,
  scope: ReportScope,
): Promise<ServingReport> {
  return {
    downloads: mirror.downloads,
    partials: scope === 'all' ? await mirror.partialBlobs() : [],
    upstreams: [...config.upstreams.keys()].map(name => ({
      name,
      ...mirror.upstreamState(name),
      budgets: upstreams.get(name)?.budget() ?? [],
      login: mirror.ownLogins.stateOf(name),
    })),
    firstBytes: totals.firstBytes.counts,
    sinceStart: totals.sinceStart,
    unkept: totals.unkept,
  };
}
