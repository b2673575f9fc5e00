/**
 * `value` as Go's encoding/json writes it: without spaces, and with the characters escaped that HTML or JavaScript
 * could misinterpret. For text that is hashed or compared with the output of a Go program.
 */
export function stringifyLikeGo(value: Readonly<Record<string, string>>): string {
  return JSON.stringify(value).replaceAll(
    /[<>&\u2028\u2029]/g,
    character => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Nanoseconds of the units of Go's `time.ParseDuration`; micro has two spellings. */
const NANOSECONDS: ReadonlyMap<string, number> = new Map([
  ['ns', 1],
  ['us', 1e3],
  ['µs', 1e3],
  ['μs', 1e3],
  ['ms', 1e6],
  ['s', 1e9],
  ['m', 60e9],
  ['h', 3600e9],
]);

const DURATION = /^[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+$/;
/** In Go a duration has 63 bits of nanoseconds, about 292 years. */
const MAX_NANOSECONDS = 2 ** 63;

/** The milliseconds of a Go duration such as `1h30m`, `-1.5s` or `0`; `undefined` if it is not one. */
export function parseGoDuration(text: string): number | undefined {
  if (/^[+-]?0$/.test(text)) return 0;
  if (!DURATION.test(text)) return undefined;
  let nanoseconds = 0;
  for (const [, count, unit = ''] of text.matchAll(/([\d.]+)([a-zµμ]+)/g)) {
    nanoseconds += Number(count) * (NANOSECONDS.get(unit) ?? Number.NaN);
  }
  if (nanoseconds >= MAX_NANOSECONDS) return undefined;
  return (text.startsWith('-') ? -nanoseconds : nanoseconds) / 1e6;
}
