/** ` key=value` for each field but those of `others`, so that a line of a log is one line for people, too. */
export function fieldsText(fields: Readonly<Record<string, unknown>>, others: readonly string[]): string {
  return Object.entries(fields)
    .filter(([key, value]) => value !== undefined && !others.includes(key))
    .map(([key, value]) => ` ${key}=${valueText(value)}`)
    .join('');
}

const PLAIN_VALUE = /^[!-~]+$/;

/** A terminal obeys control characters, and what clients and upstreams say may hold some. */
const CONTROL = /[\u007f-\u009f]/g;

function valueText(value: unknown): string {
  if (typeof value === 'string' && PLAIN_VALUE.test(value)) return value;
  return JSON.stringify(value).replace(CONTROL, escaped);
}

function escaped(character: string): string {
  return `\\u00${character.charCodeAt(0).toString(16)}`;
}
