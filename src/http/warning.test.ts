import { expect, it } from 'vitest';
import { warning } from './warning.ts';

it('a text is quoted as the distribution spec says', () => {
  expect(warning('upstream says "no" to C:\\x')).toBe(String.raw`299 - "upstream says \"no\" to C:\\x"`);
});

it('what a header must not have is replaced', () => {
  expect(warning('a\r\nSet-Cookie: b\u0000 é')).toBe('299 - "a??Set-Cookie: b? ?"');
});

it.each([0, 1, 2])('a long text is cut to 4,096 bytes, and not within an escape (%i)', shift => {
  const value = warning('x'.repeat(shift) + '\\'.repeat(4096));
  expect(value.length).toBeLessThanOrEqual(4096);
  expect(value).toMatch(/^299 - "x*(?:\\\\)+"$/);
});
