import { AggregatorRegistry, Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Labels, Meter } from '../lib/meter.ts';

/**
 * All metrics, by the name under which the code reports them; on /metrics they begin with `entrepot_`. The hit ratio is
 * `http_outcomes_total` by outcome, or bytes from upstream divided by bytes to clients.
 */
interface Metric {
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels?: readonly string[];
  /**
   * The possible values of its only label, if they are known: each begins at zero, so that the first event is visible
   * as an increase.
   */
  readonly values?: readonly string[];
  /** Upper bounds of a histogram's buckets. */
  readonly buckets?: readonly number[];
  /**
   * What a gauge is for several processes of a server, if it is not the sum: one of their values, since each may know
   * the same, or that of the process that reports, which alone knows it.
   */
  readonly ofAll?: 'max' | 'min' | 'own';
}

/** From a hit in memory to a cold pull of some gigabytes. */
const SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800,
] as const;

/** Fewer, since there are as many series as upstreams and outcomes allow. No client waits longer for a response to begin. */
const FIRST_BYTE_SECONDS = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20] as const;

export const METRICS = {
  http_requests_total: {
    kind: 'counter',
    help: 'Responses by route, method and status',
    labels: ['route', 'method', 'status'],
  },
  http_request_duration_seconds: {
    kind: 'histogram',
    help: 'Time from the request to the last byte of its response',
    labels: ['route'],
    buckets: SECONDS,
  },
  http_sent_bytes_total: { kind: 'counter', help: 'Body bytes sent to clients', labels: ['upstream'] },
  http_outcomes_total: {
    kind: 'counter',
    help: 'Responses with content by cache result: hit, revalidated, stale, miss, joined, hosted',
    labels: ['route', 'upstream', 'outcome'],
  },
  http_first_byte_seconds: {
    kind: 'histogram',
    help: 'Time from a request to the first byte of content, by cache result as in http_outcomes_total',
    labels: ['upstream', 'outcome'],
    buckets: FIRST_BYTE_SECONDS,
  },
  http_aborted_total: { kind: 'counter', help: 'Responses aborted before their end', labels: ['route'] },
  http_client_errors_total: { kind: 'counter', help: 'Requests that could not be parsed', labels: ['code'] },
  http_refusals_total: {
    kind: 'counter',
    help: 'Requests that were refused or failed, by the code in the error: DENIED, MANIFEST_UNKNOWN, TOOMANYREQUESTS and so on. Not counted: requests without credentials that are asked to log in, and HEAD requests for unknown blobs',
    labels: ['upstream', 'code'],
  },
  http_bodies_open: { kind: 'gauge', help: 'Bodies being sent' },
  http_body_memory_bytes: {
    kind: 'gauge',
    help: 'Buffer memory used by bodies being sent, besides what downloads lend them',
  },

  logins_total: {
    kind: 'counter',
    help: 'Token requests by outcome',
    labels: ['outcome'],
    values: ['accepted', 'refused', 'anonymous'],
  },

  fills_running: { kind: 'gauge', help: 'Blob downloads in progress' },
  ranges_running: {
    kind: 'gauge',
    help: 'Requests to upstreams for ranges of blobs, besides downloads, in progress',
  },
  fills_total: {
    kind: 'counter',
    help: 'Finished blob downloads: verified, refused (no credential may read it) or failed (no endpoint could send it)',
    labels: ['outcome'],
    values: ['verified', 'refused', 'failed'],
  },
  fills_joined_total: {
    kind: 'counter',
    help: 'Requests that joined a download in progress',
  },
  fills_resumed_total: { kind: 'counter', help: 'Downloads resumed after a broken connection' },
  fill_further_connections: {
    kind: 'gauge',
    help: 'Connections that bring parts of a large blob beside its first one',
    labels: ['upstream'],
  },
  fill_stripes_total: {
    kind: 'counter',
    help: 'Ranges of large blobs that were requested over several connections',
    labels: ['upstream'],
  },
  queue_length: { kind: 'gauge', help: 'Requests waiting for a connection or a pull slot', ofAll: 'own' },

  tenants: { kind: 'gauge', help: 'Tenants that may log in', ofAll: 'max' },
  tenants_refused: {
    kind: 'gauge',
    help: 'Namespaces and added tenants that are refused because their name is taken',
    ofAll: 'max',
  },
  tenant_used_bytes: {
    kind: 'gauge',
    help: 'Bytes that count against the quota of a tenant, for tenants with quotaBytes',
    labels: ['tenant'],
    ofAll: 'own',
  },
  tenant_quota_bytes: { kind: 'gauge', help: 'quotaBytes of a tenant', labels: ['tenant'], ofAll: 'own' },
  kubernetes_watches_down: {
    kind: 'gauge',
    help: 'Parts of the cluster that cannot be watched at the moment',
    ofAll: 'max',
  },
  kubernetes_passed_over: {
    kind: 'gauge',
    help: 'Cluster objects that are skipped because they, or their namespace in total, are too large; at most 100 are listed',
    labels: ['resource', 'namespace', 'name'],
    ofAll: 'max',
  },
  secrets: {
    kind: 'gauge',
    help: 'Pull secrets by state: loaded, malformed, missing, unread',
    labels: ['state'],
    ofAll: 'max',
  },

  store_held_bytes: { kind: 'gauge', help: 'Bytes of stored blobs and manifests', ofAll: 'own' },
  store_unfinished_bytes: { kind: 'gauge', help: 'Bytes of unfinished downloads and uploads', ofAll: 'own' },
  store_held_blobs: { kind: 'gauge', help: 'Stored blobs', ofAll: 'own' },
  store_free_bytes: { kind: 'gauge', help: 'Free bytes on the disk of the store', ofAll: 'own' },
  store_min_free_bytes: {
    kind: 'gauge',
    help: 'Bytes of that disk to keep free (storage.minFree)',
    ofAll: 'own',
  },
  store_max_bytes: {
    kind: 'gauge',
    help: 'Size limit of the store in bytes (storage.maxBytes), if set',
    ofAll: 'own',
  },
  store_bucket_up: {
    kind: 'gauge',
    help: 'Whether the bucket of storage.s3 can be used (1), as the last requests show, or not (0)',
    ofAll: 'own',
  },
  store_local_bytes: {
    kind: 'gauge',
    help: 'Bytes of blobs in a bucket that are also on the local disk, as counted in the last minute',
    ofAll: 'own',
  },
  store_max_local_bytes: {
    kind: 'gauge',
    help: 'How many these may be (storage.maxLocalBytes)',
    ofAll: 'own',
  },
  store_damaged: { kind: 'gauge', help: 'Damaged content that has not been replaced yet', ofAll: 'own' },
  records_waiting: {
    kind: 'gauge',
    help: 'Hosted images whose records beside the blobs, from which a lost index is rebuilt, are out of date; counted up to 10,000',
    ofAll: 'own',
  },
  records_waiting_seconds: {
    kind: 'gauge',
    help: 'How long one of these images has been seen to wait; 0 if none waits',
    ofAll: 'own',
  },
  upkeep_freed_bytes_total: {
    kind: 'counter',
    help: 'Bytes freed, by what removed them',
    labels: ['by'],
    values: ['collection', 'eviction'],
  },
  scrub_checked_bytes_total: { kind: 'counter', help: 'Bytes of blobs verified by scrubbing' },
  scrub_damaged_total: {
    kind: 'counter',
    help: 'Damaged content found, by origin',
    labels: ['source'],
    values: ['hosted', 'mirrored'],
  },

  prepull_images_total: {
    kind: 'counter',
    help: 'Images to pull ahead (prepull), by outcome',
    labels: ['outcome'],
    values: ['pulled', 'failed'],
  },
  prepull_failing: {
    kind: 'gauge',
    help: 'Images and files of prepull that could not be pulled or read at the last attempt',
    ofAll: 'own',
  },

  notifications_sent_total: {
    kind: 'counter',
    help: 'Events that an endpoint of notifications has accepted',
    labels: ['endpoint'],
  },
  notification_failures_total: {
    kind: 'counter',
    help: 'Requests with events that an endpoint has not accepted',
    labels: ['endpoint'],
  },
  notifications_waiting: {
    kind: 'gauge',
    help: 'Events that wait for an endpoint',
    labels: ['endpoint'],
    ofAll: 'own',
  },
  notifications_oldest_seconds: {
    kind: 'gauge',
    help: 'How long the oldest event has been waiting for an endpoint; 0 if none waits',
    labels: ['endpoint'],
    ofAll: 'own',
  },
  notifications_dropped: {
    kind: 'gauge',
    help: 'Events that were dropped because too many were waiting for the endpoint, or because they had waited for a week',
    labels: ['endpoint'],
    ofAll: 'own',
  },
  notifications_overlooked_total: {
    kind: 'counter',
    help: 'Events that no endpoint gets: too many within a second, or the index could not be written',
  },

  backoffs: {
    kind: 'gauge',
    help: 'Failures that are remembered, and answered without asking upstream',
    ofAll: 'max',
  },
  bytes_from_upstream_total: {
    kind: 'counter',
    help: 'Bytes of blobs received from upstreams',
    labels: ['upstream'],
  },
  bytes_from_replicas_total: {
    kind: 'counter',
    help: 'Bytes of blobs received from other replicas, which download them from upstreams',
  },
  replicas: {
    kind: 'gauge',
    help: 'Other replicas: reached or unreachable (whether they can be asked for what only they have), or gone (disappeared without shutting down)',
    labels: ['state'],
    ofAll: 'own',
  },
  upstream_credentials_refused: {
    kind: 'gauge',
    help: "1 while upstream refuses Entrepot's own credentials, otherwise 0",
    labels: ['upstream'],
    ofAll: 'max',
  },
  upstream_down: {
    kind: 'gauge',
    help: '1 if an upstream has answered nothing for at least 30 s in which it was asked, and not since; otherwise 0',
    labels: ['upstream'],
    ofAll: 'max',
  },
  upstream_budget_remaining: {
    kind: 'gauge',
    help: 'Pulls that the upstream still allows',
    labels: ['upstream'],
    ofAll: 'min',
  },
} as const satisfies Record<string, Metric>;

/** The prefix of our metrics; those of the process (`process_…`, `nodejs_…`) keep the names that dashboards know. */
const PREFIX = 'entrepot_';

/** Names of gauges that only the process knows that reports for all. */
const OWN: ReadonlySet<string> = new Set(
  Object.entries<Metric>(METRICS).flatMap(([name, { ofAll }]) => (ofAll === 'own' ? [PREFIX + name] : [])),
);

/** A meter and its text form. */
export interface Metrics {
  readonly meter: Meter;
  /** The body of `GET /metrics`. */
  readonly text: () => Promise<string>;
  /** All values now for `textOfAll` in another process, but those that this one knows itself. */
  readonly snapshot: () => Promise<MetricsSnapshot>;
  /** As `text`, for this process and others together. */
  readonly textOfAll: (others: readonly MetricsSnapshot[]) => Promise<string>;
  /** The Content-Type of `text` (Prometheus text format 0.0.4). */
  readonly contentType: string;
}

/** The values of a process at one time. It can be cloned. */
export type MetricsSnapshot = readonly { readonly name: string; readonly type: unknown }[];

type Instrument = Counter | Gauge | Histogram;

/**
 * A meter with all `METRICS` at zero. Each call has a registry of its own, so two servers in one process are
 * independent.
 */
export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const instruments = new Map(
    Object.entries(METRICS).map(([name, metric]) => [name, instrument(name, metric, registry)]),
  );
  const meter = new TableMeter(instruments);
  return {
    meter,
    text: () => {
      meter.settle();
      return registry.metrics();
    },
    snapshot: async () => {
      meter.settle();
      const all: MetricsSnapshot = await registry.getMetricsAsJSON();
      return all.filter(({ name }) => !OWN.has(name));
    },
    textOfAll: async others => {
      meter.settle();
      return aggregate([await registry.getMetricsAsJSON(), ...others]).metrics();
    },
    contentType: registry.contentType,
  };
}

function aggregate(snapshots: readonly MetricsSnapshot[]): Registry {
  // By default left out, and it tells dashboards how long the server has been running.
  const kept = snapshots.map(snapshot =>
    snapshot.map(metric => (metric.name === START_TIME ? { ...metric, aggregator: 'min' } : metric)),
  );
  return AggregatorRegistry.aggregate(kept);
}

const START_TIME = 'process_start_time_seconds';

/**
 * What remains of processes that have ended: the sum of what they have counted. Otherwise counters would go back, and
 * what the others have counted would look like news.
 */
export async function lastingSum(snapshots: readonly MetricsSnapshot[]): Promise<MetricsSnapshot> {
  const all: MetricsSnapshot = await aggregate(snapshots).getMetricsAsJSON();
  return all.filter(({ type }) => type !== 'gauge');
}

function instrument(name: string, metric: Metric, registry: Registry): Instrument {
  const options = {
    name: PREFIX + name,
    help: metric.help,
    labelNames: [...(metric.labels ?? [])],
    registers: [registry],
  };
  if (metric.kind === 'counter') {
    const counter = new Counter(options);
    const [label] = metric.labels ?? [];
    if (label !== undefined) for (const value of metric.values ?? []) counter.inc({ [label]: value }, 0);
    return counter;
  }
  return metric.kind === 'gauge'
    ? new Gauge({ ...options, aggregator: aggregatorOf(metric) })
    : new Histogram({ ...options, buckets: [...(metric.buckets ?? SECONDS)] });
}

function aggregatorOf({ ofAll }: Metric): 'sum' | 'max' | 'min' {
  return ofAll === undefined || ofAll === 'own' ? 'sum' : ofAll;
}

/** A counter with labels, and what was added to it since `settle`. */
interface Prepared {
  readonly counter: Counter;
  readonly labels: Record<string, string>;
  added: number;
}

class TableMeter implements Meter {
  readonly #instruments: ReadonlyMap<string, Instrument>;
  readonly #prepared: Prepared[] = [];

  constructor(instruments: ReadonlyMap<string, Instrument>) {
    this.#instruments = instruments;
  }

  count(name: string, labels: Labels = {}, amount = 1): void {
    this.#counter(name).inc({ ...labels }, amount);
  }

  counter(name: string, labels: Labels = {}): (amount?: number) => void {
    const prepared = { counter: this.#counter(name), labels: { ...labels }, added: 0 };
    // Refuses labels that are not in the table.
    prepared.counter.inc(prepared.labels, 0);
    this.#prepared.push(prepared);
    return (amount = 1) => {
      prepared.added += amount;
    };
  }

  /** Passes on what was added to prepared counters: prom-client would compare and join the labels at each addition. */
  settle(): void {
    for (const prepared of this.#prepared) {
      if (prepared.added > 0) prepared.counter.inc(prepared.labels, prepared.added);
      prepared.added = 0;
    }
  }

  #counter(name: string): Counter {
    const counter = this.#instruments.get(name);
    if (counter instanceof Counter) return counter;
    throw new TypeError(`no counter is called ${name}`);
  }

  gauge(name: string, value: number | undefined, labels: Labels = {}): void {
    const gauge = this.#instruments.get(name);
    if (!(gauge instanceof Gauge)) {
      throw new TypeError(`no gauge is called ${name}`);
    }
    if (value === undefined) gauge.remove({ ...labels });
    else gauge.set({ ...labels }, value);
  }

  observe(name: string, value: number, labels: Labels = {}): void {
    const histogram = this.#instruments.get(name);
    if (!(histogram instanceof Histogram)) {
      throw new TypeError(`no histogram is called ${name}`);
    }
    histogram.observe({ ...labels }, value);
  }
}
