import { errorCode } from '../../lib/error-code.ts';

/** What another attempt may not meet (SQLSTATE): serialization failures, deadlocks, and locks that were not given in time. */
const CONFLICTS: ReadonlySet<string | undefined> = new Set(['40001', '40P01', '55P03']);

/**
 * SQLSTATEs with which a server, or a pooler in front of it, says that it cannot serve now: connection exceptions,
 * too many connections, shutdown and crash, a timeout of this session, system errors, and a server that has become a
 * standby: it writes nothing (25006), and neither begins to (0A000) nor has tables that are not logged.
 */
const AWAY = /^(?:08|58)...$|^53[34]00$|^57P0[1-5]$|^25006$|^0A000$|^25P0[34]$/;

/** The same for whoever connects: a login that fails or a database that is missing may be mended there. */
const AWAY_AT_LOGIN = /^(?:28|3D)...$/;

const AWAY_BY_SYSTEM: ReadonlySet<string | undefined> = new Set([
  'EAI_AGAIN',
  'ECONNABORTED',
  'ECONNREFUSED',
  'ECONNRESET',
  'EHOSTDOWN',
  'EHOSTUNREACH',
  'ENETDOWN',
  'ENETUNREACH',
  'ENOTFOUND',
  'EPIPE',
  'ETIMEDOUT',
]);

/** A certificate that is not trusted, or no longer, and a handshake that fails. */
const AWAY_BY_TLS =
  /^(?:CERT_.*|ERR_TLS_.*|ERR_SSL_.*|EPROTO|(?:DEPTH_ZERO_)?SELF_SIGNED_CERT.*|UNABLE_TO_GET_ISSUER_CERT.*|UNABLE_TO_VERIFY_LEAF_SIGNATURE)$/;

/** The password file could not be read for a new connection. Has no code: nothing of the store's own files is missing. */
export class PasswordUnreadable extends Error {
  override readonly name = 'PasswordUnreadable';

  constructor(cause: unknown) {
    super(`the password file cannot be read (${errorCode(cause) ?? String(cause)})`, { cause });
  }
}

/** What the driver says without a code: a connection ended, could not be had, or gave no answer in time. */
const AWAY_BY_DRIVER =
  /^(?:Connection terminated|timeout expired|timeout exceeded when trying to connect|Query read timeout|Client has encountered a connection error|Client was closed|The server does not support SSL)/;

/** Whether the transaction was undone by the server in favour of others, and may be repeated. */
export function isConflict(error: unknown): error is Error {
  return error instanceof Error && CONFLICTS.has(errorCode(error));
}

/**
 * Whether the server ended a transaction because this process was silent for too long: the process was suspended, and the
 * database can be reached.
 */
export function wasSilent(error: unknown): boolean {
  return errorCode(error) === '25P03';
}

/** Whether the database could not be asked, or its answer is not known. */
export function isAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof PasswordUnreadable) return true;
  const code = errorCode(error);
  if (code === undefined) return AWAY_BY_DRIVER.test(error.message);
  return AWAY_BY_SYSTEM.has(code) || AWAY.test(code) || AWAY_AT_LOGIN.test(code) || AWAY_BY_TLS.test(code);
}
