import { expect, it } from 'vitest';
import { reasonPhrase } from './reason-phrase.ts';

it('says the usual phrase, and why', () => {
  expect(reasonPhrase(503, 'cannot connect')).toBe('Service Unavailable: cannot connect');
});

it('has only characters that may be in it, so that no reason can add a header', () => {
  expect(reasonPhrase(404, 'no\r\nSet-Cookie: a=b \u2026 \u00e9')).toBe('Not Found: no??Set-Cookie: a=b ? ?');
});

it('is short enough for proxies with small buffers', () => {
  const phrase = reasonPhrase(500, 'x'.repeat(10_000));
  expect(phrase).toHaveLength(512);
  expect(phrase).toMatch(/^Internal Server Error: x+\.\.\.$/);
});
