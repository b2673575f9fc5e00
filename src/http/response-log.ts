import type { Log } from '../lib/log.ts';
import type { Labels, Meter } from '../lib/meter.ts';
import { isDigest } from '../oci/digest.ts';
import { isWrongContent, OciError } from '../oci/errors.ts';
import type { NoteEvent } from '../oci/event.ts';
import { isOutage } from '../oci/outage.ts';
import type { Outcome } from '../oci/pull-source.ts';
import type { Exchange } from './exchange.ts';
import { referenceOf } from './path.ts';
import { type Refusal, refusalOf } from './refusal.ts';
import { storageTrouble } from './storage-trouble.ts';

/**
 * The label if there is no upstream. Repository names are not used as labels, since there is no limit on their number.
 */
const NO_UPSTREAM = 'none';

/** Listeners for responses; all are optional. */
export interface ResponseNews {
  /** Called for every manifest that was sent to a client. */
  readonly noteEvent?: NoteEvent;
  /** Called with what clients are refused. */
  readonly onRefusal?: (refusal: Refusal) => void;
}

/**
 * Writes one line and one set of samples per response, when its socket is done with it, since only then it is known
 * what was sent. Only parsed parts of the request are logged, of headers only well-formed ranges, and no query, so no secrets.
 */
export class ResponseLog {
  readonly #log: Log;
  readonly #meter: Meter;
  readonly #news: ResponseNews;
  /** By all labels together, of which there are as many as upstreams, routes and statuses allow. */
  readonly #samples = new Map<string, Samples>();

  constructor(log: Log, meter: Meter, news: ResponseNews) {
    this.#log = log;
    this.#meter = meter;
    this.#news = news;
  }

  closed(exchange: Exchange): void {
    const { res, route, repository, requester, outcome, problem, failure, isSent } = exchange;
    const { startedAtMs, firstByteAtMs } = exchange;
    const totalMs = performance.now() - startedAtMs;
    const aborted = !isSent;
    const status = res.headersSent ? res.statusCode : 499;
    this.#sample(exchange, status, totalMs, aborted);
    if (!aborted) this.#notePull(exchange);
    if (problem !== undefined) this.#tell(exchange);
    // One shape for all lines, which is faster to make and to write. What is undefined is not written.
    this.#log.info(
      {
        method: exchange.method,
        route: route?.kind,
        upstream: repository?.upstream,
        repository: repository?.name,
        reference: route && referenceOf(route),
        range: rangeOf(exchange),
        status,
        // If the reader failed before the first byte, an error was sent instead.
        contentRange: status === 206 ? exchange.contentRange : undefined,
        bytes: exchange.bytesSent,
        outcome,
        // For an error response it is not known how long upstream took.
        upstreamMs: outcome && Math.round(exchange.upstreamMs),
        firstByteMs: firstByteAtMs && tenths(firstByteAtMs - startedAtMs),
        totalMs: tenths(totalMs),
        requester: requester?.id,
        remote: exchange.sender.remote,
        aborted: aborted ? true : undefined,
        reason: reasonOf(exchange),
        err: hasReason(failure) ? undefined : failure,
      },
      'response',
    );
  }

  #notePull({ pulled, repository, route, actor }: Exchange): void {
    if (pulled === undefined || this.#news.noteEvent === undefined) return;
    const { digest, mediaType, size } = pulled;
    const reference = route && referenceOf(route);
    const tag = reference === undefined || isDigest(reference) ? undefined : reference;
    this.#news.noteEvent({ kind: 'pull', repository, tag, digest, mediaType, size, actor });
  }

  #tell(exchange: Exchange): void {
    const refusal = refusalOf(exchange);
    if (refusal === undefined) return;
    const upstream = exchange.repository?.upstream || NO_UPSTREAM;
    this.#meter.count('http_refusals_total', { upstream, code: refusal.code });
    this.#news.onRefusal?.(refusal);
  }

  #sample(exchange: Exchange, status: number, totalMs: number, aborted: boolean): void {
    const route = exchange.route?.kind ?? 'other';
    const upstream = exchange.repository?.upstream || NO_UPSTREAM;
    const { outcome } = exchange;
    const method = methodLabel(exchange.method);
    const key = `${route} ${method} ${status} ${upstream} ${outcome}`;
    const samples = this.#samples.get(key) ?? this.#samplesOf({ route, method, status, upstream, outcome });
    this.#samples.set(key, samples);
    samples.requests();
    this.#meter.observe('http_request_duration_seconds', totalMs / 1000, samples.route);
    if (exchange.bytesSent > 0) samples.sentBytes(exchange.bytesSent);
    samples.outcomes?.();
    const { firstByteAtMs } = exchange;
    if (samples.firstByte !== undefined && firstByteAtMs !== undefined)
      this.#meter.observe(
        'http_first_byte_seconds',
        (firstByteAtMs - exchange.startedAtMs) / 1000,
        samples.firstByte,
      );
    if (aborted) this.#meter.count('http_aborted_total', samples.route);
  }

  #samplesOf({ route, method, status, upstream, outcome }: SampleLabels): Samples {
    const meter = this.#meter;
    return {
      route: { route },
      requests: meter.counter('http_requests_total', { route, method, status: String(status) }),
      sentBytes: meter.counter('http_sent_bytes_total', { upstream }),
      outcomes: outcome && meter.counter('http_outcomes_total', { route, upstream, outcome }),
      firstByte: outcome && { upstream, outcome },
    };
  }
}

/** As much of a request's ranges as is logged: there may be a thousand. */
const MAX_RANGE_LENGTH = 200;
const RANGES = /^bytes\s*=[\d\s,-]*/i;

/** The ranges that were requested of a blob. */
function rangeOf({ req, route }: Exchange): string | undefined {
  const { range } = req.headers;
  if (range === undefined || route?.kind !== 'blob') return undefined;
  return RANGES.exec(range.slice(0, MAX_RANGE_LENGTH))?.[0];
}

/** Of an error response, or of one that an outage has broken off. Any other failure is logged with its stack. */
function reasonOf({ problem, failure }: Exchange): string | undefined {
  if (failure === undefined) return problem?.reason;
  if (!hasReason(failure)) return undefined;
  const known = failure instanceof OciError ? failure : (problem ?? storageTrouble(failure));
  return known?.reason;
}

/** Whether the reason of a failed body says everything, so that no stack is logged. */
function hasReason(failure: unknown): boolean {
  return isOutage(failure) || isWrongContent(failure);
}

interface SampleLabels {
  readonly route: string;
  readonly method: string;
  readonly status: number;
  readonly upstream: string;
  readonly outcome: Outcome | undefined;
}

/** The counters for responses with equal labels. */
interface Samples {
  readonly route: Labels;
  readonly requests: (amount?: number) => void;
  readonly sentBytes: (amount?: number) => void;
  readonly outcomes: ((amount?: number) => void) | undefined;
  /** Of content. */
  readonly firstByte: Labels | undefined;
}

/** Methods that are used as labels; clients may invent any number of others. */
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'PUT', 'PATCH', 'POST', 'DELETE']);

function tenths(ms: number): number {
  return Math.round(ms * 10) / 10;
}

function methodLabel(method: string): string {
  return METHODS.has(method) ? method : 'other';
}
