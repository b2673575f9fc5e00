/**
 * A logger as the code sees it; `ops/` makes one on pino. Fields first, then the sentence.
 * Implementations redact: still, never hand a secret to a log.
 */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  /** The same log with `bindings` on every line. */
  child(bindings: object): Log;
}

/** A log that keeps nothing: for tests, and for library use of a part. */
export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
};
