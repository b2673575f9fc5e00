import { expect, it } from 'vitest';
import { searchFor } from './search.ts';

it('finds what has every word, in any case and order, in any of its texts', () => {
  const search = searchFor(' V1  Library/APP');
  expect(search('docker.io/library/app:v1')).toBe(true);
  expect(search('docker.io/library/app', null, 'v1')).toBe(true);
  expect(search('docker.io/library/app', 'v2')).toBe(false);
});

it('finds no word across two texts, and everything by none', () => {
  expect(searchFor('ab')('a', 'b')).toBe(false);
  for (const nothing of [undefined, '', '  ']) expect(searchFor(nothing)()).toBe(true);
});
