import { describe, expect, it } from 'vitest';
import { BodyMemory } from './body-memory.ts';
import type { SharedBuffer } from './shared-buffer.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const A = 'tenant a';
const B = 'tenant b';

function withBodies(count: number, budgetBytes = 64 * MIB): BodyMemory {
  const memory = new BodyMemory(budgetBytes, budgetBytes);
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
  ])('gives each of %i bodies pages of %i bytes', (bodies, bytes) => {
    expect(withBodies(bodies).take(10 * MIB, A)?.buffer.byteLength).toBe(bytes);
  });

  it('gives a small body a small page', () => {
    expect(withBodies(1).take(10, A)?.buffer.byteLength).toBe(16 * KIB);
    expect(withBodies(1).take(16 * KIB, A)?.buffer.byteLength).toBe(16 * KIB);
    expect(withBodies(1).take(16 * KIB + 1, A)?.buffer.byteLength).toBe(64 * KIB);
  });

  it.each([1, 8, 9, 32, 33, 64, 65, 256, 257])('has a page for the smallest of %i bodies', bodies => {
    expect(withBodies(bodies).take(1, A)?.buffer.byteLength).toBe(16 * KIB);
  });

  it('never exceeds its budget, and then gives smaller pages rather than none', () => {
    const memory = withBodies(1, 2 * MIB);
    const sizes: number[] = [];
    for (let page = memory.take(10 * MIB, A); page !== undefined; page = memory.take(10 * MIB, A)) {
      sizes.push(page.buffer.byteLength);
    }
    expect(memory.lentBytes).toBeLessThanOrEqual(2 * MIB);
    expect(sizes.slice(0, 2)).toEqual([MIB, MIB]);
  });

  it('leaves a quarter to others, whatever one takes', () => {
    const memory = new BodyMemory(16 * MIB);
    const held = Array.from({ length: 12 }, () => taken(memory, MIB));
    expect(memory.take(16 * KIB, A)).toBeUndefined();
    expect(memory.take(MIB, B)?.buffer.byteLength).toBe(MIB);
    held.slice(0, 1).forEach(page => memory.give(page));
    expect(memory.take(MIB, A)).toBeDefined();
  });

  it('gives a body that has no page a small one where there is no room, and keeps none of these', () => {
    const memory = withBodies(1, MIB);
    const held = taken(memory, 10 * MIB);
    const extra = memory.takeFirst(10 * MIB, A);
    expect(extra.buffer.byteLength).toBe(2 * KIB);
    expect(memory.lentBytes).toBe(MIB);
    memory.give(extra);
    expect(memory.takeFirst(10 * MIB, B)).not.toBe(extra);
    memory.give(held);
    expect(memory.takeFirst(10 * MIB, A)).toBe(held);
  });

  it('reuses what was given back, but not what the kernel may still read', () => {
    const memory = withBodies(1);
    const page = taken(memory, MIB);
    memory.give(page);
    expect(memory.take(MIB, A)).toBe(page);
    memory.forget(page);
    expect(memory.lentBytes).toBe(0);
    expect(memory.take(MIB, A)).not.toBe(page);
  });

  it('stays within the budget for any number of bodies with two pages each', () => {
    for (const bodies of [1, 8, 9, 64, 65, 256, 257, 2048]) {
      const memory = withBodies(bodies);
      const size = memory.take(10 * MIB, A)?.buffer.byteLength ?? 0;
      expect([bodies, size * bodies * 2 <= 64 * MIB]).toEqual([bodies, true]);
    }
  });
});

describe('a shared page', () => {
  const source = {};

  it('is found at its position in the same bytes only, and counts once', () => {
    const memory = withBodies(2);
    const page = taken(memory, 10 * MIB);
    memory.share(page, source, 3 * MIB);
    expect(memory.find(source, 3 * MIB, A)).toBe(page);
    expect(memory.find(source, 2 * MIB, A)).toBeUndefined();
    expect(memory.find({}, 3 * MIB, A)).toBeUndefined();
    expect(memory.lentBytes).toBe(MIB);
  });

  it('is held until its last holder gives it back, and can be found until it is reused', () => {
    const memory = withBodies(1);
    const page = taken(memory, 10 * MIB);
    memory.share(page, source, 0);
    memory.find(source, 0, A);
    memory.give(page);
    expect(memory.take(10 * MIB, A)).not.toBe(page);
    memory.give(page);
    expect(memory.find(source, 0, A)).toBe(page);
    memory.give(page);
    expect(memory.take(10 * MIB, A)).toBe(page);
    expect(memory.find(source, 0, A)).toBeUndefined();
  });

  it('is kept for other bodies as long as no more than 16 MiB are kept', () => {
    const memory = withBodies(2);
    const pages = Array.from({ length: 17 }, (_, at) => {
      const page = taken(memory, 10 * MIB);
      memory.share(page, source, at * MIB);
      memory.give(page);
      return page;
    });
    expect(new Set(pages).size).toBe(16);
    expect(memory.find(source, 0, A)).toBeUndefined();
    expect(memory.find(source, MIB, A)).toBe(pages[1]);
  });

  it('is not held again beyond the budget', () => {
    const memory = withBodies(1, MIB);
    const page = taken(memory, 10 * MIB);
    memory.share(page, source, 0);
    memory.give(page);
    taken(memory, 16 * KIB);
    expect(memory.find(source, 0, A)).toBeUndefined();
    expect(memory.lentBytes).toBe(16 * KIB);
  });

  it('is not found once it is withdrawn, and those that wait for it are told', () => {
    const memory = withBodies(2);
    const page = taken(memory, 10 * MIB);
    memory.share(page, source, 0);
    let told = 0;
    page.watch(() => {
      told += 1;
    });
    memory.unshare(page);
    expect([told, page.isWithdrawn, memory.find(source, 0, A)]).toEqual([1, true, undefined]);
  });
});

function taken(memory: BodyMemory, remainingBytes: number): SharedBuffer {
  const page = memory.take(remainingBytes, A);
  if (page === undefined) throw new Error('no room for a page');
  return page;
}
