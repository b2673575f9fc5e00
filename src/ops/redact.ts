import { errorCode } from '../lib/error-code.ts';

/** Keys whose values are always secret. */
const SECRET_KEY =
  /^(?:(?:proxy-?)?authorization|(?:set-?)?cookie|.*password|.*passwd|.*secret|.*token|auth|credentials?|api-?key)$/i;

/** A cheap check whether a text may match one of `SECRET_TEXTS`, since nearly none does. */
const SUSPECT = /bearer |basic |@|[?&]/i;

/** Secrets within texts: authorization schemes, user names in URLs, and query parameters that grant access. */
const SECRET_TEXTS: readonly (readonly [RegExp, string])[] = [
  [/\b(bearer|basic)\s+[\w.~+/=-]+/gi, '$1 ***'],
  [/\/\/[^/@\s]*@/g, '//***@'],
  [
    /([?&][^=&#\s]*(?:token|signature|sig|credential|password|secret|key|policy|code|verify)[^=&#\s]*=)[^&#\s]*/gi,
    '$1***',
  ],
];

/** Codes that say that the disk is full, or a file may not be used. */
const OF_THE_DISK: ReadonlySet<string> = new Set([
  'EACCES',
  'EDQUOT',
  'ENOSPC',
  'EPERM',
  'EROFS',
  'SQLITE_FULL',
]);

const REDACTED = '***';

/** More than is ever logged on purpose; deeper values are left out. */
const MAX_DEPTH = 6;

/** Keys come from the code, mostly. */
const MAX_KEYS = 1_000;

/** Whether each key is one of a secret, since looking at a line's keys would cost as much as writing it. */
const secretKeys = new Map<string, boolean>();

/** A copy of `fields` that may be logged: without secrets, and with errors as plain data including their causes. */
export function redactFields(fields: object): Record<string, unknown> {
  return redactEntries(fields, 0);
}

/** As `redactFields`, but the same object if it may be logged as it is, as nearly every line. */
export function loggable(fields: object): object {
  const isClean = Object.keys(fields).every(key => {
    const value: unknown = Reflect.get(fields, key);
    return redactEntry(key, value, 0) === value;
  });
  return isClean ? fields : redactFields(fields);
}

function redactEntries(fields: object, depth: number): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([key, value]) => [key, redactEntry(key, value, depth)]),
  );
}

/** `text` without secrets. */
export function redactText(text: string): string {
  return SUSPECT.test(text)
    ? SECRET_TEXTS.reduce((clean, [secret, replacement]) => clean.replace(secret, replacement), text)
    : text;
}

function redactEntry(key: string, value: unknown, depth: number): unknown {
  return value !== undefined && value !== null && isSecret(key) ? REDACTED : redactValue(value, depth);
}

function isSecret(key: string): boolean {
  const known = secretKeys.get(key);
  if (known !== undefined) return known;
  const isSecretKey = SECRET_KEY.test(key);
  if (secretKeys.size < MAX_KEYS) secretKeys.set(key, isSecretKey);
  return isSecretKey;
}

function redactValue(value: unknown, depth: number): unknown {
  if (typeof value === 'string') {
    return redactText(value);
  }
  if (typeof value !== 'object' || value === null) {
    return typeof value === 'bigint' ? String(value) : value;
  }
  if (depth >= MAX_DEPTH) {
    return '…';
  }
  if (value instanceof Error) {
    return redactError(value, depth);
  }
  if (ArrayBuffer.isView(value)) {
    // Bytes are useless to a reader, and may contain anything.
    return `${value.byteLength} bytes`;
  }
  if (Array.isArray(value)) {
    return value.map(item => redactValue(item, depth + 1));
  }
  return redactEntries(value, depth + 1);
}

function redactError(error: Error, depth: number): object {
  const { name, message, cause, ...rest } = error;
  const stack = isOfDisk(error) ? undefined : error.stack;
  return {
    type: name,
    message: redactText(message),
    ...redactEntries(rest, depth + 1),
    ...(stack === undefined ? {} : { stack: redactText(stack) }),
    ...(cause === undefined ? {} : { cause: redactValue(cause, depth + 1) }),
  };
}

/**
 * Whether it, or the error that caused it, says that the disk is full or that a file may not be used: nothing is wrong
 * with the program then, so where it happened is of no use.
 */
function isOfDisk(error: unknown): boolean {
  let at = error;
  for (let depth = 0; depth < MAX_DEPTH && at instanceof Error; depth += 1) {
    if (OF_THE_DISK.has(errorCode(at) ?? '')) return true;
    at = at.cause;
  }
  return false;
}
