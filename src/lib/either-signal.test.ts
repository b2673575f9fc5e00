import { describe, expect, it } from 'vitest';
import { tracesOn } from '../../test/support/signal-traces.ts';
import { withEither } from './either-signal.ts';

const endOf = (signal: AbortSignal): Promise<unknown> =>
  new Promise(resolve => {
    signal.addEventListener('abort', () => resolve(signal.reason));
    if (signal.aborted) resolve(signal.reason);
  });

describe('a signal of several', () => {
  it('aborts with the reason of the first that does', async () => {
    const [one, other] = [new AbortController(), new AbortController()];
    const ending = withEither([one.signal, other.signal], endOf);
    other.abort('the other');
    one.abort('the one');
    expect(await ending).toBe('the other');
  });

  it('is aborted if one of them was', async () => {
    const { signal } = new AbortController();
    expect(await withEither([signal, AbortSignal.abort('before')], endOf)).toBe('before');
  });

  it('leaves nothing on them, however the work ends', async () => {
    const { signal } = new AbortController();
    await withEither([signal], async () => {});
    await withEither([signal], () => Promise.reject(new Error('failed'))).catch(() => {});
    expect(tracesOn(signal)).toBe(0);
  });
});
