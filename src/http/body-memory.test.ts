import { describe, expect, it } from 'vitest';
import { BodyMemory } from './body-memory.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const never = (): void => {};

function withBodies(count: number, budgetBytes = 64 * MIB): BodyMemory {
  const memory = new BodyMemory(budgetBytes);
  for (let body = 0; body < count; body += 1) memory.enter();
  return memory;
}

describe('the memory of bodies', () => {
  it.each([
    [1, MIB],
    [8, MIB],
    [9, 256 * KIB],
    [64, 256 * KIB],
    [65, 64 * KIB],
    [257, 16 * KIB],
    [5000, 16 * KIB],
  ])('gives each of %i bodies buffers of %i bytes', (bodies, bytes) => {
    expect(withBodies(bodies).take(10 * MIB)?.byteLength).toBe(bytes);
  });

  it('gives a small body a small buffer', () => {
    expect(withBodies(1).take(10)?.byteLength).toBe(16 * KIB);
    expect(withBodies(1).take(16 * KIB)?.byteLength).toBe(16 * KIB);
    expect(withBodies(1).take(16 * KIB + 1)?.byteLength).toBe(64 * KIB);
  });

  it.each([1, 8, 9, 32, 33, 64, 65, 256, 257])('has a buffer for the smallest of %i bodies', bodies => {
    expect(withBodies(bodies).take(1)?.byteLength).toBe(16 * KIB);
  });

  it('never lends more than its budget, and then less rather than nothing', () => {
    const memory = withBodies(1, 2 * MIB);
    const sizes: number[] = [];
    for (let buffer = memory.take(10 * MIB); buffer !== undefined; buffer = memory.take(10 * MIB)) {
      sizes.push(buffer.byteLength);
    }
    expect(memory.lentBytes).toBeLessThanOrEqual(2 * MIB);
    expect(sizes.slice(0, 2)).toEqual([MIB, MIB]);
  });

  it('lets new bodies wait in turn', async () => {
    const memory = withBodies(1, MIB);
    const held = memory.take(10 * MIB);
    const order: string[] = [];
    const first = memory.takeFirst(MIB, never).then(buffer => {
      order.push('first');
      return buffer;
    });
    const second = memory.takeFirst(MIB, never).then(() => order.push('second'));
    await Promise.resolve();
    expect(order).toEqual([]);
    if (held !== undefined) memory.give(held);
    const buffer = await first;
    expect(order).toEqual(['first']);
    if (buffer !== undefined) memory.give(buffer);
    await second;
    expect(order).toEqual(['first', 'second']);
  });

  it('forgets a waiter whose client left', async () => {
    const memory = withBodies(1, MIB);
    const held = memory.take(10 * MIB);
    let cancel: () => void = never;
    const waiting = memory.takeFirst(MIB, leave => {
      cancel = leave;
    });
    cancel();
    await expect(waiting).resolves.toBeUndefined();
    if (held !== undefined) memory.give(held);
    expect(memory.lentBytes).toBe(0);
  });

  it('shrinks what is lent as bodies come, and grows it as they go', () => {
    const memory = withBodies(1);
    const big = memory.take(10 * MIB);
    if (big === undefined) throw new Error('no buffer');
    for (let body = 0; body < 99; body += 1) memory.enter();
    const small = memory.renew(big, 10 * MIB);
    expect(small.byteLength).toBe(64 * KIB);
    expect(memory.lentBytes).toBe(64 * KIB);
    for (let body = 0; body < 99; body += 1) memory.leave();
    expect(memory.renew(small, 10 * MIB)).toBe(big);
  });

  it('stays within the budget for any number of bodies with two buffers each', () => {
    for (const bodies of [1, 8, 9, 64, 65, 256, 257, 2048]) {
      const memory = withBodies(bodies);
      const size = memory.take(10 * MIB)?.byteLength ?? 0;
      expect([bodies, size * bodies * 2 <= 64 * MIB]).toEqual([bodies, true]);
    }
  });
});
