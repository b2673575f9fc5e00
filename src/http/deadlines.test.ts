import { describe, expect, it, vi } from 'vitest';
import { Deadlines } from './deadlines.ts';

const now = () => performance.now();

describe('work under a deadline', () => {
  it('returns its result', async () => {
    await expect(new Deadlines(20_000).meet(now(), Promise.resolve(1))).resolves.toBe(1);
    await expect(new Deadlines(20_000).meet(now(), Promise.reject(new Error('why')))).rejects.toThrow('why');
  });

  it('gets 503 with Retry-After if it is late, and its result is passed to `discard`', async () => {
    let finish: (value: string) => void = String;
    const work = new Promise<string>(resolve => {
      finish = resolve;
    });
    const discarded: string[] = [];
    const late = new Deadlines(10).meet(now(), work, value => discarded.push(value));
    await expect(late).rejects.toMatchObject({ code: 'UNAVAILABLE', headers: { 'Retry-After': '5' } });
    finish('reader');
    await work;
    expect(discarded).toEqual(['reader']);
  });

  it('that fails late causes no unhandled rejection', async () => {
    let fail: (reason: Error) => void = String;
    const work = new Promise<string>((_resolve, reject) => {
      fail = reject;
    });
    await expect(new Deadlines(10).meet(now(), work)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    fail(new Error('too late to matter'));
    await expect(work).rejects.toThrow('too late to matter');
  });

  it('is timed from the headers of the request, so that what follows late work has no time of its own', async () => {
    const deadlines = new Deadlines(50);
    const startedAtMs = now() - 50;
    const never = new Promise<void>(() => {});
    await expect(deadlines.meet(startedAtMs, never)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  it('shares one timer, which does not run when nothing waits', async () => {
    vi.useFakeTimers();
    try {
      const deadlines = new Deadlines(20_000);
      for (let count = 0; count < 100; count += 1) await deadlines.meet(now(), Promise.resolve(count));
      expect(vi.getTimerCount()).toBe(1);
      vi.advanceTimersByTime(1_000);
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });
});
