/** Keys whose values are secrets, whatever they hold. */
const SECRET_KEY =
  /^(?:(?:proxy-?)?authorization|(?:set-?)?cookie|.*password|.*passwd|.*secret|.*token|auth|credentials?|api-?key)$/i;

/** A cheap test that a text may hold something of `SECRET_TEXTS`, since nearly none does. */
const SUSPECT = /bearer |basic |@|[?&]/i;

/** Secrets inside texts: authorization schemes, user names in URLs, and query values that give access by themselves. */
const SECRET_TEXTS: readonly (readonly [RegExp, string])[] = [
  [/\b(bearer|basic)\s+[\w.~+/=-]+/gi, '$1 ***'],
  [/\/\/[^/@\s]*@/g, '//***@'],
  [
    /([?&][^=&#\s]*(?:token|signature|sig|credential|password|secret|key|policy|code|verify)[^=&#\s]*=)[^&#\s]*/gi,
    '$1***',
  ],
];

const REDACTED = '***';

/** Deeper than anything that is logged on purpose; what lies below is left out. */
const MAX_DEPTH = 6;

/** `fields` as they may be logged: secrets replaced, errors as plain data with their causes. A copy; nothing is changed. */
export function redactFields(fields: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).map(([key, value]) => [key, redactEntry(key, value, 0)]));
}

/** `text` without what gives access. */
export function redactText(text: string): string {
  return SUSPECT.test(text)
    ? SECRET_TEXTS.reduce((clean, [secret, replacement]) => clean.replace(secret, replacement), text)
    : text;
}

function redactEntry(key: string, value: unknown, depth: number): unknown {
  return SECRET_KEY.test(key) && value !== undefined && value !== null ? REDACTED : redactValue(value, depth);
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
    // Raw bytes say nothing to a reader and may be anything.
    return `${value.byteLength} bytes`;
  }
  if (Array.isArray(value)) {
    return value.map(item => redactValue(item, depth + 1));
  }
  return Object.fromEntries(
    Object.entries(value).map(([key, entry]) => [key, redactEntry(key, entry, depth + 1)]),
  );
}

function redactError(error: Error, depth: number): object {
  const { name, message, stack, cause, ...rest } = error;
  return {
    type: name,
    message: redactText(message),
    ...Object.fromEntries(
      Object.entries(rest).map(([key, value]) => [key, redactEntry(key, value, depth + 1)]),
    ),
    ...(stack === undefined ? {} : { stack: redactText(stack) }),
    ...(cause === undefined ? {} : { cause: redactValue(cause, depth + 1) }),
  };
}
