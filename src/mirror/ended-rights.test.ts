import { expect, it } from 'vitest';
import { EndedRights } from './ended-rights.ts';

it('says whether a right has ended since', () => {
  const ended = new EndedRights();
  ended.note('one', 10);
  expect([10, 11].map(sinceMs => ended.hasEndedSince('one', sinceMs))).toEqual([true, false]);
  expect(ended.hasEndedSince('other', 0)).toBe(false);
  ended.note('one', 20);
  expect(ended.hasEndedSince('one', 11)).toBe(true);
});

it('cannot tell for a time before the oldest remembered end', () => {
  const ended = new EndedRights(3);
  ended.note('one', 10);
  for (let at = 11; at <= 13; at += 1) ended.note(`name ${at} that was never given`, at);
  expect(['one', 'other'].map(right => ended.hasEndedSince(right, 5))).toEqual([true, true]);
  expect(['one', 'other'].map(right => ended.hasEndedSince(right, 11))).toEqual([false, false]);
});

it('drops the oldest end, but not one that was renewed', () => {
  const ended = new EndedRights(2);
  ended.note('one', 10);
  ended.note('two', 11);
  ended.note('one', 12);
  ended.note('three', 13);
  expect(ended.hasEndedSince('one', 12)).toBe(true);
  expect(ended.hasEndedSince('other', 12)).toBe(false);
});
