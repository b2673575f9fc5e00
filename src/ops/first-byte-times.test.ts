import { expect, it } from 'vitest';
import { FirstByteTimes, firstByteSummary } from './first-byte-times.ts';

const HIT = { upstream: 'docker.io', outcome: 'hit' };
const MISS = { upstream: 'docker.io', outcome: 'miss' };

it('tells how long half, most and nearly all had to wait, half as long again at worst', () => {
  const times = new FirstByteTimes(() => 0);
  for (let ms = 1; ms <= 1_000; ms += 1) times.note(HIT, ms);
  times.note(MISS, 60_000_000);
  const [hits, misses] = times.counts;
  const { count, p50Ms, p90Ms, p99Ms } = firstByteSummary(hits === undefined ? [] : [hits]) ?? {};
  expect(count).toBe(1_000);
  for (const [told, exact] of [
    [p50Ms, 500],
    [p90Ms, 900],
    [p99Ms, 990],
  ] as const) {
    expect(told).toBeGreaterThanOrEqual(exact * 0.99);
    expect(told).toBeLessThanOrEqual(exact * 1.51);
  }
  expect(misses).toMatchObject(MISS);
  expect(firstByteSummary([])).toBeUndefined();
});

it('adds up what several processes have counted', () => {
  const processes = [new FirstByteTimes(), new FirstByteTimes()];
  for (const times of processes) for (const ms of [1, 1, 100]) times.note(HIT, ms);
  const all = processes.flatMap(({ counts }) => counts);
  expect(firstByteSummary(structuredClone(all))).toMatchObject({ count: 6, p50Ms: 1.1 });
});

it('forgets what is more than an hour ago', () => {
  let nowMs = 0;
  const times = new FirstByteTimes(() => nowMs);
  const count = () => firstByteSummary(times.counts)?.count;
  times.note(HIT, 1);
  nowMs = 50 * 60_000;
  times.note(HIT, 1);
  expect(count()).toBe(2);
  nowMs = 70 * 60_000;
  expect(count()).toBe(1);
  nowMs = 600 * 60_000;
  expect(count()).toBeUndefined();
  times.note(HIT, 1);
  expect(count()).toBe(1);
});
