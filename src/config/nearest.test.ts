import { describe, expect, it } from 'vitest';
import { nearest } from './nearest.ts';

describe('the nearest word', () => {
  it.each([
    ['lisen', 'listen'],
    ['LISTEN', 'listen'],
    ['opslisten', 'opsListen'],
    ['litsen', 'listen'],
    ['colour', undefined],
    ['', undefined],
  ])('to %j is %j', (word, meant) => {
    expect(nearest(word, ['listen', 'opsListen', 'serverNames'])).toBe(meant);
  });
});
