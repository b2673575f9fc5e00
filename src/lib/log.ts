/**
 * The logger interface, which `ops/` implements with pino. Fields come first, then the message. Implementations redact,
 * but secrets must not be passed to a log anyway.
 */
export interface Log {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
  /** The same log, with `bindings` on every line. */
  child(bindings: object): Log;
}

/** A log that discards everything. */
export const silentLog: Log = {
  debug() {},
  info() {},
  warn() {},
  error() {},
  child: () => silentLog,
};
