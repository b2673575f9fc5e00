/** The part of the composition root for mirrored repositories. */
import { isDeepStrictEqual } from 'node:util';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Spool } from '../blobs/spool.ts';
import type { Config } from '../config/config.ts';
import { repositoryOptions } from '../config/repository-options.ts';
import type { Grants } from '../grants/grants.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { MemoryBudget } from '../lib/memory-budget.ts';
import type { Meter } from '../lib/meter.ts';
import { noNews, type News } from '../lib/news.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { PullTurns } from '../mirror/fill/pull-queue.ts';
import type { Replicas } from '../mirror/fill/replicas.ts';
import { Mirror } from '../mirror/mirror.ts';
import type { EndedRight } from '../mirror/ended-rights.ts';
import type { FailureNews } from '../mirror/negative-cache.ts';
import type { ReachabilityListeners } from '../mirror/reachability.ts';
import type { FlightCalls } from '../mirror/shared-flights.ts';
import type { NoteEvent } from '../oci/event.ts';
import { strictestPullPolicy } from '../oci/pull-policy.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import { Quarantine } from '../upkeep/quarantine.ts';
import { Upstream } from '../upstream/upstream.ts';
import { type UpstreamCredentials, upstreamOf } from './access.ts';
import type { NewsBoard } from './processes/news-board.ts';

export interface MirrorNeeds extends ReachabilityListeners {
  readonly credentials: UpstreamCredentials;
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly grants: Grants;
  /** As in `MirrorOptions`. */
  readonly replica: string | undefined;
  /** As in `MirrorOptions`. */
  readonly replicas: Replicas | undefined;
  /** As in `MirrorOptions`. */
  readonly queue: PullTurns | undefined;
  /** As in `MirrorOptions`. */
  readonly flights: FlightCalls | undefined;
  /** As in `MirrorOptions`. */
  readonly failureNews: News<FailureNews> | undefined;
  /** As in `MirrorOptions`. */
  readonly endNews: News<EndedRight> | undefined;
  readonly noteEvent: NoteEvent;
  readonly clock: Clock;
  readonly log: Log;
  readonly meter: Meter;
}

/** Opens the mirror with the configuration of upstreams and pulls. */
export function openMirror(config: Config, { credentials, ...needs }: MirrorNeeds): Mirror {
  const quarantine = new Quarantine(needs);
  return new Mirror({
    ...needs,
    setAsideIfDamaged: digest => quarantine.check(digest),
    ownLoginOf: upstream => credentials.get(config.upstreams.get(upstream)?.credentials),
    isOffline: config.offline,
    prefetchRuleOf: repository => repositoryOptions(upstreamOf(config, repository), repository.name),
    pullRuleOf: (repository, right) => pullRuleOf(config, repository, right),
    connectionsPerBlobOf: upstream => config.upstreams.get(upstream)?.connectionsPerBlob ?? 1,
    get verifyForMs() {
      return config.verifyForMs;
    },
    get maxBytes() {
      return config.storage.maxBytes;
    },
    get completeRanged() {
      return config.pulls.completeRanged;
    },
    limits: config.pulls,
  });
}

/** An upstream and the settings with which it was opened. */
interface Made {
  readonly settings: object;
  readonly upstream: Upstream;
}

/** How long requests to an upstream that a reload has replaced may take; downloads then continue with the new one. */
const REPLACED_MS = 60_000;

/** The upstreams of a configuration, which a reload may replace. Each keeps connections until it is closed. */
export class Upstreams {
  readonly #memory: MemoryBudget;
  readonly #news: Pick<NewsBoard, 'of'> | undefined;
  readonly #made = new Map<string, Made>();
  readonly #byName = new Map<string, Upstream>();
  readonly #open = new Set<Upstream>();

  /** `news`: what processes of one server tell each other. */
  constructor(
    config: Config,
    credentials: UpstreamCredentials,
    { memory, news }: { readonly memory: MemoryBudget; readonly news?: Pick<NewsBoard, 'of'> | undefined },
  ) {
    this.#memory = memory;
    this.#news = news;
    this.follow(config, credentials);
  }

  /** Always the same map, with the current upstreams. */
  get byName(): ReadonlyMap<string, Upstream> {
    return this.#byName;
  }

  /** Opens new upstreams, replaces those whose settings have changed, and keeps the others with their connections. */
  follow({ upstreams, proxy }: Config, credentials: UpstreamCredentials): void {
    for (const name of this.#byName.keys()) if (!upstreams.has(name)) this.#retire(name);
    for (const [name, upstream] of upstreams) {
      const { url, mirrors, realms, ca, insecure, allowAddresses } = upstream;
      const settings = { url, mirrors, realms, ca, insecure, allowAddresses };
      if (isDeepStrictEqual(this.#made.get(name)?.settings, settings)) continue;
      this.#retire(name);
      const made = new Upstream({
        ...settings,
        name,
        memory: this.#memory,
        limitNews: this.#news?.of(`limits of ${name}`) ?? noNews,
        mirrors: mirrors.map(mirror => ({
          url: mirror.url,
          credential: credentials.get(mirror.credentials),
        })),
        proxy: { http: proxy.httpProxy, https: proxy.httpsProxy, no: proxy.noProxy },
      });
      this.#made.set(name, { settings, upstream: made });
      this.#byName.set(name, made);
      this.#open.add(made);
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open].map(upstream => upstream.close()));
  }

  #retire(name: string): void {
    const upstream = this.#byName.get(name);
    this.#made.delete(name);
    this.#byName.delete(name);
    if (upstream === undefined) return;
    setTimeout(() => {
      this.#open.delete(upstream);
      void upstream.close().catch(() => {});
    }, REPLACED_MS).unref();
  }
}

/** Reports what changes with time, when metrics are requested; of the rate limits of several credentials, the lowest. */
export class UpstreamGauges {
  readonly #parts: { readonly upstreams: ReadonlyMap<string, Upstream>; readonly mirror: Mirror };
  readonly #meter: Meter;
  /** The upstreams that were reported last. */
  #known: readonly string[] = [];

  constructor(
    parts: { readonly upstreams: ReadonlyMap<string, Upstream>; readonly mirror: Mirror },
    meter: Meter,
  ) {
    this.#parts = parts;
    this.#meter = meter;
  }

  report(): void {
    const { upstreams, mirror } = this.#parts;
    // A reload may have removed the upstream.
    for (const name of this.#known) if (!upstreams.has(name)) this.#set(name, undefined, undefined);
    this.#known = [...upstreams.keys()];
    for (const [name, upstream] of upstreams) {
      const known = upstream.budget().flatMap(({ remaining }) => remaining ?? []);
      this.#set(name, mirror.isDown(name) ? 1 : 0, known.length === 0 ? undefined : Math.min(...known));
    }
    mirror.ownLogins.report();
    this.#meter.gauge('backoffs', mirror.backoffs);
  }

  #set(upstream: string, isDown: 0 | 1 | undefined, remaining: number | undefined): void {
    this.#meter.gauge('upstream_down', isDown, { upstream });
    this.#meter.gauge('upstream_budget_remaining', remaining, { upstream });
  }
}

function pullRuleOf(config: Config, repository: Repository, right: Pick<Right, 'pullPolicy'>) {
  const options = repositoryOptions(upstreamOf(config, repository), repository.name);
  const policies = [config.offline ? ('Never' as const) : undefined, options.pullPolicy, right.pullPolicy];
  return { ...options, pullPolicy: strictestPullPolicy(policies) };
}
