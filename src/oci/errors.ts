/** All errors that a client can get: the codes of the distribution spec ("Error Codes"), and some of our own. */
const ERRORS = {
  BLOB_UNKNOWN: { status: 404, message: 'blob unknown to registry' },
  BLOB_UPLOAD_INVALID: { status: 400, message: 'blob upload invalid' },
  BLOB_UPLOAD_UNKNOWN: { status: 404, message: 'blob upload unknown to registry' },
  DIGEST_INVALID: { status: 400, message: 'provided digest did not match uploaded content, or is malformed' },
  MANIFEST_BLOB_UNKNOWN: {
    status: 404,
    message: 'manifest references a manifest or blob unknown to registry',
  },
  MANIFEST_INVALID: { status: 400, message: 'manifest invalid' },
  MANIFEST_UNKNOWN: { status: 404, message: 'manifest unknown to registry' },
  NAME_INVALID: { status: 400, message: 'invalid repository name' },
  NAME_UNKNOWN: { status: 404, message: 'repository name not known to registry' },
  SIZE_INVALID: { status: 400, message: 'provided length did not match content length' },
  UNAUTHORIZED: { status: 401, message: 'authentication required' },
  DENIED: { status: 403, message: 'requested access to the resource is denied' },
  UNSUPPORTED: { status: 405, message: 'the operation is unsupported' },
  TOOMANYREQUESTS: { status: 429, message: 'too many requests' },
  TAG_INVALID: { status: 400, message: 'manifest tag is malformed' },
  PAGINATION_NUMBER_INVALID: { status: 400, message: 'invalid number of results requested' },
  RANGE_INVALID: { status: 416, message: 'range not satisfiable' },
  QUERY_INVALID: { status: 400, message: 'invalid request' },
  MANIFEST_TOO_LARGE: { status: 413, message: 'manifest exceeds the size limit' },
  UPSTREAM_INVALID: { status: 502, message: 'the upstream registry sent an invalid response' },
  UPSTREAM_REFUSED: { status: 502, message: "upstream refused Entrepot's credentials" },
  UNAVAILABLE: { status: 503, message: 'temporarily unavailable' },
  INSUFFICIENT_STORAGE: { status: 507, message: 'insufficient storage' },
  UNKNOWN: { status: 500, message: 'internal error' },
} as const satisfies Record<string, { status: number; message: string }>;

/** A code of the distribution spec, or one of our own. */
export type OciErrorCode = keyof typeof ERRORS;

/** Details of an error. */
export interface OciErrorOptions {
  /** For the client: what is wrong and what to do about it. Replaces the general message of the code. */
  readonly message?: string;
  /** Structured data for `errors[0].detail`. Never a secret. */
  readonly detail?: unknown;
  /** Extra response headers, such as Retry-After. */
  readonly headers?: Readonly<Record<string, string>>;
  /** For operators only: log, commands and page. */
  readonly cause?: unknown;
}

/**
 * An error that the client is told. Anything else that is thrown is a bug, answered with 500 and logged with its cause.
 * Never subclassed.
 */
export class OciError extends Error {
  readonly code: OciErrorCode;
  readonly status: number;
  readonly detail: unknown;
  readonly headers: Readonly<Record<string, string>>;

  constructor(code: OciErrorCode, options: OciErrorOptions = {}) {
    super(options.message ?? ERRORS[code].message, { cause: options.cause });
    this.name = 'OciError';
    this.code = code;
    this.status = ERRORS[code].status;
    this.detail = options.detail;
    this.headers = options.headers ?? {};
  }

  /** For operators: with the cause, if it says more than the client is told. */
  get story(): string {
    const { message, cause } = this;
    return cause instanceof Error && !message.includes(cause.message)
      ? `${message} (${cause.message})`
      : message;
  }

  /** The story in one line for the log. */
  get reason(): string {
    return `${this.code}: ${this.story}`;
  }

  /** The response body (distribution spec, "Error Codes"). */
  toJSON(): { errors: [{ code: string; message: string; detail?: unknown }] } {
    const { code, message, detail } = this;
    return { errors: [detail === undefined ? { code, message } : { code, message, detail }] };
  }
}

/** All codes with their HTTP status, for the test that compares them with the spec. */
export function errorCodes(): ReadonlyMap<string, number> {
  return new Map(Object.entries(ERRORS).map(([code, { status }]) => [code, status]));
}

/** Whether upstream sent what it must not. Where that was noticed (the stack) says nothing about why. */
export function isWrongContent(error: unknown): error is OciError {
  return error instanceof OciError && error.code === 'UPSTREAM_INVALID';
}
