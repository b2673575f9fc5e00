/** Text for terminals: columns, numbers and times. */
import { plainText } from '../ops/fields-text.ts';

const DAY_MS = 86_400_000;

/** Rows below their headings, each of one line, each column as wide as its widest cell. */
export function columnsText(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [headings, ...rows].map(row => row.map(plainText));
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

/** The date, with the time if it is within the last day; `never` for 0. */
export function timeText(atMs: number, nowMs = Date.now()): string {
  if (atMs === 0) {
    return 'never';
  }
  const text = new Date(atMs).toISOString();
  return nowMs - atMs < DAY_MS ? `${text.slice(0, 10)} ${text.slice(11, 16)}` : text.slice(0, 10);
}
