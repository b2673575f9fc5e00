import { expect, test } from 'vitest';
import { retryJittered } from './jittered-retry.ts';

const RETRY = {
  isRetryable: (error: unknown) => error instanceof RangeError,
  minDelayMs: 1,
  maxDelayMs: 3,
  deadlineMs: 60_000,
  gaveUp: (cause: unknown) => new Error('counted for too long', { cause }),
};

test('a retryable error is retried until it succeeds', async () => {
  let attempts = 0;
  const result = await retryJittered(() => {
    attempts += 1;
    if (attempts < 3) {
      throw new RangeError('not yet');
    }
    return attempts;
  }, RETRY);
  expect(result).toBe(3);
});

test('any other error is thrown at once', async () => {
  let attempts = 0;
  const failing = () => {
    attempts += 1;
    throw new TypeError('never');
  };
  await expect(retryJittered(failing, RETRY)).rejects.toThrow('never');
  expect(attempts).toBe(1);
});

test('after the deadline the last error is turned into the one that is thrown', async () => {
  const cause = new RangeError('not yet');
  const failing = () => {
    throw cause;
  };
  const given = retryJittered(failing, { ...RETRY, deadlineMs: 20 });
  await expect(given).rejects.toMatchObject({ message: 'counted for too long', cause });
});
