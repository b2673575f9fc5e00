import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Labels, Meter } from '../lib/meter.ts';

/**
 * Every number that operators watch, under the name by which the code reports it; `entrepot_` stands before each on
 * /metrics. The hit ratio is `http_outcomes_total` by outcome, or bytes from upstream over bytes to clients.
 */
interface Metric {
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly labels?: readonly string[];
  /** What its only label can be, where that is known: each begins at zero, so that the first one is seen as a rise. */
  readonly values?: readonly string[];
  /** Upper bounds of a histogram's buckets. */
  readonly buckets?: readonly number[];
}

/** From a hit in memory to a cold pull of some gigabytes. */
const SECONDS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800,
] as const;

export const METRICS = {
  http_requests_total: {
    kind: 'counter',
    help: 'Answers by route, method and status',
    labels: ['route', 'method', 'status'],
  },
  http_request_duration_seconds: {
    kind: 'histogram',
    help: 'From the request to the last byte of its answer',
    labels: ['route'],
    buckets: SECONDS,
  },
  http_sent_bytes_total: { kind: 'counter', help: 'Bytes of bodies sent to clients', labels: ['upstream'] },
  http_outcomes_total: {
    kind: 'counter',
    help: 'Answers with content by how they came about: hit, revalidated, stale, miss, joined, hosted',
    labels: ['route', 'upstream', 'outcome'],
  },
  http_aborted_total: { kind: 'counter', help: 'Answers broken off before their end', labels: ['route'] },
  http_client_errors_total: { kind: 'counter', help: 'Requests that could not be read', labels: ['code'] },
  http_bodies_open: { kind: 'gauge', help: 'Bodies being sent' },
  http_body_memory_bytes: { kind: 'gauge', help: 'Memory lent to bodies being sent' },

  logins_total: {
    kind: 'counter',
    help: 'Requests for a token by outcome',
    labels: ['outcome'],
    values: ['accepted', 'refused', 'anonymous'],
  },

  fills_running: { kind: 'gauge', help: 'Downloads of blobs in progress' },
  fills_total: {
    kind: 'counter',
    help: 'Downloads of blobs that ended: verified, refused (no credential may) or failed (no endpoint could)',
    labels: ['outcome'],
    values: ['verified', 'refused', 'failed'],
  },
  fills_joined_total: {
    kind: 'counter',
    help: 'Requests that read along a download which another had started',
  },
  fills_resumed_total: { kind: 'counter', help: 'Downloads that went on after their connection broke' },
  queue_length: { kind: 'gauge', help: 'Requests that wait for a connection or a pull slot' },

  tenants: { kind: 'gauge', help: 'Tenants that may log in' },
  tenants_refused: {
    kind: 'gauge',
    help: 'Namespaces and added tenants whose name means something else here',
  },
  kubernetes_watches_down: { kind: 'gauge', help: 'Parts of the cluster that cannot be followed now' },
  kubernetes_passed_over: {
    kind: 'gauge',
    help: 'Objects of the cluster whose content is not read, since they or what lies beside them is too large; no more than 100 are told',
    labels: ['resource', 'namespace', 'name'],
  },
  secrets: {
    kind: 'gauge',
    help: 'Pull secrets by state: loaded, malformed, missing, unread',
    labels: ['state'],
  },

  store_held_bytes: { kind: 'gauge', help: 'Bytes of blobs and manifests that are held' },
  store_unfinished_bytes: { kind: 'gauge', help: 'Bytes of downloads and uploads that are not finished' },
  store_held_blobs: { kind: 'gauge', help: 'Blobs that are held' },
  store_free_bytes: { kind: 'gauge', help: 'Bytes that are free on the disk of the store' },
  store_min_free_bytes: { kind: 'gauge', help: 'Bytes of it that stay free: storage.minFree' },
  store_max_bytes: {
    kind: 'gauge',
    help: 'Bytes that the store may have: storage.maxBytes, where it is set',
  },
  store_damaged: { kind: 'gauge', help: 'Damaged content that has not been brought again' },
  upkeep_freed_bytes_total: {
    kind: 'counter',
    help: 'Bytes that went, by what took them',
    labels: ['by'],
    values: ['collection', 'eviction'],
  },
  scrub_checked_bytes_total: { kind: 'counter', help: 'Bytes of blobs that were read again and compared' },
  scrub_damaged_total: {
    kind: 'counter',
    help: 'Damaged content found, by where it can come from again',
    labels: ['source'],
    values: ['hosted', 'mirrored'],
  },

  prepull_images_total: {
    kind: 'counter',
    help: 'Images that the server wanted to bring ahead (prepull), by what came of it',
    labels: ['outcome'],
    values: ['pulled', 'failed'],
  },
  prepull_failing: {
    kind: 'gauge',
    help: 'Images of prepull that could not be brought, and files of it that could not be read, when that was tried last',
  },

  backoffs: { kind: 'gauge', help: 'Failures that are remembered, and answered without asking upstream' },
  bytes_from_upstream_total: {
    kind: 'counter',
    help: 'Bytes of blobs received from upstreams',
    labels: ['upstream'],
  },
  upstream_credentials_refused: {
    kind: 'gauge',
    help: "1 where upstream turns away Entrepot's own credentials, else 0",
    labels: ['upstream'],
  },
  upstream_budget_remaining: {
    kind: 'gauge',
    help: 'Pulls that the upstream still allows',
    labels: ['upstream'],
  },
} as const satisfies Record<string, Metric>;

/** Our metrics' namespace; the process's own (`process_…`, `nodejs_…`) keep the names that every dashboard knows. */
const PREFIX = 'entrepot_';

export interface Metrics {
  readonly meter: Meter;
  /** What `GET /metrics` answers. */
  readonly text: () => Promise<string>;
  /** The Content-Type of `text` (Prometheus text format 0.0.4). */
  readonly contentType: string;
}

type Instrument = Counter | Gauge | Histogram;

/** A meter with all of `METRICS` at zero. Each call has its own registry, so two servers of one process don't mix. */
export function createMetrics(): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const instruments = new Map(
    Object.entries(METRICS).map(([name, metric]) => [name, instrument(name, metric, registry)]),
  );
  return {
    meter: new TableMeter(instruments),
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
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
    ? new Gauge(options)
    : new Histogram({ ...options, buckets: [...(metric.buckets ?? SECONDS)] });
}

class TableMeter implements Meter {
  readonly #instruments: ReadonlyMap<string, Instrument>;

  constructor(instruments: ReadonlyMap<string, Instrument>) {
    this.#instruments = instruments;
  }

  count(name: string, labels: Labels = {}, amount = 1): void {
    const counter = this.#instruments.get(name);
    if (!(counter instanceof Counter)) {
      throw new TypeError(`no counter is called ${name}`);
    }
    counter.inc({ ...labels }, amount);
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
