import { describe, expect, it } from 'vitest';
import { parseByteRange } from './byte-range.ts';

describe('a byte range', () => {
  it.each([
    ['bytes=0-', { start: 0, end: 99 }],
    ['bytes=0-0', { start: 0, end: 0 }],
    ['bytes=10-19', { start: 10, end: 19 }],
    ['bytes=90-500', { start: 90, end: 99 }],
    ['bytes=-10', { start: 90, end: 99 }],
    ['bytes=-100', { start: 0, end: 99 }],
    ['bytes=-5000', { start: 0, end: 99 }],
  ])('%s is read', (header, range) => {
    expect(parseByteRange(header, 100)).toEqual(range);
  });

  it.each(['bytes=100-', 'bytes=500-600', 'bytes=-0', 'bytes=99999999999999999999-'])(
    '%s begins after the end',
    header => {
      expect(parseByteRange(header, 100)).toBe('unsatisfiable');
    },
  );

  it.each([
    undefined,
    '',
    'bytes',
    'bytes=',
    'bytes=a-b',
    'bytes=1-2-3',
    'bytes=--1',
    'lines=0-5',
    'lines=500-',
    'bytes=0-1,5-6',
    'bytes=0-1, 500-',
  ])('%s is ignored', header => {
    expect(parseByteRange(header, 100)).toBeUndefined();
  });

  it('of an empty body is ignored', () => {
    expect(parseByteRange('bytes=0-', 0)).toBeUndefined();
  });

  it('that is reversed is ignored', () => {
    expect(parseByteRange('bytes=20-10', 100)).not.toMatchObject({ start: 20 });
  });
});
