import { beforeEach, describe, expect, it } from 'vitest';
import { newsOfTwo } from '../lib/news.fixture.ts';
import { Reachability } from './reachability.ts';
import { UpstreamFailure, type UpstreamFailureKind } from '../upstream/failures.ts';
import { type FailureNews, NegativeCache } from './negative-cache.ts';

const KEY = { upstream: 'up', repository: 'app', reference: '1', credentialId: '' };
let nowMs = 1_000_000;
let failures: NegativeCache;

beforeEach(() => {
  failures = new NegativeCache(() => nowMs);
});

const fail = (kind: UpstreamFailureKind, retryAfterMs?: number, key = KEY) =>
  failures.remember(key, new UpstreamFailure(kind, 'failed', { retryAfterMs }));

/** The delays that so many failures in a row get, each right after the one before is over. */
function delays(kind: UpstreamFailureKind, count: number, retryAfterMs?: number): readonly number[] {
  return Array.from({ length: count }, () => {
    const delayMs = fail(kind, retryAfterMs).retryAfterMs ?? 0;
    expect(failures.recall(KEY)?.retryAfterMs).toBe(delayMs);
    nowMs += delayMs - 1;
    expect(failures.recall(KEY)?.kind).toBe(kind);
    nowMs += 1;
    expect(failures.recall(KEY)).toBeUndefined();
    return delayMs / 1000;
  });
}

describe('a remembered failure', () => {
  it('lasts as long as its kind says', () => {
    expect(delays('unknown', 3)).toEqual([10, 10, 10]);
    expect(delays('denied', 3)).toEqual([10, 10, 10]);
    expect(delays('refused', 7)).toEqual([10, 20, 40, 80, 160, 300, 300]);
    expect(delays('lockedOut', 7)).toEqual([10, 20, 40, 80, 160, 300, 300]);
    expect(delays('limited', 3)).toEqual([10, 20, 40]);
    expect(delays('limited', 2, 17_000)).toEqual([17, 17]);
    expect(delays('unavailable', 7)).toEqual([1, 2, 4, 8, 16, 30, 30]);
  });

  it('is counted only during its delay', () => {
    fail('unknown');
    expect(failures.waitedOut).toBe(1);
    nowMs += 10_000;
    expect(failures.waitedOut).toBe(0);
  });

  it('of an unreachable upstream ends with any success there, others do not', () => {
    fail('unavailable');
    fail('denied', undefined, { ...KEY, reference: '2' });
    failures.succeeded({ ...KEY, reference: 'other' });
    expect(failures.recall(KEY)).toBeUndefined();
    expect(failures.recall({ ...KEY, reference: '2' })?.kind).toBe('denied');
    expect(fail('unavailable').retryAfterMs).toBe(1_000);
  });

  it('starts again after a long time without one', () => {
    delays('unavailable', 4);
    nowMs += 60_000;
    expect(delays('unavailable', 1)).toEqual([1]);
  });

  it('affects nobody else', () => {
    fail('unknown');
    for (const part of ['upstream', 'repository', 'reference', 'credentialId']) {
      expect(failures.recall({ ...KEY, [part]: 'another' })).toBeUndefined();
    }
  });

  it('is forgotten by repository, altogether, or if it says that something does not exist', () => {
    fail('unknown');
    failures.forget({ upstream: 'up', name: 'other' });
    expect(failures.recall(KEY)).toBeDefined();
    failures.forget({ upstream: 'up', name: 'app' });
    expect(failures.recall(KEY)).toBeUndefined();
    fail('unavailable');
    failures.forgetNegative();
    expect(failures.recall(KEY)).toBeDefined();
    failures.forget();
    expect(failures.waitedOut).toBe(0);
  });

  it('does not outlive its delay when the clock is set back', () => {
    fail('refused');
    nowMs -= 1_000_000;
    expect(failures.recall(KEY)).toBeUndefined();
    nowMs += 1_000_000;
  });

  it('removes the oldest when a client invents references without end', () => {
    for (let index = 0; index < 10_001; index++)
      fail('unknown', undefined, { ...KEY, reference: String(index) });
    expect(failures.waitedOut).toBe(10_000);
    expect(failures.recall({ ...KEY, reference: '0' })).toBeUndefined();
    expect(failures.recall({ ...KEY, reference: '10000' })).toBeDefined();
  });
});

it('is known to other processes, which ask again when one of them gets an answer', () => {
  const [news, othersNews] = newsOfTwo<FailureNews>();
  const [own, others] = [new NegativeCache(() => nowMs, news), new NegativeCache(() => nowMs, othersNews)];
  for (const [cache, heard] of [
    [own, news],
    [others, othersNews],
  ] as const) {
    heard.listen(told => cache.learn(told));
  }
  const failed = new UpstreamFailure('unavailable', 'failed');
  own.remember(KEY, failed);
  expect(others.recall(KEY)).toMatchObject({ kind: 'unavailable', message: 'failed', retryAfterMs: 1_000 });
  // It had asked at the same time: the delay of both doubles once at most.
  others.remember(KEY, failed);
  expect([own.recall(KEY)?.retryAfterMs, others.recall(KEY)?.retryAfterMs]).toEqual([1_000, 2_000]);
  own.remember({ ...KEY, reference: '2' }, failed);
  others.succeeded({ ...KEY, reference: '3' });
  expect([own.waitedOut, others.waitedOut]).toEqual([0, 0]);
});

it('tells what answers and failures of any question say of the upstream', () => {
  const said: string[] = [];
  const reachability = new Reachability(() => 0, {
    noteReachable: (upstream, failure) => void said.push(`${upstream} ${failure?.message ?? 'answers'}`),
  });
  const cache = new NegativeCache(() => 0, undefined, reachability);
  const key = { upstream: 'docker.io', repository: 'app', reference: '1', credentialId: '' };
  cache.remember(key, new UpstreamFailure('unknown', 'not found'));
  cache.succeeded(key);
  cache.remember(key, new UpstreamFailure('unavailable', 'timeout'));
  cache.learn({
    key,
    failure: {
      kind: 'unavailable',
      message: 'timeout, too',
      status: undefined,
      endpoint: undefined,
      retryAfterMs: undefined,
      obstacle: undefined,
    },
  });
  cache.succeeded({ ...key, reference: '2' });
  cache.succeeded(key);
  cache.remember(key, new UpstreamFailure('unavailable', 'reset'));
  cache.remember({ ...key, reference: '2' }, new UpstreamFailure('denied', 'no'));
  expect(said).toEqual(['docker.io timeout', 'docker.io answers', 'docker.io reset', 'docker.io answers']);
});
