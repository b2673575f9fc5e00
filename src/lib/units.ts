/**
 * Durations and sizes as people write them: a number with its unit, never without. Parsed by hand, since libraries
 * guess: `10GiB`, `10xyz` and `10` must not be the same.
 */

/** The text is not a duration or size; the message shows the form. */
export class UnitError extends Error {
  override readonly name = 'UnitError';
}

/** The form that `parseDuration` accepts, for messages. */
export const DURATION_FORM = 'a duration such as 500ms, 90s, 1m, 24h or 7d';

/** The form that `parseInterval` accepts, for messages. */
export const INTERVAL_FORM = 'more than 0s, such as 90s, 1m, 24h or 7d';

/** The form that `parseSize` accepts, for messages. */
export const SIZE_FORM = 'a size such as 64KB, 4MiB or 200GiB';

/** The form that `parseDiskShare` accepts, for messages. */
export const DISK_SHARE_FORM = 'a size such as 4MiB or 200GiB, or a share of the disk such as 5%';

/** The form that `parseRate` accepts, for messages. */
export const RATE_FORM = 'more than 0B per second, such as 64KB, 4MiB or 200MiB';

const MS_PER_UNIT = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1000, ms: 1 } as const;

/** Largest first; powers of 1024 and of 1000, distinguished by the `i` as in IEC 80000-13. */
const BYTES_PER_UNIT = {
  TiB: 2 ** 40,
  TB: 1e12,
  GiB: 2 ** 30,
  GB: 1e9,
  MiB: 2 ** 20,
  MB: 1e6,
  KiB: 2 ** 10,
  KB: 1e3,
  B: 1,
} as const;

const DURATION = /^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?$/;
const SIZE = /^(\d+(?:\.\d+)?)\s?([KMGT]i?B|B)$/i;

/** The milliseconds of `1m`, `500ms`, `1h30m`; throws UnitError for anything else, including a bare number. */
export function parseDuration(text: string): number {
  const match = DURATION.exec(text);
  if (match === null || text === '') {
    throw new UnitError(`expected ${DURATION_FORM}`);
  }
  const units = Object.values(MS_PER_UNIT);
  const ms = units.reduce((sum, unitMs, index) => sum + Number(match[index + 1] ?? 0) * unitMs, 0);
  return exact(ms, DURATION_FORM);
}

/** As `parseDuration`, but more than 0, for what is repeated. */
export function parseInterval(text: string): number {
  const ms = parseDuration(text);
  if (ms === 0) {
    throw new UnitError(`expected ${INTERVAL_FORM}`);
  }
  return ms;
}

/** The bytes of `200GiB`, `64KB`, in upper or lower case. Throws UnitError for anything else. */
export function parseSize(text: string): number {
  const match = SIZE.exec(text);
  if (match === null) {
    throw new UnitError(`expected ${SIZE_FORM}`);
  }
  const unit = Object.entries(BYTES_PER_UNIT).find(
    ([name]) => name.toLowerCase() === match[2]?.toLowerCase(),
  );
  return exact(Number(match[1]) * (unit?.[1] ?? Number.NaN), SIZE_FORM);
}

/** Bytes per second, written as a size. Not 0, which would never finish. */
export function parseRate(text: string): number {
  const bytes = parseSize(text);
  if (bytes === 0) {
    throw new UnitError(`expected ${RATE_FORM}`);
  }
  return bytes;
}

/** A number of bytes, or a share of a disk. */
export type DiskShare = { readonly bytes: number } | { readonly percent: number };

/** `5GiB` or `5%`; throws UnitError for anything else. */
export function parseDiskShare(text: string): DiskShare {
  const percent = Number(/^(\d+(?:\.\d+)?)%$/.exec(text)?.[1]);
  if (percent < 100) return { percent };
  if (SIZE.test(text)) return { bytes: parseSize(text) };
  throw new UnitError(`expected ${DISK_SHARE_FORM}`);
}

/** The text that `parseDiskShare` reads as `share`. */
export function formatDiskShare(share: DiskShare): string {
  return 'percent' in share ? `${share.percent}%` : formatSize(share.bytes);
}

/** The shortest text that `parseDuration` reads as `ms`: `1h30m`, `500ms`, `0s`. */
export function formatDuration(ms: number): string {
  let rest = ms;
  let text = '';
  for (const [unit, unitMs] of Object.entries(MS_PER_UNIT)) {
    const count = Math.floor(rest / unitMs);
    rest -= count * unitMs;
    text += count === 0 ? '' : `${count}${unit}`;
  }
  return text === '' ? '0s' : text;
}

/** The text in the largest unit without loss, which `parseSize` reads as `bytes`: `200GiB`, `64KB`, `1001B`. */
export function formatSize(bytes: number): string {
  const fit = Object.entries(BYTES_PER_UNIT).find(
    ([, unitBytes]) => bytes >= unitBytes && bytes % unitBytes === 0,
  );
  return fit === undefined ? `${bytes}B` : `${bytes / fit[1]}${fit[0]}`;
}

const ROUGH_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;

/** A rounded size: `1.2 GiB`. */
export function sizeText(bytes: number): string {
  // What would be rounded to 1024 of a unit is 1 of the next.
  const fits = ROUGH_UNITS.findIndex((_, unit) => Math.round(bytes / 1024 ** unit) < 1024);
  const unit = fits < 0 ? ROUGH_UNITS.length - 1 : fits;
  const value = bytes / 1024 ** unit;
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${ROUGH_UNITS[unit]}`;
}

/** Requires a safe integer: fractions of a byte or millisecond are a mistake. */
function exact(value: number, form: string): number {
  if (!Number.isSafeInteger(value)) {
    throw new UnitError(`expected ${form}, a whole number below ${Number.MAX_SAFE_INTEGER}`);
  }
  return value;
}
