import { expect, it } from 'vitest';
import { sourceOf, FailedLogins } from './failed-logins.ts';

const MINUTE_MS = 60_000;

const attempt = (at: number) => ({
  source: '192.0.2.1',
  username: 'robot',
  credentialId: at.toString(16).padEnd(32, '0'),
});

it('counts for five minutes, even if Secrets change', () => {
  let nowMs = 0;
  const wrong = new FailedLogins(() => nowMs);
  for (let at = 20; at < 30; at += 1) wrong.add(attempt(at));
  wrong.clear();
  expect(wrong.mayTry(attempt(40))).toBe(false);
  nowMs += 2 * MINUTE_MS;
  expect([wrong.mayTry(attempt(40)), wrong.retryAfterS('192.0.2.1')]).toEqual([false, 180]);
  nowMs += 3 * MINUTE_MS;
  expect(wrong.mayTry(attempt(40))).toBe(true);
});

it.each([
  ['192.0.2.1', '192.0.2.1'],
  ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
  ['2001:db8:1:2::6', '2001:db8:1:2'],
  ['2001:db8::6', '2001:db8:0:0'],
  ['::1', '0:0:0:0'],
  ['fe80::1%eth0', 'fe80:0:0:0'],
])('%s belongs to the source %s', (address, source) => {
  expect(sourceOf(address)).toBe(source);
});
