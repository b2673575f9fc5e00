import { setImmediate } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { MemoryBudget, MemoryBusy } from './memory-budget.ts';

const budget = (options = {}) =>
  new MemoryBudget({ totalBytes: 100, shareBytes: 40, waitMs: 1_000, maxWaiting: 3, ...options });

const [a, b, c, x] = [{ name: 'a' }, { name: 'b' }, { name: 'c' }, { name: 'x' }];

/** In which order those that wait are admitted. */
function note(order: string[], name: string, leasing: Promise<{ release(): void }>) {
  return leasing.then(lease => {
    order.push(name);
    return lease;
  });
}

afterEach(() => {
  vi.useRealTimers();
});

describe('a memory budget', () => {
  it('gives a holder its share, while another one can continue', async () => {
    const memory = budget();
    const first = await memory.lease(a, 40);
    let isAdmitted = false;
    const second = memory.lease(a, 1).then(lease => {
      isAdmitted = true;
      return lease;
    });
    await memory.lease(b, 40);
    expect([isAdmitted, memory.bytes]).toEqual([false, 80]);
    first.release();
    first.release();
    (await second).release();
    expect(memory.bytes).toBe(40);
  });

  it('takes turns by holder, however many requests one of them has waiting', async () => {
    const memory = budget({ totalBytes: 40 });
    const lease = await memory.lease(x, 40);
    const order: string[] = [];
    const waiting = [
      note(order, 'a1', memory.lease(a, 20)),
      note(order, 'a2', memory.lease(a, 20)),
      note(order, 'a3', memory.lease(a, 20)),
      note(order, 'b1', memory.lease(b, 20)),
    ];
    lease.release();
    for (const each of [waiting[0], waiting[3], waiting[1], waiting[2]]) (await each)?.release();
    expect(order).toEqual(['a1', 'b1', 'a2', 'a3']);
  });

  it('lets nobody overtake who waits for the rest of the budget, however little they want', async () => {
    const memory = budget();
    await memory.lease(a, 40);
    const other = await memory.lease(b, 40);
    const order: string[] = [];
    const large = note(order, 'large', memory.lease(c, 30));
    const small = note(order, 'small', memory.lease(x, 10));
    await setImmediate();
    expect(order).toEqual([]);
    other.release();
    await Promise.all([large, small]);
    expect([order, memory.bytes]).toEqual([['large', 'small'], 80]);
  });

  it('lets nobody of a group overtake who waits for its bytes, while others can continue', async () => {
    const memory = budget({ groupBytes: 50 });
    const first = await memory.lease({ name: '1', group: 'g' }, 30);
    const order: string[] = [];
    const large = note(order, 'large', memory.lease({ name: '2', group: 'g' }, 40));
    const small = note(order, 'small', memory.lease({ name: '3', group: 'g' }, 10));
    await memory.lease(a, 40);
    expect(order).toEqual([]);
    first.release();
    await Promise.all([large, small]);
    expect([order, memory.bytes]).toEqual([['large', 'small'], 90]);
  });

  it('refuses a holder that has waited too long, and says whose bytes are in the way', async () => {
    vi.useFakeTimers();
    const memory = budget();
    await memory.lease(a, 40);
    await memory.lease(b, 40);
    const waiting = Promise.allSettled([memory.lease(a, 30), memory.lease(c, 30)]);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await waiting).toMatchObject([
      { reason: { limit: 'share', retryAfterS: 1 } },
      { reason: { limit: 'all' } },
    ]);
    expect(memory.bytes).toBe(80);
    await memory.lease(c, 20);
  });

  it('refuses at once beyond a number that wait, and more than a share as soon as its wait is over', async () => {
    vi.useFakeTimers();
    const memory = budget();
    const waiting = Promise.allSettled([41, 41, 41].map(bytes => memory.lease(a, bytes)));
    await expect(memory.lease(a, 1)).rejects.toMatchObject({ limit: 'share' });
    await vi.advanceTimersByTimeAsync(1_000);
    expect((await waiting).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
    await memory.lease(a, 40);
  });

  it('accepts bytes that are in memory already at once or not at all', async () => {
    const memory = budget();
    const lease = memory.leaseNow(a, 30);
    expect(() => memory.leaseNow(a, 30)).toThrow(MemoryBusy);
    lease.release();
    expect(memory.leaseNow(a, 40)).toBeDefined();
  });

  it('gives a group no more than its share, however many holders it has', async () => {
    const memory = budget({ groupBytes: 60 });
    const [one, two, three] = [
      { name: '1', group: 'g' },
      { name: '2', group: 'g' },
      { name: '3', group: 'g' },
    ];
    const first = memory.leaseNow(one, 40);
    expect(() => memory.leaseNow(one, 10)).toThrow(expect.objectContaining({ limit: 'share' }));
    memory.leaseNow(two, 20);
    expect(() => memory.leaseNow(three, 1)).toThrow(expect.objectContaining({ limit: 'all' }));
    memory.leaseNow(a, 40);
    const waiting = memory.lease(three, 30);
    first.release();
    await waiting;
    expect(memory.bytes).toBe(90);
  });

  it('grows a lease by the difference', async () => {
    const memory = budget();
    const lease = await memory.lease(a, 10);
    await lease.grow(30);
    await lease.grow(5);
    expect(memory.bytes).toBe(30);
    lease.release();
    expect(memory.bytes).toBe(0);
  });
});
