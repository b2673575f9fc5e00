/**
 * mirror/: repositories of upstreams. May import grants/, upstream/, blobs/, metadata/, oci/ and lib/.
 *
 * The main idea: every byte is requested from upstream once, however many clients want it, and served only to clients
 * that could have requested it themselves. `UpstreamRequests` is the only way to an upstream, and decides rights; a
 * `Fill` is one download with many readers; tags are as fresh as their pull policy requires; if upstream cannot answer,
 * stored content does.
 */
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Spool } from '../blobs/spool.ts';
import type { Grants } from '../grants/grants.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { type LoopLoad, measureLoopLoad } from '../lib/loop-load.ts';
import type { Meter } from '../lib/meter.ts';
import { noNews, type News } from '../lib/news.ts';
import { heldBytesOf, type MetadataStore } from '../metadata/metadata-store.ts';
import { mayBeIncomplete } from '../metadata/store-identity.ts';
import type { Credential } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { NoteEvent } from '../oci/event.ts';
import {
  ANY_MANIFEST,
  type BlobWant,
  type ManifestWant,
  type Page,
  type PullSource,
  type ServedBlob,
  type ServedBlobStat,
  type ServedManifest,
  type ServedReferrers,
  type ServedTags,
} from '../oci/pull-source.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { Upstream } from '../upstream/upstream.ts';
import { BlobSource } from './blob-source.ts';
import { Completion, type CompleteRanged } from './fill/completion.ts';
import type { DownloadState } from './fill/download-state.ts';
import { FillQuota } from './fill/fill-quota.ts';
import { Fills, type ForeignDownload } from './fill/fills.ts';
import { FirstRanges } from './fill/first-range.ts';
import { Keeping } from './fill/keeping.ts';
import type { LedFill } from './fill/led-fill.ts';
import { PartialList, type PartialState } from './fill/partial-list.ts';
import { Partials } from './fill/partials.ts';
import { PullQueue, type PullTurns, type QueueLimits, type QueueState } from './fill/pull-queue.ts';
import type { Replicas } from './fill/replicas.ts';
import type { PullRuleOf } from './freshness.ts';
import { Links } from './links.ts';
import { ManifestSource } from './manifest-source.ts';
import { type FailureNews, NegativeCache, type RememberedFailure } from './negative-cache.ts';
import { outlook } from './outlook.ts';
import { OwnLogins } from './own-logins.ts';
import { Prefetch, type PrefetchRule } from './prefetch.ts';
import { Referrers, type ReferrersQuery } from './referrers.ts';
import type { EndedRight } from './ended-rights.ts';
import type { FlightCalls } from './shared-flights.ts';
import { Reachability, type ReachabilityListeners } from './reachability.ts';
import type { SetAsideIfDamaged } from './stored-check.ts';
import { TagList } from './tag-list.ts';
import { UpstreamRecord, type UpstreamState } from './upstream-record.ts';
import { UpstreamRequests } from './upstream-requests.ts';

export interface MirrorOptions extends ReachabilityListeners {
  /** By name, as in `Repository.upstream`. */
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  /** Records every upstream response that proves or ends a right. */
  readonly grants: Pick<Grants, 'record' | 'presence' | 'hasEndedElsewhere'>;
  /** Freshness and pull policy; asked each time, since the configuration can be reloaded. */
  readonly pullRuleOf: PullRuleOf;
  /** For how long a right confirmed by upstream remains valid; read each time. */
  readonly verifyForMs: number;
  /** How many transfers may run; read each time. */
  readonly limits: QueueLimits;
  /** How many connections may download one blob of an upstream; called each time. One if absent. */
  readonly connectionsPerBlobOf?: (upstream: string) => number;
  /** Begins to measure the load of this process. Default: that of its event loop. */
  readonly measureLoad?: (() => LoopLoad) | undefined;
  /** When a blob is downloaded of which only ranges are requested; read each time. Never if absent. */
  readonly completeRanged?: CompleteRanged | undefined;
  /** The queue of all processes of this server. Default: one of its own, with `limits`. */
  readonly queue?: PullTurns | undefined;
  /** The id of this replica, if there may be others. */
  readonly replica?: string | undefined;
  /** Those others. */
  readonly replicas?: Replicas | undefined;
  /** How processes of this server agree on who asks an upstream. */
  readonly flights?: FlightCalls | undefined;
  /** How processes of this server tell each other of upstreams' failures. */
  readonly failureNews?: News<FailureNews> | undefined;
  /** The same of rights that upstreams have withdrawn. */
  readonly endNews?: News<EndedRight> | undefined;
  /**
   * The limit on the store's size, including downloads in progress; read each time. `undefined` means that only the
   * disk limits.
   */
  readonly maxBytes?: number | undefined;
  readonly setAsideIfDamaged: SetAsideIfDamaged;
  /** If set, no upstream is ever contacted; `pullRuleOf` then returns Never. */
  readonly isOffline?: boolean;
  /** Entrepot's own credential for an upstream; called each time. None if absent. */
  readonly ownLoginOf?: (upstream: string) => Credential | undefined;
  /** Called when a download has ended. */
  readonly noteEvent?: NoteEvent | undefined;
  /** What to prefetch of a repository; nothing if absent. */
  readonly prefetchRuleOf?: (repository: Repository) => PrefetchRule;
  readonly log: Log;
  readonly meter: Meter;
  /** Default: the system's. */
  readonly clock?: Clock;
}

/** The pull side of mirrored repositories. */
export class Mirror implements PullSource {
  /** Entrepot's own credentials, and which of them upstreams refuse. */
  readonly ownLogins: OwnLogins;
  readonly #upstreams: ReadonlyMap<string, Upstream>;
  readonly #metadata: MetadataStore;
  readonly #failures: NegativeCache;
  readonly #reachability: Reachability;
  readonly #record: UpstreamRecord;
  readonly #pullRuleOf: PullRuleOf;
  readonly #isOffline: boolean;
  readonly #asking: UpstreamRequests;
  readonly #links: Links;
  readonly #queue: PullTurns;
  readonly #fills: Fills;
  readonly #partials: Partials;
  readonly #partialList: PartialList;
  readonly #completion: Completion;
  readonly #keeping: Keeping;
  readonly #blobSource: BlobSource;
  readonly #manifestSource: ManifestSource;
  readonly #prefetch: Prefetch;
  readonly #tagList: TagList;
  readonly #referrers: Referrers;
  readonly #unlisten: readonly (() => void)[];

  constructor(options: MirrorOptions) {
    const {
      upstreams,
      metadata,
      spool,
      blobs,
      grants,
      pullRuleOf,
      limits,
      log,
      meter,
      isOffline = false,
      ownLoginOf = () => undefined,
      prefetchRuleOf = () => ({ prefetch: false }),
      clock = systemClock,
      failureNews = noNews,
      endNews = noNews,
    } = options;
    const { nowMs } = clock;
    this.#upstreams = upstreams;
    this.#metadata = metadata;
    this.#reachability = new Reachability(nowMs, options);
    this.#failures = new NegativeCache(nowMs, failureNews, this.#reachability);
    this.#record = new UpstreamRecord(nowMs);
    this.#keeping = new Keeping(nowMs);
    this.#pullRuleOf = pullRuleOf;
    this.#isOffline = isOffline;
    this.ownLogins = new OwnLogins({ upstreams, loginOf: ownLoginOf, log, meter, nowMs });
    this.#asking = new UpstreamRequests({
      upstreams,
      failures: this.#failures,
      record: this.#record,
      grants,
      ownLogins: this.ownLogins,
      isOffline,
      flights: options.flights,
      endNews,
      log,
      clock,
    });
    const asking = this.#asking;
    const links = new Links(metadata, asking, { rules: options, log });
    this.#links = links;
    this.#queue = options.queue ?? new PullQueue(limits);
    const quota = new FillQuota(spool, options, () => keptBytes(metadata));
    this.#partials = new Partials({
      asking,
      links,
      spool,
      metadata,
      queue: this.#queue,
      quota,
      replica: options.replica,
      meter,
      log,
    });
    this.#fills = new Fills({
      asking,
      spool,
      blobs,
      metadata,
      links,
      queue: this.#queue,
      quota,
      partials: this.#partials,
      connectionsPerBlobOf: options.connectionsPerBlobOf ?? (() => 1),
      measureLoad: options.measureLoad ?? measureLoopLoad,
      keeping: this.#keeping,
      replicas: options.replicas,
      noteEvent: options.noteEvent ?? (() => {}),
      log,
      meter,
    });
    this.#partialList = new PartialList({ spool, metadata, fills: this.#fills, partials: this.#partials });
    this.#completion = new Completion(options, this.#fills, { clock, log });
    this.#blobSource = new BlobSource({
      setAsideIfDamaged: options.setAsideIfDamaged,
      blobs,
      metadata,
      links,
      fills: this.#fills,
      partials: this.#partials,
      firstRanges: new FirstRanges(asking, links, meter),
      completion: this.#completion,
      pullRuleOf,
      clock,
      meter,
      log,
    });
    this.#manifestSource = new ManifestSource({
      asking,
      metadata,
      pullRuleOf,
      openBlob: async (...blob) => (await this.#blobSource.open(...blob)).reader,
      log,
    });
    this.#prefetch = new Prefetch({
      metadata,
      blobs,
      fills: this.#fills,
      ruleOf: prefetchRuleOf,
      fetchManifest: (repository, digest, right) =>
        this.#manifestSource.open(repository, digest, right, ANY_MANIFEST),
      log,
    });
    this.#tagList = new TagList({ asking, metadata, pullRuleOf });
    this.#referrers = new Referrers({ asking, metadata, pullRuleOf, log });
    this.#unlisten = [
      metadata.onNotification('failures', () => this.#forgetFailures()),
      metadata.onNotification('secrets', () => this.#forgetSecrets()),
      metadata.onNotification('content', () => this.#failures.forgetNegative()),
      failureNews.listen(news => this.#failures.learn(news)),
      endNews.listen(right => this.#asking.noteEnd(right)),
    ];
  }

  /** The number of downloads in progress. */
  get runningFills(): number {
    return this.#fills.size;
  }

  /** The progress of all downloads, of whole blobs and of ranges; oldest first. */
  get downloads(): readonly DownloadState[] {
    const all = [...this.#fills.downloads, ...this.#partials.downloads];
    return all.sort((one, other) => one.startedAtMs - other.startedAtMs);
  }

  /** How many of them have a connection or wait for one; of all processes of this server, in the one that has the queue. */
  get queue(): QueueState {
    return this.#queue.state;
  }

  /** As in `Fills`. */
  ledFill(key: string, epoch: number): Promise<LedFill | undefined> {
    return this.#fills.led(key, epoch);
  }

  /** Downloads of other processes on the store, from upstreams of these names. */
  downloadsElsewhere(upstreams: readonly string[]): Promise<readonly ForeignDownload[]> {
    return this.#fills.downloadsElsewhere(upstreams);
  }

  /** Blobs of which some is on disk, and which nobody downloads as a whole. */
  partialBlobs(): Promise<readonly PartialState[]> {
    return this.#partialList.read();
  }

  /** How an upstream has answered since the start. */
  upstreamState(upstream: string): UpstreamState {
    return this.#record.stateOf(upstream);
  }

  /** As `Reachability.isDown`. */
  isDown(upstream: string): boolean {
    return this.#reachability.isDown(upstream);
  }

  /**
   * For `/readyz` and `status`: why downloads are not stored, and which upstreams refuse Entrepot's own credentials.
   */
  get problems(): readonly string[] {
    return [this.#keeping.problem ?? [], this.ownLogins.problems].flat();
  }

  /** The number of remembered failures that are currently answered without asking upstream. */
  get backoffs(): number {
    return this.#failures.waitedOut;
  }

  /** The remembered failures that are currently answered without asking upstream. */
  get failures(): readonly RememberedFailure[] {
    return this.#failures.current;
  }

  async manifest(
    repository: Repository,
    reference: string,
    right: Right,
    want: ManifestWant,
  ): Promise<ServedManifest> {
    const served = await this.#manifestSource.open(repository, reference, right, want);
    this.#prefetch.follow(repository, served, right);
    return served;
  }

  statBlob(repository: Repository, digest: Digest, right: Right): Promise<ServedBlobStat> {
    return this.#blobSource.stat(repository, digest, right);
  }

  openBlob(repository: Repository, digest: Digest, right: Right, want?: BlobWant): Promise<ServedBlob> {
    return this.#blobSource.open(repository, digest, right, want);
  }

  tags(repository: Repository, page: Page, right: Right): Promise<ServedTags> {
    return this.#tagList.open(repository, page, right);
  }

  referrers(
    repository: Repository,
    subject: Digest,
    query: ReferrersQuery,
    right: Right,
  ): Promise<ServedReferrers> {
    return this.#referrers.open(repository, subject, query, right);
  }

  /**
   * Forgets remembered failures, here and in other processes, asks upstream now, and returns the digest of the
   * reference.
   */
  async refresh(repository: Repository, reference: string, right: Right): Promise<Digest> {
    this.#forgetFailures(repository);
    await this.#metadata.notify('failures');
    return this.#manifestSource.refresh(repository, reference, right);
  }

  /**
   * For `entrepot explain`: what a pull of the tag or digest with this right would do. `lack` returns what is missing of
   * the stored image, `undefined` if nothing is.
   */
  async explain(
    repository: Repository,
    reference: string,
    right: Right,
    lack: () => Promise<string | undefined>,
  ): Promise<readonly string[]> {
    const lines = await outlook(repository, reference, right, {
      metadata: this.#metadata,
      asking: this.#asking,
      pullRuleOf: this.#pullRuleOf,
      isOffline: this.#isOffline,
      clock: this.#asking.clock,
      lack,
    });
    return [...lines, ...this.ownLogins.problemsOf(repository.upstream, right)];
  }

  /** Call when credentials have changed: remembered refusals may be wrong now, here and in other processes. */
  async secretsChanged(): Promise<void> {
    this.#forgetSecrets();
    await this.#metadata.notify('secrets');
  }

  /** Call when `limits` have changed: starts the downloads that they now allow. */
  limitsChanged(): void {
    this.#queue.limitsChanged();
  }

  /** Refuses new work, lets readers finish within `deadlineMs`, and keeps what was downloaded of the rest. */
  async close(deadlineMs: number): Promise<void> {
    for (const stop of this.#unlisten) stop();
    const stopping = new OciError('UNAVAILABLE', { message: 'this server is stopping' });
    this.#completion.close();
    await Promise.all([this.#fills.close(deadlineMs), this.#partials.close(deadlineMs, stopping)]);
    await this.#asking.close(stopping);
  }

  #forgetSecrets(): void {
    this.#forgetFailures();
    this.#links.forgetGiven();
  }

  #forgetFailures(repository?: Repository): void {
    this.#failures.forget(repository);
    for (const upstream of this.#upstreams.values()) {
      if (repository === undefined || repository.upstream === upstream.name) upstream.forgetFailures();
    }
  }
}

/** How many stored bytes cannot be evicted: all while the index may be incomplete. */
async function keptBytes(metadata: Pick<MetadataStore, 'readSetting' | 'readTotals'>): Promise<number> {
  if (!(await mayBeIncomplete(metadata))) return 0;
  return heldBytesOf(await metadata.readTotals());
}
