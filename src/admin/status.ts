import type { BucketState } from '../blobs/blob-store.ts';
import { heldBytesOf } from '../metadata/metadata-store.ts';
import type { DownloadState } from '../mirror/fill/download-state.ts';
import { NO_TRAFFIC, type Transferred, type TransferTotals } from '../ops/transfer-totals.ts';
import type { SecretState } from '../tenants/tenant.ts';
import type { AdminParts } from './admin-parts.ts';
import { allDownloads, bytesThere } from './downloads.ts';
import type { ReplicaDocument } from './documents/replicas.ts';
import type {
  BucketStatus,
  DownloadStatus,
  ForeignDownloadStatus,
  SavedStatus,
  SecretStatus,
  StatusDocument,
  StoreStatus,
  UpstreamStatus,
} from './documents/status.ts';
import { firstBytesDocument } from './first-bytes.ts';
import { partialStatus } from './partials.ts';
import type { NextToGo } from './next-to-go.ts';
import { type ServingReport, servingReport } from './serving-report.ts';

/** Somebody at a terminal waits for the answer. */
const NEXT_WITHIN_MS = 3_000;

export interface StatusOptions {
  readonly parts: Pick<
    AdminParts,
    'config' | 'metadata' | 'spool' | 'blobs' | 'mirror' | 'upstreams' | 'tenants'
  >;
  readonly next: NextToGo;
  /** What was sent and fetched, since the start and in all. */
  readonly totals: TransferTotals;
  /** When this server started, epoch ms. */
  readonly startedAtMs: number;
  /** As in `StatusDocument`. */
  readonly problems: readonly string[];
  /** As in `StatusDocument`. */
  readonly servingPids: readonly number[];
  /** What they report. */
  readonly serving: readonly ServingReport[];
  /** As in `StatusDocument`. */
  readonly replicas: readonly ReplicaDocument[];
}

/** The current state of a server. */
export async function statusDocument(options: StatusOptions): Promise<StatusDocument> {
  const { parts, next, totals, startedAtMs, problems, servingPids, serving, replicas } = options;
  const reports = [await servingReport(parts, totals, 'all'), ...serving];
  const downloads = allDownloads(reports);
  return {
    pid: process.pid,
    servingPids,
    started: timeOf(startedAtMs),
    processes: await parts.metadata.countProcesses(),
    problems,
    downloads: downloads.map(downloadStatus),
    downloadsElsewhere: await elsewhere(parts, downloads),
    partial: partialStatus(reports, downloads),
    saved: savedOf(await totals.inAll(), reports, startedAtMs),
    store: await storeStatus(parts, next, NEXT_WITHIN_MS),
    upstreams: upstreamStatus(parts, reports),
    replicas,
    secrets: secretStatus(parts),
  };
}

/** A download as it is shown. */
export function downloadStatus(download: DownloadState): DownloadStatus {
  const { aheadBytes: _, startedAtMs, size = null, holder = null, ...rest } = download;
  return { ...rest, bytes: bytesThere(download), size, holder, started: timeOf(startedAtMs) };
}

/**
 * What was saved: `inAll` by what this process knows, since the start by the reports of all processes of the server, its
 * own first.
 */
export function savedOf(
  inAll: Awaited<ReturnType<TransferTotals['inAll']>>,
  reports: readonly Pick<ServingReport, 'sinceStart' | 'unkept'>[],
  startedAtMs: number,
): StatusDocument['saved'] {
  const started = timeOf(startedAtMs);
  const all = reports
    .slice(1)
    .map(({ unkept }) => unkept)
    .reduce(sumOf, inAll);
  return {
    sinceStart: savedStatus(reports.map(({ sinceStart }) => sinceStart).reduce(sumOf, NO_TRAFFIC), started),
    inAll: savedStatus(all, inAll.sinceMs === undefined ? started : timeOf(inAll.sinceMs)),
  };
}

function sumOf(one: Transferred, other: Transferred): Transferred {
  return {
    sentBytes: one.sentBytes + other.sentBytes,
    fetchedBytes: one.fetchedBytes + other.fetchedBytes,
  };
}

async function elsewhere(
  { mirror, config }: StatusOptions['parts'],
  here: readonly DownloadState[],
): Promise<readonly ForeignDownloadStatus[]> {
  const found = await mirror.downloadsElsewhere([...config.upstreams.keys()]);
  const known = new Set(here.map(({ digest }) => digest));
  const others = found.filter(({ digest }) => !known.has(digest));
  return others.map(({ upstream = null, ...download }) => ({ ...download, upstream }));
}

function savedStatus({ sentBytes, fetchedBytes }: Transferred, since: string): SavedStatus {
  return { sentBytes, fetchedBytes, savedBytes: Math.max(0, sentBytes - fetchedBytes), since };
}

/** How full the store is; finding out what would be evicted next takes `nextWithinMs` at most. */
export async function storeStatus(
  { config, metadata, spool, blobs }: Pick<StatusOptions['parts'], 'config' | 'metadata' | 'spool' | 'blobs'>,
  next: NextToGo,
  nextWithinMs: number,
): Promise<StoreStatus> {
  const totals = await metadata.readTotals();
  const { freeBytes, minFreeBytes } = await spool.space.look();
  const indexLost = metadata.loss() !== undefined;
  return {
    path: config.storage.path,
    heldBytes: heldBytesOf(totals),
    unfinishedBytes: spool.unfinishedBytes,
    maxBytes: config.storage.maxBytes ?? null,
    freeBytes,
    minFreeBytes,
    bucket: blobs.bucket === undefined ? null : bucketStatus(blobs.bucket),
    local: (await blobs.localUsage?.()) ?? null,
    damaged: await metadata.countDamaged(),
    // The survey opens the index by its name.
    next: indexLost ? null : await next.look(nextWithinMs),
    indexLost,
  };
}

function bucketStatus({ name, trouble }: BucketState): BucketStatus {
  return {
    name,
    trouble: trouble === undefined ? null : { kind: trouble.kind, since: timeOf(trouble.sinceMs) },
  };
}

function upstreamStatus(
  { config }: Pick<StatusOptions['parts'], 'config'>,
  reports: readonly ServingReport[],
): readonly UpstreamStatus[] {
  return [...config.upstreams.values()].map(({ name, url }) => {
    const known = reports.flatMap(({ upstreams }) => upstreams.filter(each => each.name === name));
    const answered = known.flatMap(({ answeredAtMs }) => answeredAtMs ?? []);
    const failure = known.flatMap(each => each.failure ?? []).sort((one, other) => other.atMs - one.atMs)[0];
    const remaining = known.flatMap(({ budgets }) => budgets.flatMap(budget => budget.remaining ?? []));
    return {
      name,
      url,
      lastAnswer: answered.length === 0 ? null : timeOf(Math.max(...answered)),
      lastError: failure === undefined ? null : { ...withoutTime(failure), at: timeOf(failure.atMs) },
      budgetRemaining: remaining.length === 0 ? null : Math.min(...remaining),
      firstBytes: firstBytesDocument(reports, name),
    };
  });
}

function withoutTime<T extends { readonly atMs: number }>({ atMs: _atMs, ...rest }: T): Omit<T, 'atMs'> {
  return rest;
}

/** Secrets that cannot be read, or were refused since they were last used. */
export function secretStatus({ tenants }: Pick<StatusOptions['parts'], 'tenants'>): readonly SecretStatus[] {
  const all = [
    ...tenants.node.map(state => ({ tenant: null, state })),
    ...tenants.list().flatMap(({ name, secrets }) => secrets.map(state => ({ tenant: name, state }))),
  ];
  return all
    .filter(({ state }) => isTroubled(state))
    .map(({ tenant, state }) => ({
      tenant,
      secret: state.name,
      source: state.source,
      state: state.state,
      reason: state.reason ?? null,
      lastRefused: optionalTime(state.lastRefusedAtMs),
      lastUsed: optionalTime(state.lastUsedAtMs),
    }));
}

function isTroubled({ state, lastRefusedAtMs = 0, lastUsedAtMs = 0 }: SecretState): boolean {
  return state !== 'loaded' || lastRefusedAtMs > lastUsedAtMs;
}

/** ISO 8601; `null` for never. */
export function optionalTime(atMs: number | undefined): string | null {
  return atMs === undefined ? null : timeOf(atMs);
}

/** ISO 8601. */
export function timeOf(atMs: number): string {
  return new Date(atMs).toISOString();
}
