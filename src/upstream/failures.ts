import { HttpFailure } from '../lib/http-client.ts';
import { OciError, type OciErrorCode } from '../oci/errors.ts';

/**
 * Why upstream gave no answer that can be used.
 * `unknown`: 404, it says that there is no such thing (or that this credential may not know).
 * `denied`: 401 or 403, this credential may not read it. `refused`: the credential itself was turned away, whatever it
 * asks for. `lockedOut`: Entrepot's own was, which says nothing about who asks (`mirror/own-logins.ts`). `limited`: 429,
 * or our gate is closed because of one. `unavailable`: unreachable, too slow or 5xx.
 * `invalid`: an answer that breaks the protocol, or bytes that are not what was asked for.
 */
export type UpstreamFailureKind =
  | 'unknown'
  | 'denied'
  | 'refused'
  | 'lockedOut'
  | 'limited'
  | 'unavailable'
  | 'invalid';

export interface UpstreamFailureOptions {
  /** The HTTP status, when there was one. */
  readonly status?: number | undefined;
  /** The first error code in upstream's answer, such as NAME_UNKNOWN. */
  readonly code?: string | undefined;
  /** How long upstream wants to be left alone. */
  readonly retryAfterMs?: number | undefined;
  /** Which endpoint failed: 0 is `url`, the mirrors follow. */
  readonly endpoint?: number | undefined;
  /** Of `lockedOut`: what Entrepot's own login proved before still covers who asks. */
  readonly isCovered?: boolean | undefined;
  readonly cause?: unknown;
}

/** What every function of an `Upstream` rejects with, apart from the reason of an aborted signal. */
export class UpstreamFailure extends Error {
  readonly kind: UpstreamFailureKind;
  readonly status: number | undefined;
  readonly code: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly endpoint: number | undefined;
  readonly isCovered: boolean;

  constructor(kind: UpstreamFailureKind, message: string, options: UpstreamFailureOptions = {}) {
    super(message, { cause: options.cause });
    this.name = 'UpstreamFailure';
    this.kind = kind;
    this.status = options.status;
    this.code = options.code;
    this.retryAfterMs = options.retryAfterMs;
    this.endpoint = options.endpoint;
    this.isCovered = options.isCovered ?? false;
  }
}

/** What a status that is no success means. The caller has dealt with redirects. */
export function kindOfStatus(status: number): UpstreamFailureKind {
  if (status === 404 || status === 410) return 'unknown';
  // 451: it may not be had, and not because of what was asked.
  if (status === 401 || status === 403 || status === 451) return 'denied';
  if (status === 429) return 'limited';
  return status >= 500 || status === 408 ? 'unavailable' : 'invalid';
}

/**
 * Whether a refusal is about how often upstream is asked, and not about who asks: some registries and token services
 * answer 401 or 403 to who tried too many log-ins, and say only by the code or by Retry-After that waiting would help.
 */
export function isRateRefusal(
  status: number,
  { code, retryAfterMs }: { readonly code: string | undefined; readonly retryAfterMs: number | undefined },
): boolean {
  if (status === 429) return true;
  return (status === 401 || status === 403) && (code === 'TOOMANYREQUESTS' || retryAfterMs !== undefined);
}

/** `error` of a request as an UpstreamFailure; what is no failure of HTTP (an abort, a bug) stays what it is. */
export function unreachable(error: unknown, what: string, endpoint: number | undefined): unknown {
  if (!(error instanceof HttpFailure)) return error;
  // An address that may not be connected to was named by upstream: that is a lie, not an outage.
  const kind = error.reason === 'forbidden' ? 'invalid' : 'unavailable';
  return new UpstreamFailure(kind, `${what}: ${error.message}`, { endpoint, cause: error });
}

type UnknownCode = Extract<OciErrorCode, 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN'>;

const ANSWERS: Readonly<Record<UpstreamFailureKind, OciErrorCode | undefined>> = {
  unknown: undefined,
  // A client hears the same for what it may not read as for what is not there; `access` decides about challenges.
  denied: undefined,
  refused: undefined,
  lockedOut: 'UPSTREAM_REFUSED',
  limited: 'TOOMANYREQUESTS',
  unavailable: 'UNAVAILABLE',
  invalid: 'UPSTREAM_INVALID',
};

/** What a client hears of `failure`; `unknownCode` is the code for what it asked for. */
export function ociErrorOf(failure: UpstreamFailure, unknownCode: UnknownCode): OciError {
  const code = ANSWERS[failure.kind];
  if (code === undefined) return new OciError(unknownCode, { cause: failure });
  return new OciError(code, {
    message: failure.message,
    headers:
      failure.retryAfterMs === undefined ? {} : { 'Retry-After': retryAfterSeconds(failure.retryAfterMs) },
    cause: failure,
  });
}

/** Whole seconds, rounded up so that who obeys never comes too early, and at least one. */
function retryAfterSeconds(ms: number): string {
  return String(Math.max(1, Math.ceil(ms / 1000)));
}
