/** What people read in a terminal: columns, sizes and times. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;
const DAY_MS = 86_400_000;

/** Rows under their headings, each column as wide as its widest cell. */
export function columnsText(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [headings, ...rows];
  const widths = headings.map((_, at) => Math.max(...all.map(row => row[at]?.length ?? 0)));
  const line = (row: readonly string[]) =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join('  ')
      .trimEnd();
  return all.map(row => `${line(row)}\n`).join('');
}

/** `1 image`, `2 images`. */
export function countText(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** About so much: `1.2 GiB`. */
export function sizeText(bytes: number): string {
  const unit = bytes < 1 ? 0 : Math.min(Math.floor(Math.log2(bytes) / 10), UNITS.length - 1);
  const value = bytes / 1024 ** unit;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** The day, or the minute if it is within the last day; `never` for 0. */
export function timeText(atMs: number, nowMs = Date.now()): string {
  if (atMs === 0) {
    return 'never';
  }
  const text = new Date(atMs).toISOString();
  return nowMs - atMs < DAY_MS ? `${text.slice(0, 10)} ${text.slice(11, 16)}` : text.slice(0, 10);
}
