/** S3 refused a request, or could not do it. The message is for a log. */
export class S3Failure extends Error {
  override readonly name = 'S3Failure';
  /** The status of the answer; `undefined` if there was none. */
  readonly status: number | undefined;
  /** S3's code, such as `SlowDown`; '' if it gave none. */
  readonly code: string;

  constructor(message: string, options: { status?: number; code?: string; cause?: unknown } = {}) {
    super(message, { cause: options.cause });
    this.status = options.status;
    this.code = options.code ?? '';
  }
}
