/** S3 refused a request, or could not do it. The message is for a log. */
export class S3Failure extends Error {
  override readonly name = 'S3Failure';
  /** The status of the answer; `undefined` if there was none. */
  readonly status: number | undefined;
  /** S3's code, such as `SlowDown`; '' if it gave none. */
  readonly code: string;
  /** Whether there was nothing to sign the request with: S3 was not asked. */
  readonly isUnsigned: boolean;

  constructor(message: string, options: S3FailureOptions = {}) {
    super(message, { cause: options.cause });
    this.status = options.status;
    this.code = options.code ?? '';
    this.isUnsigned = options.isUnsigned ?? false;
  }
}

interface S3FailureOptions {
  readonly status?: number;
  readonly code?: string;
  readonly isUnsigned?: boolean;
  readonly cause?: unknown;
}
