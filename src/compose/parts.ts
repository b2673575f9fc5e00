/**
 * The composition root: makes each part from its piece of the configuration, and passes it what it needs of others.
 * Nothing else knows which implementation is used.
 */
import { randomBytes } from 'node:crypto';
import type { Access } from '../access/access.ts';
import type { Explanation } from '../access/explanation.ts';
import type { Config } from '../config/config.ts';
import { putInForce } from '../config/reload.ts';
import type { Grants } from '../grants/grants.ts';
import { Hosted } from '../hosted/hosted.ts';
import { Publication } from '../hosted/publication.ts';
import { firstComponent, PrefixQuota, type Quota } from '../hosted/quota.ts';
import { Removal } from '../hosted/removal.ts';
import { type QuotaCalls, RemoteQuota } from '../hosted/shared-quota.ts';
import { type ClientUploads, SharedUploads } from '../hosted/shared-uploads.ts';
import { Uploads } from '../hosted/uploads.ts';
import { Cursors } from '../http/cursors.ts';
import { hostedHandlers } from '../http/hosted.ts';
import type { HostedHandlers } from '../http/hosted-handlers.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { MemoryBudget } from '../lib/memory-budget.ts';
import type { Meter } from '../lib/meter.ts';
import { Opened } from '../lib/opened.ts';
import { storageFault } from '../metadata/storage-probe.ts';
import type { PullTurns } from '../mirror/fill/pull-queue.ts';
import type { Mirror } from '../mirror/mirror.ts';
import type { Outage } from '../mirror/reachability.ts';
import type { FlightCalls } from '../mirror/shared-flights.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import type { ClusterTls } from '../replicas/cluster-tls.ts';
import type { Issuer } from '../tenants/issuer.ts';
import type { Tenants } from '../tenants/tenant.ts';
import type { ImageRemoval } from '../upkeep/image-removal.ts';
import type { SurveyThread } from '../upkeep/survey-thread.ts';
import type { Upkeep } from '../upkeep/upkeep.ts';
import type { Upstream } from '../upstream/upstream.ts';
import { openAccess, upstreamCredentials, verificationPolicies } from './access.ts';
import { openClusterTls } from './cluster-tls.ts';
import { EventDesk } from './event-desk.ts';
import { explainImage } from './image-explanation.ts';
import { knownCluster, openCluster } from './kubernetes.ts';
import { openMirror, Upstreams } from './mirror.ts';
import type { NewsBoard } from './processes/news-board.ts';
import { shareUnfinished } from './processes/unfinished-news.ts';
import { type OtherReplicas, openOtherReplicas } from './replicas.ts';
import { repositoryResolverOf } from './repository-resolver.ts';
import { openStorage, type Storage } from './storage.ts';
import { openUpkeep } from './upkeep.ts';

/** Where the parts report to. */
export interface Observers {
  readonly log: Log;
  readonly meter: Meter;
}

/** Everything below `http/`, opened on one store, for the server and the commands. */
export interface Parts extends Storage {
  readonly config: Config;
  /** Of all parts that wait. */
  readonly clock: Clock;
  /** For bodies that are held in memory as a whole. */
  readonly memory: MemoryBudget;
  readonly resolver: RepositoryResolver;
  readonly tenants: Tenants;
  readonly issuer: Issuer;
  readonly access: Access;
  /** By name. */
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly mirror: Mirror;
  readonly hosted: Hosted;
  readonly uploads: Uploads;
  /** For the repositories of tenants. Counts what other processes have begun only if they ask this one. */
  readonly quota: PrefixQuota;
  readonly upkeep: Upkeep;
  readonly survey: SurveyThread;
  readonly removal: ImageRemoval;
  readonly hostedHandlers: HostedHandlers;
  /** What this process tells endpoints of notifications. */
  readonly events: EventDesk;
  readonly replicas: OtherReplicas | undefined;
  /** Forgets remembered failures, asks upstream now, and returns the digest of an image reference. */
  refresh(reference: string): Promise<Digest>;
  /** Why the tenant, or an anonymous client, can or cannot pull an image; `undefined` if there is no such tenant. */
  explain(reference: string, tenant: string | undefined): Promise<Explanation | undefined>;
  /**
   * Returns a function that applies another configuration (see `planReload`), after which `config` is that one. Until
   * it is called nothing changes; rejects, perhaps with a ConfigError, if the configuration cannot be used. If applying
   * fails, it can be repeated.
   */
  prepareReload(next: Config): Promise<() => Promise<void>>;
  /** `deadlineMs`: how long Fills may take until they can be suspended; then everything is closed. */
  close(deadlineMs?: number): Promise<void>;
}

export interface PartsOptions {
  /** Of all parts that wait. Default: the system's. */
  readonly clock?: Clock;
  /** If not set, the cluster is not watched: only the tenants that a server has recorded in the store are known. */
  readonly followsCluster?: boolean;
  /** Whose unusable Secrets are logged; `undefined` stands for the node's Docker config. By default everybody's. */
  readonly reportsSecretsOf?: (tenant: string | undefined) => boolean;
  /** Whether endpoints of notifications are told of changes of Secrets and upstreams. The default is no. */
  readonly tellsChanges?: boolean;
  /** Whether it is logged that the index may be incomplete. The default is yes. */
  readonly reportsDoubts?: boolean;
  /** Whether this process serves as a replica, if `cluster` is configured. Default: no. */
  readonly serves?: boolean;
  /** Whether a bucket of another store becomes this one's, if this one has no blobs. Default: no. */
  readonly takesBucketOver?: boolean;
  /** If set, does not wait for tenants: until `tenants.waitingFor` is `undefined`, nobody can be identified. */
  readonly startsMeanwhile?: boolean;
  /** How replicas know each other, if it was read already. By default, what the configuration says. */
  readonly clusterTls?: ClusterTls | undefined;
  /** What this process has in common with others of its server, if it has any. */
  readonly common?: Common | undefined;
}

/** What the processes of one server have in common, as one of them uses it. */
export interface Common {
  /** How many serve clients. */
  readonly processes: number;
  /** What one process tells the others. */
  readonly news: Pick<NewsBoard, 'of'>;
  readonly queue: PullTurns;
  readonly flights: FlightCalls;
  /** The quotas of all. Absent in the process that keeps them. */
  readonly quotaCalls?: QuotaCalls;
  /** Makes room on the disk, as `makeRoom` in `openUpkeep`. Absent in the process that does upkeep. */
  readonly makeRoom?: (bytes: number) => Promise<void>;
}

/** The setting of the store with the secret that encrypts cursors. */
const CURSOR_KEY = 'cursor-key';

/**
 * Opens the store in `storage.path`, creating it if necessary. The caller closes the parts. If one of them cannot be
 * opened, closes the others and rejects.
 */
export async function openParts(
  config: Config,
  observers: Observers,
  options: PartsOptions = {},
): Promise<Parts> {
  const opened = new Opened();
  try {
    const parts = await openOn(opened, config, observers, options);
    return { ...parts, close: (deadlineMs = 0) => opened.close(deadlineMs) };
  } catch (error) {
    await opened.close(0);
    // The error may be a consequence of what the file system lacks.
    throw (await storageFault(config.storage.path)) ?? error;
  }
}

async function openOn(
  opened: Opened,
  config: Config,
  { log, meter }: Observers,
  {
    clock = systemClock,
    followsCluster = false,
    startsMeanwhile = false,
    reportsDoubts = true,
    serves = false,
    takesBucketOver = false,
    reportsSecretsOf = () => true,
    tellsChanges = false,
    clusterTls,
    common,
  }: PartsOptions,
): Promise<Omit<Parts, 'close'>> {
  const atEachBeat: (() => void)[] = [];
  const onBeat = () => atEachBeat.forEach(act => act());
  const seen = { clock, log, onBeat, reportsDoubts, serves, takesBucketOver };
  const { metadata, index, spool, blobs, records, bucket, replica } = await openStorage(opened, config, seen);
  const tls = clusterTls ?? (await openClusterTls(config, log))?.tls;
  const replicas = await openOtherReplicas(tls, { metadata, replica, clock, log });
  if (replicas !== undefined) opened.add(replicas);
  const events = opened.add(new EventDesk({ outbox: metadata.outbox, clock, log, meter }));
  await events.follow(config);
  const { announce, note: noteEvent } = events;
  const credentials = await upstreamCredentials(config, metadata);
  const memory = MemoryBudget.ofOne(common?.processes ?? 1);
  const upstreams = opened.add(new Upstreams(config, credentials, { memory, news: common?.news }));
  const needs = { metadata, clock, log, meter };
  const cluster = followsCluster ? await openCluster(config, needs) : knownCluster(config, needs);
  const accessParts = await openAccess(config, {
    ...needs,
    credentials,
    cluster,
    startsMeanwhile,
    reportsSecretsOf,
    loginNews: common?.news.of('logins'),
    noteSecret: tellsChanges
      ? (tenant, { name, state, reason }) =>
          noteEvent({ kind: 'secret', tenant, secret: name, state, reason })
      : undefined,
  });
  const { tenants, issuer, grants, access } = accessParts;
  opened.add(tenants);
  atEachBeat.push(() => void grants.removeEnded());
  opened.add({ close: () => grants.removeEnded() });
  const limitOf = (owner: string) => tenants.find(owner)?.options.quotaBytes;
  const ownQuota = new PrefixQuota(
    metadata,
    limitOf,
    config.hosted,
    config.upkeep,
    (repository, { message }) => {
      const tenant = firstComponent(repository.name);
      noteEvent({ kind: 'quota', repository, tenant, reason: message });
    },
  );
  const quota = quotaOf(ownQuota, common, limitOf);
  const uploads = opened.add(
    new Uploads({
      spool,
      blobs,
      metadata,
      log,
      quota,
      replica,
      get maxUploadsPerRequester() {
        return config.hosted.maxUploads;
      },
    }),
  );
  const { upkeep, survey, removal } = openUpkeep(config, {
    metadata,
    index,
    spool,
    blobs,
    records,
    bucket,
    replica,
    uploads,
    log,
    meter,
    announce,
    noteEvent,
  });
  opened.add(survey);
  if (common?.makeRoom !== undefined) spool.space.roomMaker = common.makeRoom;
  if (common !== undefined) opened.add(shareUnfinished(spool, common.news.of('unfinished')));
  const mirror = opened.add(
    openMirror(config, {
      ...needs,
      credentials,
      upstreams: upstreams.byName,
      spool,
      blobs,
      grants,
      replica,
      replicas: replicas?.client,
      queue: common?.queue,
      flights: common?.flights ?? replicas?.flights,
      failureNews: common?.news.of('failures'),
      endNews: common?.news.of('ended rights'),
      noteEvent,
      ...(tellsChanges && {
        noteReachable: (upstream, failure) => {
          const state = failure === undefined ? 'reachable' : 'unreachable';
          noteEvent({ kind: 'upstream', upstream, state, reason: failure?.message });
        },
        noteDown: (upstream, outage) => logOutage(log, upstream, outage),
      }),
    }),
  );
  opened.add({ close: followSecrets({ tenants, grants, mirror, log }) });
  const hosted = new Hosted({ blobs, metadata, log });
  const deleting = new Removal({ metadata, announce });
  const publication = new Publication({
    metadata,
    admit: bytes => spool.space.admit(bytes),
    quota,
    memory,
    announce,
  });
  const resolver = repositoryResolverOf(config, name => tenants.find(name) !== undefined);
  const cursors = new Cursors(await metadata.initSetting(CURSOR_KEY, randomBytes(32).toString('hex')));
  return {
    config,
    clock,
    metadata,
    index,
    spool,
    blobs,
    records,
    bucket,
    replica,
    memory,
    resolver,
    tenants,
    issuer,
    access,
    upstreams: upstreams.byName,
    mirror,
    hosted,
    uploads,
    quota: ownQuota,
    upkeep,
    survey,
    removal,
    events,
    replicas,
    hostedHandlers: hostedHandlers({
      hosted,
      uploads: clientUploads(uploads, { metadata, replica, replicas }),
      publication,
      removal: deleting,
      cursors,
    }),
    refresh: async reference => {
      const { repository, tag = DEFAULT_TAG, digest } = mirroredBy(resolver, reference);
      return mirror.refresh(repository, digest ?? tag, await access.operatorRight(repository));
    },
    explain: (reference, name) =>
      explainImage({ config, resolver, access, mirror, tenants, metadata, blobs }, reference, name),
    prepareReload: async next => {
      verificationPolicies(next);
      const named = await upstreamCredentials(next, metadata);
      return async () => {
        putInForce(config, next);
        credentials.clear();
        for (const [login, credential] of named) credentials.set(login, credential);
        upstreams.follow(config, credentials);
        resolver.setUpstreams([...config.upstreams.values()]);
        mirror.limitsChanged();
        await events.follow(config);
        await accessParts.follow();
        // The process that has started this one tells everybody.
        if (common?.quotaCalls !== undefined) return;
        await mirror.secretsChanged().catch((error: unknown) => {
          log.error(
            { err: error },
            'the other processes on the store could not be notified of new credentials',
          );
        });
      };
    },
  };
}

/** The quotas that this process asks: its own, unless another keeps them. */
function quotaOf(
  own: Quota,
  common: Common | undefined,
  limitOf: (owner: string) => number | undefined,
): Quota {
  if (common?.quotaCalls === undefined) return own;
  return new RemoteQuota(common.quotaCalls, ({ name }) => limitOf(firstComponent(name)) !== undefined);
}

/** The uploads of all replicas, if there may be several. */
function clientUploads(
  own: Uploads,
  { metadata, replica, replicas }: Pick<Parts, 'metadata' | 'replica' | 'replicas'>,
): ClientUploads {
  if (replica === undefined || replicas === undefined) return own;
  const find = async (id: string) => (await metadata.listReplicas()).find(other => other.id === id);
  return new SharedUploads(own, replica, async id => {
    const found = await find(id);
    return found && replicas.client.uploadsAt(found.address, async () => (await find(id)) !== undefined);
  });
}

/** The repository of an image reference on the command line; throws if it is hosted. */
function mirroredBy(
  resolver: RepositoryResolver,
  reference: string,
): ReturnType<RepositoryResolver['repositoryOf']> {
  const named = resolver.repositoryOf(reference);
  if (named.repository.upstream === '') {
    throw new OciError('UNSUPPORTED', { message: `${reference} is hosted here and has no upstream` });
  }
  return named;
}

interface Followers {
  readonly tenants: Tenants;
  readonly grants: Grants;
  readonly mirror: Mirror;
  readonly log: Log;
}

/**
 * When a Secret is removed, ends its Grants; after any change forgets remembered failures. Returns a function that
 * stops this.
 */
function followSecrets({ tenants, grants, mirror, log }: Followers): () => void {
  return tenants.onChange(({ goneCredentialIds }) => {
    const ended = goneCredentialIds.map(id => grants.endAllOf(id));
    Promise.all([...ended, mirror.secretsChanged()]).catch((error: unknown) => {
      log.error({ err: error }, 'a change of Secrets could not be applied everywhere');
    });
  });
}

/** Clients get what is stored meanwhile, and may notice nothing. */
function logOutage(log: Log, upstream: string, outage: Outage | undefined): void {
  if (outage === undefined) {
    log.info({ upstream }, 'an upstream answers again');
    return;
  }
  const { sinceMs, failure } = outage;
  log.warn(
    { upstream, since: new Date(sinceMs).toISOString(), reason: failure.message },
    'an upstream does not answer: what is stored of it is still served, but nothing new can be pulled',
  );
}
