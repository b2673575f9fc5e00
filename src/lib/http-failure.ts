import { ResponseError } from './response-parser.ts';

/**
 * `unreachable`: no connection. `forbidden`: the guard refused the address. `timeout`: a phase took too long. `broken`:
 * the connection broke, or the response is not HTTP.
 */
export type HttpFailureReason = 'unreachable' | 'forbidden' | 'timeout' | 'broken';

/** Why a request or its body failed; the message is for a log. */
export class HttpFailure extends Error {
  readonly reason: HttpFailureReason;

  constructor(reason: HttpFailureReason, message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'HttpFailure';
    this.reason = reason;
  }
}

/** Nothing arrived within the limit of a phase. */
export class ResponseTimeout extends Error {}

/** The HttpFailure for `error`, from a request or its body; the reason of an aborted signal is returned unchanged. */
export function failureOf(
  error: unknown,
  { url, signal }: { readonly url: URL; readonly signal?: AbortSignal | undefined },
): unknown {
  if (error instanceof HttpFailure) return error;
  if (signal?.aborted) return signal.reason;
  const reason = reasonOf(error);
  return new HttpFailure(reason, `${WORDS[reason]} ${url.host}: ${messageOf(error)}`, error);
}

const WORDS: Readonly<Record<HttpFailureReason, string>> = {
  unreachable: 'cannot connect to',
  forbidden: 'not allowed to connect to',
  timeout: 'no answer in time from',
  broken: 'connection closed by',
};

/** undici's errors are recognized by their codes, so that undici need not be loaded here. */
const TIMEOUTS = new Set<string | undefined>(['UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_BODY_TIMEOUT']);
const UNDICI = /^(?:UND_ERR|HPE)(?:_|$)/;

function reasonOf(error: unknown): HttpFailureReason {
  const { syscall, code }: NodeJS.ErrnoException = error instanceof Error ? error : new Error();
  if (TIMEOUTS.has(code) || error instanceof ResponseTimeout) return 'timeout';
  if (code === 'UND_ERR_CONNECT_TIMEOUT') return 'unreachable';
  const isUndici = UNDICI.test(code ?? '') || (error instanceof Error && error.name === 'HTTPParserError');
  const isBroken = isUndici || error instanceof ResponseError || code === 'EPIPE';
  return isBroken || syscall === 'read' || syscall === 'write' ? 'broken' : 'unreachable';
}

function messageOf(error: unknown): string {
  // If several addresses were tried, Node throws an AggregateError without a message of its own.
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ');
  return error instanceof Error ? error.message : String(error);
}
