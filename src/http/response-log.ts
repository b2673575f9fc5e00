import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { Exchange } from './exchange.ts';
import { referenceOf } from './path.ts';

/**
 * The label if there is no upstream. Repository names are not used as labels, since there is no limit on their number.
 */
const NO_UPSTREAM = 'none';

/**
 * Writes one line and one set of samples per response, when its socket is done with it, since only then it is known
 * what was sent. Only parsed parts of the request are logged, no headers and no query, so no secrets.
 */
export class ResponseLog {
  readonly #log: Log;
  readonly #meter: Meter;

  constructor(log: Log, meter: Meter) {
    this.#log = log;
    this.#meter = meter;
  }

  closed(exchange: Exchange): void {
    const { res, route, repository, requester, outcome, problem, failure } = exchange;
    const totalMs = performance.now() - exchange.startedAtMs;
    const aborted = !res.writableFinished;
    const status = res.headersSent ? res.statusCode : 499;
    this.#sample(exchange, status, totalMs, aborted);
    this.#log.info(
      {
        method: exchange.method,
        route: route?.kind,
        upstream: repository?.upstream,
        repository: repository?.name,
        reference: route && referenceOf(route),
        status,
        bytes: exchange.bytesSent,
        // For an error response it is not known how long upstream took.
        ...(outcome === undefined ? {} : { outcome, upstreamMs: Math.round(exchange.upstreamMs) }),
        totalMs: Math.round(totalMs * 10) / 10,
        requester: requester?.id,
        remote: exchange.sender.remote,
        ...(aborted ? { aborted } : {}),
        ...(failure === undefined ? { reason: problem?.reason } : { err: failure }),
      },
      'response',
    );
  }

  #sample(exchange: Exchange, status: number, totalMs: number, aborted: boolean): void {
    const route = exchange.route?.kind ?? 'other';
    const upstream = exchange.repository?.upstream || NO_UPSTREAM;
    const outcome = exchange.outcome ?? 'none';
    this.#meter.count('http_requests_total', {
      route,
      method: methodLabel(exchange.method),
      status: String(status),
    });
    this.#meter.observe('http_request_duration_seconds', totalMs / 1000, { route });
    if (exchange.bytesSent > 0) this.#meter.count('http_sent_bytes_total', { upstream }, exchange.bytesSent);
    if (exchange.outcome !== undefined)
      this.#meter.count('http_outcomes_total', { route, upstream, outcome });
    if (aborted) this.#meter.count('http_aborted_total', { route });
  }
}

/** Methods that are used as labels; clients may invent any number of others. */
const METHODS: ReadonlySet<string> = new Set(['GET', 'HEAD', 'PUT', 'PATCH', 'POST', 'DELETE']);

function methodLabel(method: string): string {
  return METHODS.has(method) ? method : 'other';
}
