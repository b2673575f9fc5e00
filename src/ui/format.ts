// Numbers and times as people read them: rounded to what matters, always with a unit.

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;

/** `1.2 GiB`; `–` if it is not known. */
export function bytesText(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return '–';
  const size = Math.abs(bytes);
  // What would be rounded to 1024 of a unit is 1 of the next.
  const fits = BYTE_UNITS.findIndex((_, unit) => Math.round(size / 1024 ** unit) < 1024);
  const unit = fits < 0 ? BYTE_UNITS.length - 1 : fits;
  const value = bytes / 1024 ** unit;
  return `${unit === 0 ? Math.round(value) : shortText(value)} ${BYTE_UNITS[unit]}`;
}

/** With one decimal place while that matters: `9.9`, `99.9`, `100`. */
function shortText(value: number): string {
  return Math.abs(value) < 99.95 ? value.toFixed(1) : String(Math.round(value));
}

/** `12.3 MiB/s` */
export function rateText(bytesPerSecond: number | null | undefined): string {
  return bytesPerSecond === null || bytesPerSecond === undefined ? '–' : `${bytesText(bytesPerSecond)}/s`;
}

const COUNT = new Intl.NumberFormat('en');

/** `12,345` */
export function numberText(count: number | null | undefined): string {
  return count === null || count === undefined ? '–' : COUNT.format(count);
}

/** `1 reader`, `2 readers`. */
export function quantityText(count: number, noun: string): string {
  return `${numberText(count)} ${noun}${count === 1 ? '' : 's'}`;
}

/** A share from 0 to 1 as `42 %`; never 100 % or 0 % of what is not all or nothing. */
export function shareText(share: number | null | undefined): string {
  if (share === null || share === undefined || Number.isNaN(share)) return '–';
  const percent = share * 100;
  if (percent > 99 && percent < 100) return percent > 99.9 ? '> 99.9 %' : `${percent.toFixed(1)} %`;
  if (percent > 0 && percent < 1) return percent < 0.1 ? '< 0.1 %' : `${percent.toFixed(1)} %`;
  return `${Math.round(percent)} %`;
}

const SPANS = [
  { unit: 'd', ms: 86_400_000 },
  { unit: 'h', ms: 3_600_000 },
  { unit: 'min', ms: 60_000 },
  { unit: 's', ms: 1000 },
] as const;

/** A span in its largest unit, with the next one while that is small: `2 h 5 min`, `40 s`, `12 ms`. */
export function spanText(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return '–';
  const rounded = Math.round(ms);
  if (rounded < 1000) return `${ms < 9.95 && !Number.isInteger(ms) ? ms.toFixed(1) : rounded} ms`;
  const at = SPANS.findIndex(span => rounded >= span.ms);
  const { unit, ms: unitMs } = SPANS[at] ?? SPANS[3];
  const whole = Math.floor(rounded / unitMs);
  const next = SPANS[at + 1];
  const rest = next === undefined || whole >= 10 ? 0 : Math.floor((rounded - whole * unitMs) / next.ms);
  return rest === 0 || next === undefined ? `${whole} ${unit}` : `${whole} ${unit} ${rest} ${next.unit}`;
}

const MINUTE_MS = 60_000;

/** How far a time is from now: `5 min ago`, `in 1 h 30 min`, `just now`. What will be is told more exactly, and not too early. */
export function agoText(atMs: number, nowMs: number): string {
  const ms = nowMs - atMs;
  if (Math.abs(ms) < 5_000) return 'just now';
  if (ms < 0) return `in ${spanText(-ms < MINUTE_MS ? -ms : Math.ceil(-ms / MINUTE_MS) * MINUTE_MS)}`;
  const { unit, ms: unitMs } = SPANS.find(span => ms >= span.ms) ?? SPANS[3];
  return `${Math.floor(ms / unitMs)} ${unit} ago`;
}

/** What image names of the registry at `url` begin with. */
export function hostOf(url: string): string {
  return new URL(url).host;
}

/** A digest that people can tell from others: `sha256:1a2b3c4d5e6f`. */
export function shortDigest(digest: string): string {
  const [algorithm = '', hex = ''] = digest.split(':');
  return `${algorithm}:${hex.slice(0, 12)}`;
}

/** No piece of a name is wider than this, in characters. */
const MAX_PIECE = 32;
const PIECES = new RegExp(`@[^/:@]{1,16}:[^/:@]{1,12}|[:@]?[^/:@]{1,${MAX_PIECE}}/?|[/:@]`, 'gu');

/** The pieces between which a name may be broken: its components, tag and digest. */
export function namePieces(name: string): readonly string[] {
  return name.match(PIECES) ?? [];
}

/** A name of an image with as much of its digest, if it has one, as tells it from others. */
export function shortImage(image: string): string {
  const [name = '', digest] = image.split('@');
  return digest === undefined ? name : `${name}@${shortDigest(digest)}`;
}

/** An image that everybody can pull, if its registry is mirrored here; else the form of a name. */
export function exampleImage(upstreams: readonly string[]): string | undefined {
  if (upstreams.includes('docker.io')) return 'docker.io/library/alpine:latest';
  return upstreams[0] === undefined ? undefined : `${upstreams[0]}/REPOSITORY:TAG`;
}
