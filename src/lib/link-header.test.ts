import { describe, expect, it } from 'vitest';
import { linkToNext, nextLink } from './link-header.ts';

describe('nextLink', () => {
  it.each([
    ['</v2/a/tags/list?n=2&last=b>; rel="next"', '/v2/a/tags/list?n=2&last=b'],
    ['</v2/a/tags/list?last=b>; rel=next', '/v2/a/tags/list?last=b'],
    ['</x>;REL="NEXT"', '/x'],
    ['</x>; title="a, b; rel=\\"next\\""; rel=prev, </y>; rel="next"', '/y'],
    ['</x>; rel="prev next"', '/x'],
    ['<https://other.example/v2/a?last=b>; rel="next"', 'https://other.example/v2/a?last=b'],
    ['</x?a=1,2>; rel="next"', '/x?a=1,2'],
  ])('reads %s', (header, target) => {
    expect(nextLink(header)).toBe(target);
  });

  it.each([
    undefined,
    '',
    'next',
    '</x>',
    '</x>; rel="prev"',
    '</x>; rel="prev"; rel="next"',
    '</x; rel="next"',
    '<'.repeat(100_000),
  ])('finds none in %s', header => {
    expect(nextLink(header)).toBeUndefined();
  });

  it('reads what linkToNext writes', () => {
    expect(nextLink(linkToNext('/v2/a/tags/list?n=1&last=v1'))).toBe('/v2/a/tags/list?n=1&last=v1');
  });
});
