/**
 * The part of the composition root that describes the state of a server, for `entrepot status`. Only for the operator.
 */
import type { BlobStore, BucketState, BucketTrouble, LocalUsage } from '../blobs/blob-store.ts';
import { parseJsonObject } from '../lib/json.ts';
import type { Lease } from '../lib/lease.ts';
import { unlessAborted } from '../lib/single-flight.ts';
import { withLease } from '../lib/with-lease.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { everything, type Survey } from '../metadata/survey.ts';
import type { Download } from '../mirror/fill/fill-run.ts';
import type { PartialState } from '../mirror/fill/partials.ts';
import type { UpstreamState } from '../mirror/upstream-record.ts';
import type { Digest } from '../oci/digest.ts';
import { repositoryText } from '../oci/repository.ts';
import type { KeptTransfers, Transferred, TransferKeeper, TransferTotals } from '../ops/transfer-totals.ts';
import type { SecretOrigin } from '../tenants/secret-source.ts';
import type { SecretState } from '../tenants/tenant.ts';
import { unlinkedSinceMs } from '../upkeep/eviction.ts';
import type { Parts } from './parts.ts';

/** The state of a server: what it does, what it saved, how full its store is, and its problems. Times are ISO 8601. */
export interface StatusDocument {
  readonly pid: number;
  /** Those that serve its clients, if it does not do so itself. Absent from an older version. */
  readonly servingPids?: readonly number[];
  readonly started: string;
  /** Live processes on the store, including this one and commands. */
  readonly processes: number;
  /** Problems that do not stop it from serving: as after the `ok` of `/readyz`. */
  readonly problems: readonly string[];
  readonly downloads: readonly DownloadStatus[];
  /** Downloads of other processes on the store, such as `entrepot pull`: the first hundred. Absent from an older version. */
  readonly downloadsElsewhere?: readonly ForeignDownloadStatus[];
  /** Layers that are not stored, of which ranges were requested: the first hundred. Absent from an older version. */
  readonly partial?: readonly PartialStatus[];
  readonly saved: { readonly sinceStart: SavedStatus; readonly inAll: SavedStatus };
  readonly store: StoreStatus;
  readonly upstreams: readonly UpstreamStatus[];
  /** Only those with an error. */
  readonly secrets: readonly SecretStatus[];
}

/** A download in progress. */
export interface DownloadStatus {
  readonly repository: string;
  readonly digest: Digest;
  readonly state: 'queued' | 'downloading';
  readonly bytes: number;
  readonly size: number | null;
  /** Clients that currently read it. */
  readonly readers: number;
  /** Tenants; `anonymous`; `operator` for commands of the operator. */
  readonly requesters: readonly string[];
  readonly started: string;
  /** The other process on this store that downloads it, if this one only follows: `process 1234 on node-1`. */
  readonly holder: string | null;
}

/** A download in another process, of which only what is on the disk is known. */
export interface ForeignDownloadStatus {
  readonly digest: Digest;
  readonly bytes: number;
  /** `null` if it is not configured here. */
  readonly upstream: string | null;
  /** `process 1234 on node-1` */
  readonly holder: string;
}

/** A layer of which only ranges are on the disk. */
export interface PartialStatus {
  readonly digest: Digest;
  /** `null` if this server does not use them at the moment. */
  readonly repository: string | null;
  readonly bytes: number;
  /** Of the whole layer; `null` like `repository`. */
  readonly size: number | null;
  /** Clients that currently read them. */
  readonly readers: number;
}

/** Bytes sent and fetched since some time, and their difference. */
export interface SavedStatus extends Transferred {
  /** At least 0: images that were pulled ahead may not have been requested yet. */
  readonly savedBytes: number;
  readonly since: string;
}

/** How full the store and its disk are. */
export interface StoreStatus {
  readonly path: string;
  readonly heldBytes: number;
  readonly unfinishedBytes: number;
  readonly maxBytes: number | null;
  readonly freeBytes: number;
  readonly minFreeBytes: number;
  /** Where blobs are, if they are in a bucket. */
  readonly bucket: BucketStatus | null;
  /** What of a bucket is also kept here; `null` if nothing is. */
  readonly local: LocalUsage | null;
  readonly damaged: number;
  /** What eviction would remove first; `null` if that takes too long to find, or the index is lost. */
  readonly next: readonly NextStatus[] | null;
  /** Whether the index file that this server has open was removed or replaced. */
  readonly indexLost: boolean;
}

/** A bucket, and whether this server can use it. */
export interface BucketStatus {
  readonly name: string;
  readonly trouble: { readonly kind: BucketTrouble['kind']; readonly since: string } | null;
}

/** Content that eviction would remove. */
export interface NextStatus {
  readonly kind: 'blob' | 'manifest';
  readonly digest: Digest;
  readonly size: number;
  /** Some of the repositories that it belongs to. */
  readonly repositories: readonly string[];
}

/** How an upstream has answered. */
export interface UpstreamStatus {
  readonly name: string;
  readonly url: string;
  readonly lastAnswer: string | null;
  readonly lastError: { readonly at: string; readonly reason: string; readonly repository: string } | null;
  /** How many pulls it still allows, if it says so. */
  readonly budgetRemaining: number | null;
}

/** A Secret that cannot be read or was refused. */
export interface SecretStatus {
  /** `null` for the node's, which all tenants share. */
  readonly tenant: string | null;
  readonly secret: string;
  readonly source: SecretOrigin;
  readonly state: SecretState['state'];
  readonly reason: string | null;
  readonly lastRefused: string | null;
  readonly lastUsed: string | null;
}

/** How many entries of `next` are shown. */
const SHOWN_NEXT = 10;
/** A collection on a large store occupies the survey's thread for longer, and somebody is waiting for the answer. */
const NEXT_WITHIN_MS = 3_000;

interface NextOptions {
  readonly metadata: Pick<MetadataStore, 'readSetting' | 'importingSinceMs'>;
  readonly survey: Pick<Survey, 'unlinked' | 'evictable' | 'repositoriesOf'>;
  readonly blobs: Pick<BlobStore, 'hasReaders'>;
}

export interface StatusOptions {
  readonly parts: Pick<
    Parts,
    'config' | 'metadata' | 'spool' | 'blobs' | 'mirror' | 'upstreams' | 'survey' | 'tenants'
  >;
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
}

/** What a process that serves clients reports of itself; it can be cloned. */
export interface ServingReport {
  readonly downloads: readonly Download[];
  readonly partials: readonly PartialState[];
  readonly upstreams: readonly UpstreamReport[];
  readonly sinceStart: Transferred;
  /** What it has not added to the totals in the store yet. */
  readonly unkept: Transferred;
}

/** What a process knows of an upstream. */
export interface UpstreamReport extends UpstreamState {
  readonly name: string;
  /** How many pulls it still allows, by credential. */
  readonly remaining: readonly number[];
}

/** The report of this process. */
export async function servingReport({
  parts,
  totals,
}: Pick<StatusOptions, 'totals'> & {
  readonly parts: Pick<Parts, 'config' | 'mirror' | 'upstreams'>;
}): Promise<ServingReport> {
  const { mirror, config, upstreams } = parts;
  return {
    downloads: mirror.downloads,
    partials: await mirror.partialBlobs(),
    upstreams: [...config.upstreams.keys()].map(name => ({
      name,
      ...mirror.upstreamState(name),
      remaining: (upstreams.get(name)?.budget() ?? []).flatMap(({ remaining }) => remaining ?? []),
    })),
    sinceStart: totals.sinceStart,
    unkept: totals.unkept,
  };
}

/** The current state of a server. */
export async function statusDocument(options: StatusOptions): Promise<StatusDocument> {
  const { parts, totals, startedAtMs, problems, servingPids, serving } = options;
  const kept = await totals.inAll();
  const all = serving.map(({ unkept }) => unkept).reduce(sumOf, kept);
  const started = timeOf(startedAtMs);
  const reports = [await servingReport(options), ...serving];
  const downloads = allDownloads(reports);
  return {
    pid: process.pid,
    servingPids,
    started,
    processes: await parts.metadata.countProcesses(),
    problems,
    downloads: downloads.map(({ startedAtMs: atMs, size = null, holder = null, ...download }) => ({
      ...download,
      size,
      holder,
      started: timeOf(atMs),
    })),
    downloadsElsewhere: await elsewhere(parts, downloads),
    partial: allPartials(reports, downloads).map(({ repository = null, size = null, ...state }) => ({
      ...state,
      repository,
      size,
    })),
    saved: {
      sinceStart: savedStatus(reports.map(({ sinceStart }) => sinceStart).reduce(sumOf), started),
      inAll: savedStatus(all, kept.sinceMs === undefined ? started : timeOf(kept.sinceMs)),
    },
    store: await storeStatus(parts),
    upstreams: upstreamStatus(parts, reports),
    secrets: secretStatus(parts),
  };
}

function sumOf(one: Transferred, other: Transferred): Transferred {
  return {
    sentBytes: one.sentBytes + other.sentBytes,
    fetchedBytes: one.fetchedBytes + other.fetchedBytes,
  };
}

/** Each download once: a process that follows that of another has readers of its own. */
function allDownloads(reports: readonly ServingReport[]): readonly Download[] {
  const [own, ...others] = reports.map(({ downloads }) => downloads);
  if (others.length === 0) return own ?? [];
  const byBlob = new Map<string, Download[]>();
  for (const download of reports.flatMap(({ downloads }) => downloads)) {
    byBlob.set(keyOf(download), [...(byBlob.get(keyOf(download)) ?? []), download]);
  }
  return [...byBlob.values()].flatMap(same => {
    const first = same.find(({ holder }) => holder === undefined) ?? same[0];
    if (first === undefined) return [];
    return {
      ...first,
      readers: same.reduce((sum, { readers }) => sum + readers, 0),
      requesters: [...new Set(same.flatMap(({ requesters }) => requesters))],
      startedAtMs: Math.min(...same.map(({ startedAtMs }) => startedAtMs)),
    };
  });
}

function keyOf({ repository, digest }: Download): string {
  return `${repository.split('/', 1)[0]} ${digest}`;
}

/**
 * Each layer of a repository once, except those that `downloads` complete. What is on disk is in the list of each process;
 * the one that uses it knows more. Processes that use the same layer have files of their own.
 */
export function allPartials(
  [own, ...others]: readonly Pick<ServingReport, 'partials'>[],
  downloads: readonly Download[],
): readonly PartialState[] {
  const used = others.flatMap(({ partials }) =>
    partials.filter(({ repository }) => repository !== undefined),
  );
  const byLayer = new Map<string, PartialState>();
  for (const partial of own?.partials ?? []) {
    const at = used.findIndex(({ digest }) => digest === partial.digest);
    const [known = partial] = partial.repository === undefined && at >= 0 ? used.splice(at, 1) : [];
    if (downloads.some(download => isSameLayer(download, known))) continue;
    const key = `${known.repository ?? ''} ${known.digest}`;
    const same = byLayer.get(key);
    byLayer.set(
      key,
      same === undefined
        ? known
        : { ...same, bytes: same.bytes + known.bytes, readers: same.readers + known.readers },
    );
  }
  return [...byLayer.values()];
}

function isSameLayer(download: Download, { repository, digest }: PartialState): boolean {
  return download.digest === digest && (repository === undefined || repository === download.repository);
}

async function elsewhere(
  { mirror, config }: StatusOptions['parts'],
  here: readonly Download[],
): Promise<readonly ForeignDownloadStatus[]> {
  const found = await mirror.downloadsElsewhere([...config.upstreams.keys()]);
  const others = found.filter(({ digest }) => !here.some(download => download.digest === digest));
  return others.map(({ upstream = null, ...download }) => ({ ...download, upstream }));
}

function savedStatus({ sentBytes, fetchedBytes }: Transferred, since: string): SavedStatus {
  return { sentBytes, fetchedBytes, savedBytes: Math.max(0, sentBytes - fetchedBytes), since };
}

async function storeStatus({
  config,
  metadata,
  spool,
  blobs,
  survey,
}: StatusOptions['parts']): Promise<StoreStatus> {
  const { blobBytes, manifestBytes } = await metadata.readTotals();
  const { freeBytes, minFreeBytes } = await spool.space.look();
  const indexLost = metadata.loss() !== undefined;
  return {
    path: config.storage.path,
    heldBytes: blobBytes + manifestBytes,
    unfinishedBytes: spool.unfinishedBytes,
    maxBytes: config.storage.maxBytes ?? null,
    freeBytes,
    minFreeBytes,
    bucket: blobs.bucket === undefined ? null : bucketStatus(blobs.bucket),
    local: (await blobs.localUsage?.()) ?? null,
    damaged: await metadata.countDamaged(),
    // The survey opens the index by its name.
    next: indexLost
      ? null
      : await within(NEXT_WITHIN_MS, signal => nextToGo({ metadata, survey, blobs }, signal)),
    indexLost,
  };
}

function bucketStatus({ name, trouble }: BucketState): BucketStatus {
  return {
    name,
    trouble: trouble === undefined ? null : { kind: trouble.kind, since: timeOf(trouble.sinceMs) },
  };
}

/**
 * What eviction would remove first. If `signal` aborts, rejects between two pages, of which many may have nothing to
 * evict.
 */
export async function nextToGo(
  { metadata, survey, blobs }: NextOptions,
  signal: AbortSignal,
): Promise<readonly NextStatus[]> {
  const nowMs = Date.now();
  const sinceMs = await unlinkedSinceMs(metadata, nowMs);
  const unlinked =
    sinceMs === undefined
      ? []
      : (['manifest', 'blob'] as const).map(
          kind => (after?: string) => survey.unlinked(kind, sinceMs, after),
        );
  const inOrder = [...unlinked, (after?: string) => survey.evictable(nowMs, after)];
  const next: NextStatus[] = [];
  for (const find of inOrder) {
    for await (const entries of everything(find)) {
      for (const { kind, digest, size } of entries) {
        if (kind === 'blob' && blobs.hasReaders(digest)) continue;
        const repositories = (await survey.repositoriesOf(digest)).map(repositoryText);
        next.push({ kind, digest, size, repositories });
        if (next.length === SHOWN_NEXT) return next;
      }
      signal.throwIfAborted();
    }
  }
  return next;
}

/** `null` if it takes longer. */
async function within<T>(ms: number, work: (signal: AbortSignal) => Promise<T>): Promise<T | null> {
  const late = AbortSignal.timeout(ms);
  try {
    return await unlessAborted(work(late), late);
  } catch (error) {
    if (error === late.reason) return null;
    throw error;
  }
}

function upstreamStatus(
  { config }: Pick<StatusOptions['parts'], 'config'>,
  reports: readonly ServingReport[],
): readonly UpstreamStatus[] {
  return [...config.upstreams.values()].map(({ name, url }) => {
    const known = reports.flatMap(({ upstreams }) => upstreams.filter(each => each.name === name));
    const answered = known.flatMap(({ answeredAtMs }) => answeredAtMs ?? []);
    const failure = known.flatMap(each => each.failure ?? []).sort((one, other) => other.atMs - one.atMs)[0];
    const remaining = known.flatMap(each => each.remaining);
    return {
      name,
      url,
      lastAnswer: answered.length === 0 ? null : timeOf(Math.max(...answered)),
      lastError: failure === undefined ? null : { ...withoutTime(failure), at: timeOf(failure.atMs) },
      budgetRemaining: remaining.length === 0 ? null : Math.min(...remaining),
    };
  });
}

function withoutTime<T extends { readonly atMs: number }>({ atMs: _atMs, ...rest }: T): Omit<T, 'atMs'> {
  return rest;
}

function secretStatus({ tenants }: StatusOptions['parts']): readonly SecretStatus[] {
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

function isTroubled({ state, reason, lastRefusedAtMs }: SecretState): boolean {
  return state !== 'loaded' || reason !== undefined || lastRefusedAtMs !== undefined;
}

function optionalTime(atMs: number | undefined): string | null {
  return atMs === undefined ? null : timeOf(atMs);
}

function timeOf(atMs: number): string {
  return new Date(atMs).toISOString();
}

const SETTING = 'transfer-totals';
const LEASE_KEY = 'transfer-totals';
/** Another process has it only for a moment. A suspended one is not waited for. */
const LEASE_WAIT_MS = 1_000;

/** Stores the totals in the index, where all processes add theirs. `startedAtMs`: when this one began to count. */
export function transferKeeper(
  metadata: Pick<MetadataStore, 'acquireLease' | 'readLease' | 'release' | 'readSetting' | 'putSetting'>,
  startedAtMs: number,
): TransferKeeper {
  const read = async (): Promise<KeptTransfers | undefined> => {
    const text = await metadata.readSetting(SETTING);
    const kept = text === undefined ? undefined : parseJsonObject(Buffer.from(text));
    if (kept === undefined) return undefined;
    const number = (name: string): number => (Number.isFinite(kept[name]) ? Number(kept[name]) : 0);
    return {
      sinceMs: number('sinceMs'),
      sentBytes: number('sentBytes'),
      fetchedBytes: number('fetchedBytes'),
    };
  };
  const addUnder = async (lease: Lease, more: Transferred): Promise<true> => {
    const kept = (await read()) ?? { sinceMs: startedAtMs, sentBytes: 0, fetchedBytes: 0 };
    const total: KeptTransfers = {
      sinceMs: kept.sinceMs,
      sentBytes: kept.sentBytes + more.sentBytes,
      fetchedBytes: kept.fetchedBytes + more.fetchedBytes,
    };
    await lease.confirm();
    await metadata.putSetting(SETTING, JSON.stringify(total));
    return true;
  };
  const wait = { mayWait: (waitedMs: number) => waitedMs < LEASE_WAIT_MS };
  return {
    read,
    add: async more => (await withLease(metadata, LEASE_KEY, lease => addUnder(lease, more), wait)) ?? false,
  };
}
