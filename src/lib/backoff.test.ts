import { describe, expect, it } from 'vitest';
import { backoffMs, jittered } from './backoff.ts';

describe('backoffMs', () => {
  it('doubles from the first delay to the longest', () => {
    const schedule = { firstMs: 1_000, maxMs: 30_000 };
    expect([0, 1, 2, 3, 5, 6, 5_000].map(failures => backoffMs(schedule, failures))).toEqual([
      0, 1_000, 2_000, 4_000, 16_000, 30_000, 30_000,
    ]);
  });
});

describe('jittered', () => {
  it('stays within its share on both sides', () => {
    expect([0, 0.5, 1].map(random => jittered(1_000, 0.2, () => random))).toEqual([800, 1_000, 1_200]);
  });
});
