import { OciError, type OciErrorCode } from '../oci/errors.ts';

/**
 * Why upstream gave no answer that can be used.
 * `unknown`: 404, it says that there is no such thing (or that this credential may not know).
 * `denied`: 401 or 403, this credential may not read it. `refused`: the credential itself was turned away, whatever it
 * asks for. `limited`: 429, or our gate is closed because of one. `unavailable`: unreachable, too slow or 5xx.
 * `invalid`: an answer that breaks the protocol, or bytes that are not what was asked for.
 */
export type UpstreamFailureKind = 'unknown' | 'denied' | 'refused' | 'limited' | 'unavailable' | 'invalid';

export interface UpstreamFailureOptions {
  /** The HTTP status, when there was one. */
  readonly status?: number | undefined;
  /** How long upstream wants to be left alone. */
  readonly retryAfterMs?: number | undefined;
  /** Which endpoint failed: 0 is `url`, the mirrors follow. */
  readonly endpoint?: number | undefined;
  readonly cause?: unknown;
}

/** What every function of an `Upstream` rejects with, apart from the reason of an aborted signal. */
export class UpstreamFailure extends Error {
  readonly kind: UpstreamFailureKind;
  readonly status: number | undefined;
  readonly retryAfterMs: number | undefined;
  readonly endpoint: number | undefined;

  constructor(kind: UpstreamFailureKind, message: string, options: UpstreamFailureOptions = {}) {
    super(message, { cause: options.cause });
    this.name = 'UpstreamFailure';
    this.kind = kind;
    this.status = options.status;
    this.retryAfterMs = options.retryAfterMs;
    this.endpoint = options.endpoint;
  }
}

type UnknownCode = Extract<OciErrorCode, 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN'>;

const ANSWERS: Readonly<Record<UpstreamFailureKind, OciErrorCode | undefined>> = {
  unknown: undefined,
  // A client hears the same for what it may not read as for what is not there; `access` decides about challenges.
  denied: undefined,
  refused: undefined,
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
