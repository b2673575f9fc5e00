import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http';
import type { Log } from '../lib/log.ts';
import { OciError } from '../oci/errors.ts';
import { isOutage } from '../oci/outage.ts';
import { answerJson } from './answer.ts';
import type { Exchange } from './exchange.ts';
import { reasonPhrase } from './reason-phrase.ts';
import { storageTrouble } from './storage-trouble.ts';
import { warning } from './warning.ts';

/**
 * After an error response, at most this much of what the client still sends is read and dropped, so that it receives
 * the response: closing at once would reset the connection. Clients stop when they see the error, or finish what is
 * this small.
 */
const MAX_DRAINED_BYTES = 16 * 1024 * 1024;

/**
 * Sends an error response; the only place that does. A temporary failure of storage is 503; any other error than an
 * OciError is a bug: 500. The log has the cause of both, and of an outage the response's line alone.
 */
export function writeProblem(exchange: Exchange, error: unknown, log: Log): void {
  const { req, res } = exchange;
  const problem =
    error instanceof OciError ? error : (storageTrouble(error) ?? new OciError('UNKNOWN', { cause: error }));
  exchange.problem ??= problem;
  if (problem.code === 'UNKNOWN' || (problem !== error && !isOutage(error))) {
    exchange.failure = error;
    log.error(
      { err: error, method: exchange.method, route: exchange.route?.kind },
      problem.code === 'UNKNOWN'
        ? 'a request failed with an internal error'
        : 'a request failed because of a storage problem',
    );
  }
  if (res.headersSent || res.destroyed) {
    res.destroy();
    return;
  }
  const headers: OutgoingHttpHeaders = { ...problem.headers };
  if (isUnread(exchange, problem.status)) headers['Warning'] = warning(problem.message);
  res.statusMessage = reasonPhrase(problem.status, problem.message);
  answerJson(exchange, problem.status, headers, problem);
  if (!req.complete) drain(req);
}

/**
 * Whether clients do not show the body of such a response: containers/image shows those of 4xx except 429. HEAD has none;
 * with 404 it only asks what has to be pushed, and 401 is the beginning of a login.
 */
function isUnread({ bodyless }: Exchange, status: number): boolean {
  if (status === 429 || status >= 500) return true;
  return bodyless && status !== 404 && status !== 401;
}

/** A complete HTTP/1.1 response for a socket whose request could not be parsed. */
export function rawProblem(status: number, reason: string, message: string): string {
  const body = JSON.stringify(new OciError('QUERY_INVALID', { message }));
  return [
    `HTTP/1.1 ${status} ${reason}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}

function drain(req: IncomingMessage): void {
  let drainedBytes = 0;
  req.on('data', (chunk: Buffer) => {
    drainedBytes += chunk.byteLength;
    if (drainedBytes > MAX_DRAINED_BYTES) req.socket.destroy();
  });
  req.on('error', () => {});
}
