import { errorCode } from '../lib/error-code.ts';
import { HttpFailure } from '../lib/http-failure.ts';
import { OciError, type OciErrorCode } from '../oci/errors.ts';
import { HIDDEN, noAnswerFrom, notAskedAgain, type Obstacle, ownLoginRefusedBy } from '../oci/reasons.ts';

/**
 * Why upstream gave no usable answer. `unknown`: 404, it does not exist (or this credential may not know of it).
 * `denied`: 401 or 403, this credential may not read it. `refused`: the credential itself is not accepted, whatever is
 * requested. `lockedOut`: Entrepot's own credential is not accepted, which says nothing about the requester
 * (`mirror/own-logins.ts`). `limited`: 429, or no request is sent because of an earlier one. `unavailable`:
 * unreachable, too slow or 5xx. `invalid`: a response that violates the protocol, or other bytes than requested.
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
  /** The HTTP status, if there was a response. */
  readonly status?: number | undefined;
  /** The first error code in upstream's response, such as NAME_UNKNOWN. */
  readonly code?: string | undefined;
  /** How long to wait before asking again. */
  readonly retryAfterMs?: number | undefined;
  /** The index of the endpoint that failed: 0 is `url`, mirrors follow. */
  readonly endpoint?: number | undefined;
  /** For `lockedOut`: whether earlier proofs of Entrepot's own credentials still cover the requester. */
  readonly isCovered?: boolean | undefined;
  /** Whether it is remembered, and upstream was not asked. */
  readonly isRecalled?: boolean | undefined;
  /** Whether no request was sent, because all endpoints are skipped. */
  readonly isUnasked?: boolean | undefined;
  /** What kept upstream from answering; by default that of `cause`. */
  readonly obstacle?: Obstacle | undefined;
  readonly cause?: unknown;
}

/**
 * The error of all functions of an `Upstream`, except for the reason of an aborted signal. The message is for operators: it
 * has addresses, names of other hosts and what they said, which clients are not told.
 */
export class UpstreamFailure extends Error {
  readonly kind: UpstreamFailureKind;
  readonly status: number | undefined;
  readonly code: string | undefined;
  readonly retryAfterMs: number | undefined;
  readonly endpoint: number | undefined;
  readonly isCovered: boolean;
  readonly isRecalled: boolean;
  readonly isUnasked: boolean;
  readonly obstacle: Obstacle | undefined;

  constructor(kind: UpstreamFailureKind, message: string, options: UpstreamFailureOptions = {}) {
    super(message, { cause: options.cause });
    this.name = 'UpstreamFailure';
    this.kind = kind;
    this.status = options.status;
    this.code = options.code;
    this.retryAfterMs = options.retryAfterMs;
    this.endpoint = options.endpoint;
    this.isCovered = options.isCovered ?? false;
    this.isRecalled = options.isRecalled ?? false;
    this.isUnasked = options.isUnasked ?? false;
    this.obstacle = options.obstacle ?? obstacleOf(options.cause);
  }
}

function obstacleOf(cause: unknown): Obstacle | undefined {
  if (cause instanceof HttpFailure) return cause.reason;
  return cause instanceof UpstreamFailure ? cause.obstacle : undefined;
}

/** The meaning of a status other than success and redirects. */
export function kindOfStatus(status: number): UpstreamFailureKind {
  if (status === 404 || status === 410) return 'unknown';
  // 451: not available for legal reasons, whatever was requested.
  if (status === 401 || status === 403 || status === 451) return 'denied';
  if (status === 429) return 'limited';
  return status >= 500 || status === 408 ? 'unavailable' : 'invalid';
}

/**
 * Whether a refusal is due to too many requests rather than to the credential: after too many logins some registries
 * and token services answer with 401 or 403, and only the error code or Retry-After tells that waiting helps.
 */
export function isRateRefusal(
  status: number,
  { code, retryAfterMs }: { readonly code: string | undefined; readonly retryAfterMs: number | undefined },
): boolean {
  if (status === 429) return true;
  return (status === 401 || status === 403) && (code === 'TOOMANYREQUESTS' || retryAfterMs !== undefined);
}

/**
 * The error of a request as an UpstreamFailure. Anything that is not a failure of HTTP (an abort, a bug) is returned
 * unchanged.
 */
export function unreachable(error: unknown, what: string, endpoint: number | undefined): unknown {
  if (!(error instanceof HttpFailure)) return error;
  // Upstream named an address to which we may not connect: that is an invalid answer, not an outage.
  const kind = error.reason === 'forbidden' ? 'invalid' : 'unavailable';
  const hint = UNKNOWN_AUTHORITY.has(errorCode(error.cause))
    ? ' (upstreams.*.caFile names the CAs to trust)'
    : '';
  return new UpstreamFailure(kind, `${what}: ${error.message}${hint}`, { endpoint, cause: error });
}

/** The error codes of Node's TLS for a certificate whose CA is not trusted. */
const UNKNOWN_AUTHORITY: ReadonlySet<string | undefined> = new Set([
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'DEPTH_ZERO_SELF_SIGNED_CERT',
]);

type UnknownCode = Extract<OciErrorCode, 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN'>;

const ANSWERS: Readonly<Record<UpstreamFailureKind, OciErrorCode | undefined>> = {
  unknown: undefined,
  // A client is told the same about what it may not read as about what does not exist; `access` decides about
  // challenges.
  denied: undefined,
  refused: undefined,
  lockedOut: 'UPSTREAM_REFUSED',
  limited: 'TOOMANYREQUESTS',
  unavailable: 'UNAVAILABLE',
  invalid: 'UPSTREAM_INVALID',
};

/**
 * The error for a client that asked for something of `upstream`; `unknownCode` is the code for what it requested. It says
 * which upstream has failed and how, and nothing else of the failure, which is its cause.
 */
export function ociErrorOf(failure: UpstreamFailure, unknownCode: UnknownCode, upstream: string): OciError {
  const code = ANSWERS[failure.kind];
  if (code === undefined) return new OciError(unknownCode, { message: HIDDEN, cause: failure });
  const told = toldOf(failure, upstream);
  return new OciError(code, {
    message: failure.isRecalled ? notAskedAgain(failure.retryAfterMs ?? 0, told) : told,
    headers:
      failure.retryAfterMs === undefined ? {} : { 'Retry-After': retryAfterSeconds(failure.retryAfterMs) },
    cause: failure,
  });
}

/** What a client is told of a failure that is not hidden from it. */
export function toldOf({ kind, status, obstacle }: UpstreamFailure, upstream: string): string {
  if (kind === 'lockedOut') return ownLoginRefusedBy(upstream);
  if (kind === 'limited') return `${upstream} limits the rate of requests`;
  if (obstacle !== undefined) return noAnswerFrom(upstream, obstacle);
  if (kind === 'invalid') return `${upstream} sent an invalid response`;
  // Other statuses are those of storage behind it, which mean something else there.
  return status !== undefined && status >= 500
    ? `${upstream} responded ${status}`
    : `${upstream} cannot answer at the moment`;
}

/** Whole seconds, rounded up so that an obedient client never comes too early; at least one. */
function retryAfterSeconds(ms: number): string {
  return String(Math.max(1, Math.ceil(ms / 1000)));
}
