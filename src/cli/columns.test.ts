import { expect, test } from 'vitest';
import { sizeText } from '../lib/units.ts';
import { columnsText, countText, timeText } from './columns.ts';

test('columns are as wide as their widest cell, and no line ends in spaces', () => {
  expect(
    columnsText(
      ['NAME', 'SIZE'],
      [
        ['nginx:latest', '1'],
        ['a', ''],
      ],
    ),
  ).toBe('NAME          SIZE\nnginx:latest  1\na\n');
});

test('a row is one line, whatever its cells contain', () => {
  expect(columnsText(['NAME'], [['a\nb\u001B[2J']])).toBe('NAME\na\\u000ab\\u001b[2J\n');
});

test.each([
  [0, '0 B'],
  [1023, '1023 B'],
  [1024, '1.0 KiB'],
  [2 ** 20 - 1, '1.0 MiB'],
  [99.96 * 1024, '100 KiB'],
  [1_300_000, '1.2 MiB'],
  [150 * 2 ** 30, '150 GiB'],
  [2 ** 60, '1048576 TiB'],
])('%i bytes are %s', (bytes, text) => {
  expect(sizeText(bytes)).toBe(text);
});

test('a recent time has hours and minutes, another only the date', () => {
  const nowMs = Date.UTC(2026, 10, 24, 12, 30);
  expect(timeText(0, nowMs)).toBe('never');
  expect(timeText(nowMs - 60_000, nowMs)).toBe('2026-11-24 12:29');
  expect(timeText(nowMs - 3 * 86_400_000, nowMs)).toBe('2026-11-21');
});

test('one is singular', () => {
  expect([0, 1, 2].map(count => countText(count, 'image'))).toEqual(['0 images', '1 image', '2 images']);
});
