import type { Log } from '../lib/log.ts';
import { OciError } from '../oci/errors.ts';
import { answerJson } from './answer.ts';
import type { Exchange } from './exchange.ts';

/**
 * A body that the client still sends is read to its end up to this size, so that the connection can be used again;
 * behind a larger one the connection is closed.
 */
const MAX_DRAINED_BYTES = 1024 * 1024;

/** Answers with an error: the only place that does. What is no OciError is a bug: 500, and the log has its cause. */
export function writeProblem(exchange: Exchange, error: unknown, log: Log): void {
  const { req, res } = exchange;
  const problem = error instanceof OciError ? error : new OciError('UNKNOWN', { cause: error });
  if (problem !== error || problem.code === 'UNKNOWN') {
    exchange.failure = error;
    log.error(
      { err: error, method: exchange.method, route: exchange.route?.kind },
      'a request failed by a fault of ours',
    );
  }
  if (res.headersSent || res.destroyed) {
    res.destroy();
    return;
  }
  if (!req.complete && !isSmallBody(req.headers['content-length'])) res.shouldKeepAlive = false;
  answerJson(exchange, problem.status, { ...problem.headers }, problem);
}

/** A whole HTTP/1.1 message for a socket whose request could not be parsed, so that there is nothing to answer through. */
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

function isSmallBody(contentLength: string | undefined): boolean {
  return contentLength !== undefined && Number(contentLength) <= MAX_DRAINED_BYTES;
}
