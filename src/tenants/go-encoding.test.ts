import { expect, test } from 'vitest';
import { parseGoDuration, stringifyLikeGo } from './go-encoding.ts';

test('JSON is escaped as Go escapes it', () => {
  expect(stringifyLikeGo({ a: '<&>\u2028', b: 'ä"\\\n' })).toBe(
    '{"a":"\\u003c\\u0026\\u003e\\u2028","b":"ä\\"\\\\\\n"}',
  );
});

test.each([
  ['0', 0],
  ['-0', 0],
  ['1h30m', 5_400_000],
  ['1h0m0s', 3_600_000],
  ['-1.5s', -1500],
  ['.5m', 30_000],
  ['1.s', 1000],
  ['100ms', 100],
  ['1µs', 0.001],
  ['2μs', 0.002],
  ['+3us', 0.003],
  ['1m1m', 120_000],
])('%s is a duration in Go', (text, expected) => {
  expect(parseGoDuration(text)).toBeCloseTo(expected, 9);
});

test.each(['', '1', '1d', '1 h', 'h', '.s', '1h-1m', '1e3s', '300000000h'])('%j is not a duration', text => {
  expect(parseGoDuration(text)).toBeUndefined();
});
