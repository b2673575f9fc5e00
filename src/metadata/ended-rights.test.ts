import { expect, it } from 'vitest';
import { EndCounts } from './ended-rights.ts';

it('knows how many ends there were at an earlier moment, and knows none once the index has lost some', () => {
  let nowMs = 0;
  const counts = new EndCounts(() => nowMs);
  counts.note(5);
  nowMs = 10_000;
  counts.note(7);
  nowMs = 11_000;
  expect([0, 2_000, 12_000].map(agoMs => counts.before(agoMs))).toEqual([7, 5, 0]);
  // The next two ends now get the numbers of two that were lost.
  counts.note(5);
  nowMs = 12_000;
  expect([0, 2_000].map(agoMs => counts.before(agoMs))).toEqual([5, 0]);
});
