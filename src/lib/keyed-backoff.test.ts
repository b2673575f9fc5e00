import { expect, test } from 'vitest';
import { KeyedBackoff, MAX_BACKOFF_KEYS } from './keyed-backoff.ts';

const schedule = { firstMs: 10, maxMs: 40 };

test('each key waits for itself, twice as long each time, up to the longest delay', () => {
  const backoff = new KeyedBackoff(schedule);
  expect([0, 10, 30, 70].map(at => backoff.failed('a', at))).toEqual([10, 20, 40, 40]);
  expect(backoff.remainingMs('a', 75)).toBe(35);
  expect(backoff.remainingMs('a', 110)).toBe(0);
  expect(backoff.remainingMs('b', 75)).toBe(0);
});

test('a key starts again after more than twice the longest delay, or when it is forgotten', () => {
  const backoff = new KeyedBackoff(schedule);
  backoff.failed('a', 0);
  expect(backoff.failed('a', 80)).toBe(20);
  expect(backoff.failed('a', 161)).toBe(10);
  backoff.forget('a');
  expect(backoff.remainingMs('a', 162)).toBe(0);
});

test('the number of keys is limited; the one that failed longest ago is removed', () => {
  const backoff = new KeyedBackoff(schedule);
  backoff.failed('first', 0);
  backoff.failed('second', 0);
  for (let key = 1; key < MAX_BACKOFF_KEYS; key += 1) backoff.failed(`other-${key}`, 1);
  expect(backoff.remainingMs('first', 1)).toBe(0);
  expect(backoff.remainingMs('second', 1)).toBe(9);
});
