import { describe, expect, it } from 'vitest';
import { parseByteRanges } from './byte-range.ts';

describe('a Range header', () => {
  it.each([
    ['bytes=0-', { start: 0, end: 99 }],
    ['bytes=0-0', { start: 0, end: 0 }],
    ['bytes=10-19', { start: 10, end: 19 }],
    ['bytes=90-500', { start: 90, end: 99 }],
    ['bytes=-10', { start: 90, end: 99 }],
    ['bytes=-100', { start: 0, end: 99 }],
    ['bytes=-5000', { start: 0, end: 99 }],
    ['Bytes = 5-6', { start: 5, end: 6 }],
  ])('%s requests one range', (header, range) => {
    expect(parseByteRanges(header, 100)).toEqual([range]);
  });

  it('requests several in its order, neither merged nor sorted', () => {
    expect(parseByteRanges('bytes=50-59, 0-9 ,10-19,55-56,-5000', 100)).toEqual([
      { start: 50, end: 59 },
      { start: 0, end: 9 },
      { start: 10, end: 19 },
      { start: 55, end: 56 },
      { start: 0, end: 99 },
    ]);
  });

  it('requests nothing by empty members, or by ranges that begin after the end', () => {
    expect(parseByteRanges('bytes=,0-1, ,500-600,-0,5-6,', 100)).toEqual([
      { start: 0, end: 1 },
      { start: 5, end: 6 },
    ]);
  });

  it.each(['bytes=100-', 'bytes=500-600', 'bytes=-0', 'bytes=99999999999999999999-', 'bytes=100-,-0'])(
    '%s cannot be satisfied',
    header => {
      expect(parseByteRanges(header, 100)).toBe('unsatisfiable');
    },
  );

  it.each([
    undefined,
    '',
    'bytes',
    'bytes=',
    'bytes=,',
    'bytes=a-b',
    'bytes=1-2-3',
    'bytes=--1',
    'bytes=-',
    'bytes=20-10',
    'bytes=0-1,20-10',
    'bytes=0-1,x',
    'lines=0-5',
    'lines=500-',
  ])('%s is ignored', header => {
    expect(parseByteRanges(header, 100)).toBeUndefined();
  });

  it('of an empty body is ignored', () => {
    expect(parseByteRanges('bytes=0-', 0)).toBeUndefined();
  });
});
