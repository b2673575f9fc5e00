import { describe, expect, it } from 'vitest';
import { parseContentRange, uploadRange } from './content-range.ts';

describe('Content-Range of a chunk', () => {
  it.each([
    ['0-0', 0, 0],
    ['0-1023', 0, 1023],
    ['1024-2047', 1024, 2047],
    ['bytes 5-9/10', 5, 9],
    ['bytes 5-9/*', 5, 9],
  ])('%s is from %i to %i', (text, start, end) => {
    expect(parseContentRange(text)).toEqual({ start, end });
  });

  it.each([
    '',
    '0',
    '-',
    '0-',
    '-5',
    '9-0',
    'a-b',
    '0-9-9',
    ' 0-9',
    '0x0-0x9',
    '1e3-2e3',
    `0-${'9'.repeat(20)}`,
  ])('%j is refused', text => {
    expect(() => parseContentRange(text)).toThrow('Content-Range');
  });
});

describe('Range of an upload', () => {
  it('ends with the last byte that arrived', () => {
    expect([0, 1, 100].map(uploadRange)).toEqual(['0-0', '0-0', '0-99']);
  });
});
