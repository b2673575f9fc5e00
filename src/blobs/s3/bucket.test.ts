import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FakeS3, type S3Fault } from '../../../test/support/fake-s3.ts';
import { Bucket, BUCKET_LIMITS } from './bucket.ts';
import { payloadOfBytes } from './payload.ts';
import { S3Failure } from './s3-failure.ts';

const BACKOFF_MS = 40;
/** Pauses are changed at random by up to half. */
const LEAST_SHARE = 0.5;
/** Timers may fire that much early. */
const EARLY_MS = 2;

describe('a bucket', () => {
  let fake: FakeS3;
  let bucket: Bucket;

  beforeEach(async () => {
    fake = await FakeS3.start();
    bucket = new Bucket(fake.settings(), { ...BUCKET_LIMITS, backoffMs: BACKOFF_MS });
    await bucket.put('a', payloadOfBytes(Buffer.from('some bytes')));
  });

  afterEach(async () => {
    await bucket.close();
    await fake.close();
  });

  const read = () => bucket.read('a', 100, () => new Error('too large'));

  test.each<{ what: string; fault: S3Fault; ask: () => Promise<unknown> }>([
    { what: 'is refused', fault: { status: 503, code: 'SlowDown' }, ask: () => bucket.size('a') },
    {
      what: 'fails in the body of its answer',
      fault: { errorInBody: 'InternalError', isUndone: true },
      ask: () => bucket.copy('a', 'b'),
    },
    { what: 'is answered in part', fault: { cutAt: 3 }, ask: () => read() },
  ])('waits longer and longer before it repeats a request that $what', async ({ fault, ask }) => {
    const askedMs: number[] = [];
    fake.fault = () => {
      askedMs.push(performance.now());
      return askedMs.length <= 3 ? fault : undefined;
    };
    await ask();
    const pauses = askedMs.slice(1).map((atMs, at) => atMs - (askedMs[at] ?? 0));
    expect(pauses).toHaveLength(3);
    for (const [at, pauseMs] of pauses.entries()) {
      expect(pauseMs).toBeGreaterThanOrEqual(LEAST_SHARE * BACKOFF_MS * 2 ** at - EARLY_MS);
    }
  });

  test.each<{ what: string; fault: S3Fault; ask: () => Promise<unknown> }>([
    { what: 'refusals', fault: { status: 503, code: 'SlowDown' }, ask: () => bucket.size('a') },
    {
      what: 'failures in the body of answers',
      fault: { errorInBody: 'InternalError', isUndone: true },
      ask: () => bucket.copy('a', 'b'),
    },
    { what: 'incomplete answers', fault: { cutAt: 3 }, ask: () => read() },
  ])('gives up after some time of $what', async ({ fault, ask }) => {
    await bucket.close();
    bucket = new Bucket(fake.settings(), { ...BUCKET_LIMITS, backoffMs: 1, patienceMs: 300 });
    fake.fault = () => fault;
    await expect(ask()).rejects.toThrow(S3Failure);
  });
});
