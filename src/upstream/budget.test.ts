import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { newsOfTwo } from '../lib/news.fixture.ts';
import { Budgets, type LimitNews, parseRetryAfter, readLimit } from './budget.ts';

const NOW = Date.parse('Tue, 24 Nov 2026 12:00:00 GMT');

describe('parseRetryAfter', () => {
  it.each([
    ['120', 120_000],
    [' 0 ', 0],
    ['1.5', 1_500],
    ['Tue, 24 Nov 2026 12:01:00 GMT', 60_000],
    ['Tue, 24 Nov 2026 11:00:00 GMT', 0],
    ['-5', undefined],
    ['soon', undefined],
    ['', undefined],
    [undefined, undefined],
  ])('reads %s', (header, expected) => {
    expect(parseRetryAfter(header, NOW)).toBe(expected);
  });
});

describe('readLimit', () => {
  it.each([
    ['76;w=21600', { count: 76, windowS: 21_600 }],
    ['0;w=60', { count: 0, windowS: 60 }],
    ['100', { count: 100, windowS: undefined }],
    ['100, 100;w=60', { count: 100, windowS: undefined }],
    ['many', undefined],
    [undefined, undefined],
  ])('reads %s', (header, expected) => {
    expect(readLimit(header)).toEqual(expected);
  });
});

describe('Budgets', () => {
  it('increase the delay if none is given, and count concurrent refusals once', () => {
    let now = 0;
    const budgets = new Budgets(() => now);
    const waits = [1, 2, 3, 4, 5, 6, 7].map(() => {
      budgets.close('id', undefined);
      const waitMs = budgets.close('id', undefined);
      now += waitMs;
      return waitMs / 1000;
    });
    expect(waits).toEqual([10, 20, 40, 80, 160, 300, 300]);
  });

  it('start again after a success, and not after another error', () => {
    let now = 0;
    const budgets = new Budgets(() => now);
    const answered = (status: number) => budgets.note('id', { status, headers: {}, body: Readable.from([]) });
    const refused = () => {
      const waitMs = answered(429) ?? 0;
      now += waitMs;
      return waitMs / 1000;
    };
    expect([refused(), refused()]).toEqual([10, 20]);
    answered(404);
    expect(refused()).toBe(40);
    answered(200);
    expect(refused()).toBe(10);
  });

  it('do not prolong a delay because the clock was set back', () => {
    let now = 3_600_000;
    const budgets = new Budgets(() => now);
    expect(budgets.close('id', 60_000)).toBe(60_000);
    now = 0;
    expect(budgets.limitedMs('id')).toBe(0);
    expect(budgets.close('id', 60_000)).toBe(60_000);
  });

  it('ignore a delay of a year, and never shorten one', () => {
    const budgets = new Budgets(() => 0);
    expect(budgets.close('id', 365 * 24 * 3600_000)).toBe(6 * 3600_000);
    expect(budgets.close('id', 1_000)).toBe(6 * 3600_000);
    budgets.forget();
    expect(budgets.limitedMs('id')).toBe(0);
  });
});

it('a rate limit is known to other processes', () => {
  const [news, othersNews] = newsOfTwo<LimitNews>();
  const own = new Budgets(() => NOW, { endpoint: 1, news });
  const others = new Budgets(() => NOW);
  othersNews.listen(limit => others.learn(limit));
  own.close('robot', 30_000);
  expect([others.limitedMs('robot'), others.limitedMs('another')]).toEqual([30_000, 0]);
  // One that asked at the same time has the same limit.
  expect(others.close('robot', undefined)).toBe(30_000);
});

const answer = (status: number, headers: Record<string, string> = {}) => ({
  status,
  headers,
  body: Readable.from([]),
});

describe('limits of requests for blobs', () => {
  it('are known after a 429, and forgotten with other failures', () => {
    const budgets = new Budgets();
    expect(budgets.limitsBlobs).toBe(false);
    budgets.note('id', answer(429));
    expect(budgets.limitsBlobs).toBe(true);
    budgets.forget();
    expect(budgets.limitsBlobs).toBe(false);
  });

  it('are known from what an answer with a blob says, but not one with a manifest', () => {
    const budgets = new Budgets();
    budgets.note('id', answer(200, { 'ratelimit-remaining': '99;w=21600' }));
    expect(budgets.limitsBlobs).toBe(false);
    budgets.note('id', answer(206, { 'ratelimit-remaining': '98;w=21600' }), { isBlob: true });
    expect(budgets.limitsBlobs).toBe(true);
  });

  it('do not hold other requests up if a spare one was one too many, unless upstream names a time', () => {
    const budgets = new Budgets();
    budgets.note('id', answer(429), { isSpare: true });
    expect([budgets.limitedMs('id'), budgets.limitsBlobs]).toEqual([0, true]);
    budgets.note('id', answer(429, { 'retry-after': '60' }), { isSpare: true });
    expect(budgets.limitedMs('id')).toBeGreaterThan(0);
  });
});

it('says how fast a budget is spent, over the last minutes and since it was refilled', () => {
  let nowMs = 0;
  const budgets = new Budgets(() => nowMs);
  const spend = (remaining: number, atMs: number) => {
    nowMs = atMs;
    const headers = { 'ratelimit-remaining': `${remaining};w=21600` };
    budgets.note('one', { status: 200, headers, body: Readable.from([]) });
    return budgets.list()[0]?.spentPerS;
  };
  const MINUTE_MS = 60_000;
  expect(spend(100, 0)).toBeUndefined();
  expect(spend(97, MINUTE_MS)).toBeCloseTo(3 / 60);
  expect(spend(80, 6 * MINUTE_MS)).toBeCloseTo(20 / 360);
  // From the mark of the sixth minute on.
  expect(spend(20, 12 * MINUTE_MS)).toBeCloseTo(60 / 360);
  expect(spend(99, 13 * MINUTE_MS)).toBeUndefined();
  expect(spend(98, 14 * MINUTE_MS)).toBeCloseTo(1 / 60);
});
