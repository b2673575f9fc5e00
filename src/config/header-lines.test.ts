import { expect, it } from 'vitest';
import { parseHeaderLines } from './header-lines.ts';

it('headers are lines of a name and a value', () => {
  const text = '# for the CI\r\nAuthorization: Bearer a:b=\r\n\r\nX-Team:  one two \n';
  expect(parseHeaderLines(text)).toEqual({ headers: { authorization: 'Bearer a:b=', 'x-team': 'one two' } });
});

it.each([
  ['a line without a value', 'X-Team:'],
  ['a line without a name', ': secret'],
  ['characters that a header must not have', 'X-Team: s\u00e9cret\u0000'],
  ['a header that describes the body', 'Content-Type: secret'],
  ['a header of the signature', 'Webhook-Signature: secret'],
  ['the same header twice', 'X-Team: secret\nx-team: secret'],
])('%s is a problem, which does not show the value', (_, text) => {
  const parsed = parseHeaderLines(text);
  expect(parsed).toEqual({ problem: expect.stringMatching(/^line \d: /) });
  expect(JSON.stringify(parsed)).not.toMatch(/s.cret/);
});
