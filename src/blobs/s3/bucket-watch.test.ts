import { beforeEach, describe, expect, test } from 'vitest';
import { ManualClock } from '../../lib/manual-clock.fixture.ts';
import { silentLog } from '../../lib/log.ts';
import { BucketWatch, LOST } from './bucket-watch.ts';
import { S3Failure } from './s3-failure.ts';

describe('a BucketWatch', () => {
  let clock: ManualClock;
  let lines: string[];
  let answer: S3Failure | undefined;
  let looks: number;
  let watch: BucketWatch;

  beforeEach(() => {
    clock = new ManualClock();
    lines = [];
    answer = undefined;
    looks = 0;
    const note = (level: string) => (_fields: object, text: string) => void lines.push(`${level}: ${text}`);
    const log = { ...silentLog, info: note('info'), error: note('error') };
    const look = async () => {
      looks += 1;
      if (answer !== undefined) throw answer;
    };
    watch = new BucketWatch({ name: 'the bucket', look, clock, log });
  });

  const busy = new S3Failure('slow down', { status: 503, code: 'SlowDown' });

  test('tells classes of trouble apart, and passes over what concerns one request', () => {
    const cases = [
      [new S3Failure('no keys', { isUnsigned: true }), 'noCredentials'],
      [new S3Failure('no connection'), 'unreachable'],
      [busy, 'busy'],
      [new S3Failure('no', { status: 403, code: 'AccessDenied' }), 'refused'],
      [new S3Failure('no', { status: 404, code: 'NoSuchBucket' }), 'missing'],
      [new S3Failure('no', { code: LOST }), 'missing'],
    ] as const;
    watch.failed(new S3Failure('no', { status: 400, code: 'InvalidPart' }));
    expect(watch.problem).toBeUndefined();
    for (const [failure, kind] of cases) {
      watch.failed(failure);
      expect(watch.trouble?.kind).toBe(kind);
    }
  });

  test('logs when it changes, not for each request, and knows since when', async () => {
    const sinceMs = clock.nowMs();
    watch.failed(busy);
    await clock.advance(1_000);
    watch.failed(busy);
    expect(watch.trouble).toEqual({ kind: 'busy', sinceMs });
    expect(watch.problem).toContain(`since ${new Date(sinceMs).toISOString()}`);
    watch.succeeded();
    watch.succeeded();
    expect(watch.problem).toBeUndefined();
    expect(lines.map(line => line.slice(0, 40))).toEqual([
      'error: the bucket cannot handle requests',
      'info: the bucket can be used again',
    ]);
  });

  test('finds out by itself that S3 is back', async () => {
    answer = busy;
    watch.failed(busy);
    await clock.advance(5_000);
    expect([looks, watch.trouble?.kind]).toEqual([1, 'busy']);
    answer = undefined;
    await clock.advance(5_000);
    expect([looks, watch.trouble]).toEqual([2, undefined]);
  });

  test('finds out that it is away although nobody uses it, and looks at nothing that is in use', async () => {
    for (let at = 0; at < 4; at += 1) {
      watch.succeeded();
      await clock.advance(20_000);
    }
    expect(looks).toBe(0);
    answer = new S3Failure('no connection');
    await clock.advance(30_000);
    expect(watch.trouble?.kind).toBe('unreachable');
  });

  test('an answer about something else does not bring a lost bucket back', async () => {
    answer = new S3Failure('no', { code: LOST });
    watch.failed(answer);
    watch.succeeded();
    expect(watch.trouble?.kind).toBe('missing');
    answer = undefined;
    await clock.advance(5_000);
    expect(watch.trouble).toBeUndefined();
  });

  test('is silent once it is closed', async () => {
    watch.close();
    watch.failed(busy);
    await clock.advance(60_000);
    expect([lines, looks]).toEqual([[], 0]);
  });
});
