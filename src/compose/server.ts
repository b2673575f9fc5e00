/** The part of the composition root that serves: the parts of a store, and HTTP in front of them. */
import { availableParallelism, hostname } from 'node:os';
import { join } from 'node:path';
import type { Admin } from '../admin/admin.ts';
import { NextToGo } from '../admin/next-to-go.ts';
import type { ReportScope } from '../admin/serving-report.ts';
import { statusDocument } from '../admin/status.ts';
import type { Config } from '../config/config.ts';
import type { LoadOptions } from '../config/load.ts';
import { PartlyReloaded, planReload, type Reload } from '../config/reload.ts';
import { createOpsServer, type OpsServer } from '../http/ops-server.ts';
import { loadHttpClient } from '../lib/http-client.ts';
import type { Log } from '../lib/log.ts';
import { Opened } from '../lib/opened.ts';
import { SOCKET_FOLDER } from '../lib/socket-folder.ts';
import { formatDuration } from '../lib/units.ts';
import { IndexAway } from '../metadata/index-away.ts';
import { networkFileSystem, storageFault } from '../metadata/storage-probe.ts';
import { mayBeIncomplete, consequenceOf, stopText, whyNotCollected } from '../metadata/store-identity.ts';
import type { Audit } from '../ops/audit.ts';
import type { Metrics } from '../ops/metrics.ts';
import { certificateTrouble, TlsFiles } from '../ops/tls-files.ts';
import { TransferTotals } from '../ops/transfer-totals.ts';
import { LastPulls } from '../prepull/last-pulls.ts';
import { DiskWatch } from '../upkeep/disk-watch.ts';
import { CREDENTIAL_KEY, requireEncryption } from './access.ts';
import { openAdminOf } from './admin.ts';
import { checkFiles } from './check-files.ts';
import { openClusterTls } from './cluster-tls.ts';
import { EventDelivery, OutboxReport } from './event-delivery.ts';
import { UpstreamGauges } from './mirror.ts';
import { type Observers, openParts, type Parts } from './parts.ts';
import { prepullOf } from './prepull.ts';
import type { Together } from './processes/serve-together.ts';
import { QuotaReport } from './quota-report.ts';
import { aboutOwn, replicaStatus, reportReplicas } from './replica-status.ts';
import { openReplicaServer } from './replicas.ts';
import { type Serving, serveHere } from './serving.ts';
import { StartFiles } from './start-files.ts';
import { transferKeeper } from './transfers.ts';
import { reportStore, scheduleOf } from './upkeep.ts';
import { readVersion } from './version.ts';

export interface ServerOptions extends Observers {
  /** The content of `/metrics`. */
  readonly metrics: Pick<Metrics, 'contentType' | 'text' | 'textOfAll'>;
  /** Records all requests, if there is to be an audit log. */
  readonly audit?: Audit | undefined;
}

/** A server that serves until it is closed. */
export interface RunningServer {
  readonly parts: Parts;
  /** In the order of the configuration. */
  readonly addresses: readonly { readonly address: string; readonly upstream: string | undefined }[];
  /** `undefined` if the operations port is disabled. */
  readonly opsAddress: string | undefined;
  /** How many processes serve clients. */
  readonly servingProcesses: number;
  /**
   * Applies what can be applied of `next` without a restart. If `next` cannot be used, rejects, perhaps with a
   * ConfigError, and nothing has changed; if only a part was applied, rejects with PartlyReloaded.
   */
  reload(next: Config): Promise<Reload>;
  /** Opens the audit log by its name again; rejects if that fails. */
  reopenAudit(): Promise<void>;
  /** Accepts no new work; bodies may finish within the deadline; Fills are suspended and can be resumed. */
  close(deadlineMs: number): Promise<void>;
}

/** What a server reports about itself on its socket. */
export interface ServerDocument {
  readonly pid: number;
  /** As in `StatusDocument`. */
  readonly servingPids?: readonly number[];
  /** The machine or container that it runs in; `undefined` from an older version. */
  readonly host?: string;
  /** ISO 8601; `undefined` from an older version. */
  readonly started?: string;
  /** The addresses for clients: `127.0.0.1:5000`. Empty during startup. */
  readonly addresses: readonly string[];
  /**
   * With these options another process loads the same configuration. Contains the server's environment, and so perhaps
   * secrets.
   */
  readonly config: LoadOptions;
}

/** Serves what `config` says, until it is closed. If a port cannot be bound, closes everything and rejects. */
export async function startServer(config: Config, options: ServerOptions): Promise<RunningServer> {
  const opened = new Opened();
  const startedAtMs = Date.now();
  const totals = new TransferTotals(options.meter, upstream => config.upstreams.has(upstream));
  const observers = { ...options, meter: totals };
  let state: 'starting' | 'serving' | 'stopping' = 'starting';
  const addresses: string[] = [];
  let serving: Serving | undefined;
  try {
    await loadHttpClient();
    const files = await StartFiles.read(config);
    await checkFiles(config, options.log);
    await checkStorage(config, options.log);
    const { tls } = config.server;
    const certificate = tls && opened.add(await TlsFiles.open(tls, options.log));
    const together = await togetherOf(config);
    let asked: Pick<Parts, 'mirror' | 'uploads' | 'metadata' | 'replica' | 'replicas'> | undefined;
    const cluster = await openClusterTls(config, options.log);
    if (cluster !== undefined) opened.add(cluster);
    // Before others learn of this replica, and closed when no download is left that they could follow.
    const forReplicas = await openReplicaServer(config, cluster?.tls, {
      ledFill: async (key, epoch) => asked?.mirror.ledFill(key, epoch),
      own: () => asked && { uploads: asked.uploads, presence: asked.metadata.presence },
      flights: () => asked?.replicas?.flights.board,
      about: () => asked && aboutOwn(asked, startedAtMs),
      log: options.log,
    });
    if (forReplicas !== undefined) opened.add(forReplicas);
    const parts = opened.add(
      await openParts(config, observers, {
        followsCluster: true,
        startsMeanwhile: true,
        tellsChanges: true,
        serves: true,
        clusterTls: cluster?.tls,
        common: together?.common,
      }),
    );
    asked = parts;
    parts.replicas?.watch.begin();
    totals.keep(transferKeeper(parts.metadata, startedAtMs), options.log);
    opened.add(totals);
    requireEncryption(config, parts.tenants);
    const disk = new DiskWatch(parts.spool.space, options.log);
    const delivery = opened.add(new EventDelivery(parts, observers));
    const lastPulls = new LastPulls();
    const whyNotServing = () => (state === 'serving' ? undefined : state);
    const ops = await openOps(config, { ...parts, disk, delivery, lastPulls }, observers, {
      whyNotServing,
      serving: () => serving,
      addresses,
      totals,
      startedAtMs,
      certificate,
    });
    opened.add(ops);
    // Before the first push, so that quotas cannot be exceeded.
    await parts.uploads.countUnfinished();
    serving = opened.add(
      together === undefined
        ? await serveHere(config, parts, {
            ...observers,
            audit: options.audit,
            tls: certificate?.material,
            onRefusal: ops.onRefusal,
          })
        : await together.serve({
            parts,
            tls: () => certificate?.material,
            startedAtMs,
            onRefusal: ops.onRefusal,
            log: options.log,
          }),
    );
    const clients = serving;
    const inOrder = clients.addresses.toSorted(
      (one, other) => Number(one.upstream !== undefined) - Number(other.upstream !== undefined),
    );
    addresses.push(...inOrder.map(({ url }) => hostOf(url)));
    certificate?.follow(material => clients.renewTls(material));
    cluster?.follow();
    const { upkeep, clock } = parts;
    const schedule = opened.add(scheduleOf(config, { upkeep, disk, clock, log: options.log }));
    await schedule.follow();
    const prepull = opened.add(prepullOf(parts, { ...observers, lastPulls }));
    await prepull.follow();
    await delivery.follow();
    const reload = async (next: Config): Promise<Reload> => {
      await certificate?.look(material => clients.renewTls(material));
      await cluster?.look();
      const plan = planReload(config, next);
      const apply = await parts.prepareReload(plan.config);
      try {
        await apply();
        await clients.reload();
        await schedule.follow();
        await prepull.follow();
        await delivery.follow();
      } catch (cause) {
        throw new PartlyReloaded('the configuration was applied in part', { cause });
      }
      return { ...plan, needsRestart: [...plan.needsRestart, ...(await files.changed())] };
    };
    let reloading: Promise<unknown> = Promise.resolve();
    // Otherwise it might start something after everything is closed.
    opened.add({ close: () => reloading.catch(() => {}) });
    state = 'serving';
    return {
      parts,
      addresses: clients.addresses.map(({ url, upstream }) => ({ address: hostOf(url), upstream })),
      opsAddress: ops.url && hostOf(ops.url),
      servingProcesses: together?.common.processes ?? 1,
      reload: async next => {
        if (state !== 'serving') throw new Error('the server is stopping');
        const applied = reload(next);
        reloading = applied;
        return applied;
      },
      reopenAudit: () => clients.reopenAudit(),
      close: deadlineMs => {
        state = 'stopping';
        parts.uploads.stopWaiting();
        return opened.close(deadlineMs);
      },
    };
  } catch (error) {
    await opened.close(0);
    throw error;
  }
}

/** This process with others that serve; `undefined` if it serves itself. */
async function togetherOf(config: Config): Promise<Together | undefined> {
  const { processes } = config.server;
  const count = processes === 'auto' ? availableParallelism() : processes;
  if (count === 1) return undefined;
  const { Together } = await import('./processes/serve-together.ts');
  return new Together(config, count);
}

/**
 * Rejects if the folder cannot hold a store, before anything is created there; warns if several machines could use it.
 */
async function checkStorage({ storage: { path } }: Config, log: Log): Promise<void> {
  const fault = await storageFault(path);
  if (fault !== undefined) throw fault;
  const kind = await networkFileSystem(path);
  if (kind === undefined) return;
  log.warn({ path, kind }, 'the store is on a network file system: only one machine may use it');
}

/**
 * Longer than any transaction of another Entrepot. Nothing can be pushed or stored, and soon no right can be proved.
 */
const LOCKED_OUT_MS = 5_000;
/** Records are written within seconds. Those of a store from before there were any take minutes, but none waits so long there. */
const LATE_RECORDS_S = 600;

async function openOps(
  config: Config,
  parts: Parts & {
    readonly disk: DiskWatch;
    readonly delivery: EventDelivery;
    readonly lastPulls: LastPulls;
  },
  { log, meter, metrics, audit }: ServerOptions,
  server: {
    readonly whyNotServing: () => string | undefined;
    /** `undefined` until it has been opened. */
    readonly serving: () => Serving | undefined;
    readonly addresses: readonly string[];
    readonly totals: TransferTotals;
    readonly startedAtMs: number;
    readonly certificate: TlsFiles | undefined;
  },
): Promise<Pick<OpsServer, 'url' | 'close'> & Pick<Admin, 'onRefusal'>> {
  const { metadata, tenants, quota, mirror, disk, delivery, lastPulls } = parts;
  const { opsListen } = config.server;
  // A single query, so that it takes no longer on a large store; throws if the index is broken.
  const notReady = async () => {
    const loss = metadata.loss();
    if (loss !== undefined) return loss.message;
    await metadata.readSetting(CREDENTIAL_KEY);
    const lockedOutMs = metadata.lockedOutForMs();
    return lockedOutMs > LOCKED_OUT_MS
      ? `another process has held the write lock of the index for ${Math.round(lockedOutMs / 1000)} s`
      : (server.whyNotServing() ?? waiting(tenants) ?? server.serving()?.notReady());
  };
  const upstreams = new UpstreamGauges(parts, meter);
  const quotas = new QuotaReport(tenants, quota, meter);
  const outbox = new OutboxReport(parts, meter);
  const ofIndex = async () => {
    await reportStore(parts, meter);
    await quotas.report();
    await outbox.report();
  };
  const answer = async () => {
    upstreams.report();
    reportReplicas(parts, meter);
    await ofIndex().catch(unlessAway);
    meter.gauge('queue_length', mirror.queue.waiting);
    const others = (await server.serving()?.metrics()) ?? [];
    const text = others.length === 0 ? metrics.text() : metrics.textOfAll(others);
    return { contentType: metrics.contentType, text: await text };
  };
  const problems = async () => {
    const loss = metadata.loss()?.message;
    const ofStore = async () => [await collectingProblem(metadata), await recordsProblem(parts)];
    const own = [
      (loss === undefined ? await ofStore() : [loss]).flatMap(problem => problem ?? []),
      certificateProblem(server.certificate) ?? [],
      disk.problem ?? [],
      parts.blobs.bucket?.problem ?? [],
      parts.replicas?.watch.problems ?? [],
      mirror.problems,
      clusterProblem(tenants) ?? [],
      delivery.problems,
    ].flat();
    // Several processes may have the same.
    return [...new Set([...own, ...((await server.serving()?.problems()) ?? [])])];
  };
  const reports = async (scope: ReportScope) => (await server.serving()?.reports(scope)) ?? [];
  const next = new NextToGo(parts, log);
  const admin = await openAdminOf(config, parts, {
    next,
    server: {
      version: readVersion(),
      startedAtMs: server.startedAtMs,
      totals: server.totals,
      addresses: server.addresses,
      delivery,
      lastPulls,
      get servingPids() {
        return server.serving()?.servingPids ?? [];
      },
      get replicas() {
        return replicaStatus(parts, server.startedAtMs);
      },
      get replicaProblems() {
        return parts.replicas?.watch.problems ?? [];
      },
      notReady,
      problems,
      reports,
    },
    status: async () =>
      statusDocument({
        ...server,
        parts,
        next,
        servingPids: server.serving()?.servingPids ?? [],
        serving: await reports('all'),
        replicas: replicaStatus(parts, server.startedAtMs),
        problems: await problems(),
      }),
    audit,
    log,
  });
  const extra = async (path: string): Promise<unknown> =>
    path === '/debug/server'
      ? serverDocument(config, { ...server, servingPids: server.serving()?.servingPids ?? [] })
      : undefined;
  const opened = new Opened();
  opened.add(admin);
  try {
    const ops = opened.add(
      await createOpsServer({
        address: opsListen === false ? undefined : opsListen,
        socketFolder: join(config.storage.path, SOCKET_FOLDER),
        notReady,
        problems,
        metrics: answer,
        extra,
        sites: admin.sites,
        log,
      }),
    );
    return { url: ops.url, onRefusal: admin.onRefusal, close: () => opened.close(0) };
  } catch (error) {
    await opened.close(0);
    throw error;
  }
}

/** What the index would tell is missing from the metrics while it cannot be reached. */
function unlessAway(error: unknown): void {
  if (!(error instanceof IndexAway)) throw error;
}

async function collectingProblem(metadata: Parts['metadata']): Promise<string | undefined> {
  const stop = await whyNotCollected(metadata);
  return stop && `${consequenceOf(stop)}: ${stopText(stop)}`;
}

/** While the index may be incomplete, which is a problem of its own, they are meant to wait. */
async function recordsProblem({ metadata, upkeep }: Parts): Promise<string | undefined> {
  const lag = await upkeep.recordLag();
  if (lag.seconds < LATE_RECORDS_S || (await mayBeIncomplete(metadata))) return undefined;
  return (
    `records of hosted images have not been written for ${formatDuration(Math.floor(lag.seconds / 60) * 60_000)} (${lag.waiting} wait; ` +
    'the log says why): if the index were lost, a rebuild would not bring back what was pushed since'
  );
}

function certificateProblem(certificate: TlsFiles | undefined): string | undefined {
  const trouble = certificate && certificateTrouble(certificate.material);
  return trouble && `the certificate of server.tls ${trouble}`;
}

function clusterProblem({ problems, recalledAtMs }: Parts['tenants']): string | undefined {
  if (problems.length === 0) return undefined;
  const seen =
    recalledAtMs === undefined ? '' : `; using its state of ${new Date(recalledAtMs).toISOString()}`;
  return `parts of the cluster that cannot be watched at the moment: ${problems.length} (see entrepot tenants)${seen}`;
}

function serverDocument(
  { origin: { file, folder, overrides }, environment: env }: Config,
  {
    addresses,
    servingPids,
    startedAtMs,
  }: {
    readonly addresses: readonly string[];
    readonly servingPids: readonly number[];
    readonly startedAtMs: number;
  },
): ServerDocument {
  return {
    pid: process.pid,
    servingPids,
    host: hostname(),
    started: new Date(startedAtMs).toISOString(),
    addresses,
    config: { file, folder, overrides, env },
  };
}

function waiting({ waitingFor }: Parts['tenants']): string | undefined {
  return waitingFor === undefined ? undefined : `waiting for ${waitingFor}`;
}

/** `host:port` of a URL without a path. */
function hostOf(url: string): string {
  return url.slice(url.indexOf('//') + 2);
}
