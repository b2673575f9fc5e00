/** The fields except `others` as ` key=value`, so that a log entry is one line. */
export function fieldsText(fields: Readonly<Record<string, unknown>>, others: readonly string[]): string {
  return Object.entries(fields)
    .filter(([key, value]) => value !== undefined && !others.includes(key))
    .map(([key, value]) => ` ${key}=${valueText(value)}`)
    .join('');
}

const PLAIN_VALUE = /^[!-~]+$/;

/** Terminals interpret control characters, and text from clients and upstreams may contain some. */
const CONTROL = /[\u007f-\u009f]/g;
/** With those that JSON escapes anyway. */
const ANY_CONTROL = /\p{Cc}/gu;

/** Control characters other than line ends and tabs. */
const UNSHOWN = /(?![\t\n]|\r\n)\p{Cc}/gu;

/** Escapes control characters in a text of several lines, except line ends and tabs. */
export function terminalText(text: string): string {
  return text.replace(UNSHOWN, escaped);
}

/** A value for people: a text without quotes, but with control characters escaped as well. */
export function plainText(value: unknown): string {
  if (Array.isArray(value)) return value.map(plainText).join(', ');
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text.replace(ANY_CONTROL, escaped);
}

function valueText(value: unknown): string {
  if (typeof value === 'string' && PLAIN_VALUE.test(value)) return value;
  return JSON.stringify(value).replace(CONTROL, escaped);
}

function escaped(character: string): string {
  return `\\u00${character.charCodeAt(0).toString(16).padStart(2, '0')}`;
}
