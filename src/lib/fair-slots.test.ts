import { describe, expect, it } from 'vitest';
import { FairSlots, SlotsFull } from './fair-slots.ts';

/** Work that ends when it is told to; what began, in order. */
class Work {
  readonly begun: string[] = [];
  readonly #ends: (() => void)[] = [];

  start(slots: FairSlots, asker: string, name: string): Promise<void> {
    return slots.run(asker, () => {
      this.begun.push(name);
      return new Promise(resolve => this.#ends.push(resolve));
    });
  }

  async endFirst(): Promise<void> {
    this.#ends.shift()?.();
    await new Promise(resolve => setImmediate(resolve));
  }
}

describe('fair slots', () => {
  it('run a limited number at once, fewer of one asker, and the rest in turns', async () => {
    const slots = new FairSlots({ max: 3, maxPerAsker: 2, maxWaitingPerAsker: 10 });
    const work = new Work();
    const started = ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1'].map(name =>
      work.start(slots, name.slice(0, 1), name),
    );
    await new Promise(resolve => setImmediate(resolve));
    expect(work.begun).toEqual(['a1', 'a2', 'b1']);
    expect([slots.running, slots.waiting]).toEqual([3, 4]);
    await work.endFirst();
    expect(work.begun).toEqual(['a1', 'a2', 'b1', 'c1']);
    await work.endFirst();
    await work.endFirst();
    expect(work.begun.slice(4).sort()).toEqual(['a3', 'b2']);
    for (let n = 0; n < 4; n += 1) await work.endFirst();
    await Promise.all(started);
    expect([slots.running, slots.waiting]).toEqual([0, 0]);
  });

  it('refuse an asker with too many waiting, and nobody else', async () => {
    const slots = new FairSlots({ max: 1, maxPerAsker: 1, maxWaitingPerAsker: 1 });
    const work = new Work();
    const started = [work.start(slots, 'a', 'a1'), work.start(slots, 'a', 'a2')];
    await expect(work.start(slots, 'a', 'a3')).rejects.toThrow(SlotsFull);
    started.push(work.start(slots, 'b', 'b1'));
    for (let n = 0; n < 3; n += 1) await work.endFirst();
    await Promise.all(started);
    expect(work.begun.toSorted()).toEqual(['a1', 'a2', 'b1']);
  });

  it('continue after work that fails', async () => {
    const slots = new FairSlots({ max: 1, maxPerAsker: 1, maxWaitingPerAsker: 1 });
    await expect(slots.run('a', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(await slots.run('a', () => Promise.resolve(1))).toBe(1);
  });
});
