import { describe, expect, it } from 'vitest';
import { inTime } from './in-time.ts';

const now = () => ({ startedAtMs: performance.now() });

describe('work in time', () => {
  it('is what it is', async () => {
    await expect(inTime(now(), Promise.resolve(1))).resolves.toBe(1);
    await expect(inTime(now(), Promise.reject(new Error('why')))).rejects.toThrow('why');
  });

  it('that is late is 503 with Retry-After, and its result is handed away', async () => {
    let finish: (value: string) => void = String;
    const work = new Promise<string>(resolve => {
      finish = resolve;
    });
    const discarded: string[] = [];
    const late = inTime(now(), work, value => discarded.push(value), 10);
    await expect(late).rejects.toMatchObject({ code: 'UNAVAILABLE', headers: { 'Retry-After': '5' } });
    finish('reader');
    await work;
    expect(discarded).toEqual(['reader']);
  });

  it('that fails late is nobody’s unhandled rejection', async () => {
    let fail: (reason: Error) => void = String;
    const work = new Promise<string>((_resolve, reject) => {
      fail = reject;
    });
    await expect(inTime(now(), work, () => {}, 10)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    fail(new Error('too late to matter'));
    await expect(work).rejects.toThrow('too late to matter');
  });
});
