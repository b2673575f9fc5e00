import { expect, it } from 'vitest';
import { newsOfTwo } from '../lib/news.fixture.ts';
import { FailedLogins, type LoginNews } from './failed-logins.ts';

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

it('counts what other processes have counted, and knows who was right there', () => {
  const [news, othersNews] = newsOfTwo<LoginNews>();
  const [own, others] = [new FailedLogins(() => 0, news), new FailedLogins(() => 0, othersNews)];
  for (let at = 20; at < 30; at += 2) {
    own.add(attempt(at));
    others.add(attempt(at + 1));
  }
  expect([own.has(attempt(21)), own.mayTry(attempt(40)), others.mayTry(attempt(40))]).toEqual([
    true,
    false,
    false,
  ]);
  own.noteRight('192.0.2.1', 'right');
  expect(others.wasRight('192.0.2.1', 'right')).toBe(true);
  own.addTried({ ...attempt(50), source: '192.0.2.2' });
  others.noteGranted(attempt(50).credentialId);
  expect(own.wasRight('192.0.2.2', attempt(50).credentialId)).toBe(true);
});
