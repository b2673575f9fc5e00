import { describe, expect, it } from 'vitest';
import { type Extent, Extents } from './extents.ts';

const of = (...pairs: readonly (readonly [number, number])[]): Extent[] =>
  pairs.map(([start, end]) => ({ start, end }));

describe('Extents', () => {
  it('are ascending, and one where they overlap or touch', () => {
    const extents = new Extents(of([20, 30], [0, 5], [5, 8], [25, 40], [50, 60], [60, 60]));
    expect([...extents]).toEqual(of([0, 8], [20, 40], [50, 60]));
    expect([extents.bytes, extents.count]).toEqual([38, 3]);
    extents.add({ start: 3, end: 55 });
    expect([...extents]).toEqual(of([0, 60]));
    expect([extents.bytes, extents.count]).toEqual([60, 1]);
  });

  it('tell which contains a position, or comes next', () => {
    const extents = new Extents(of([10, 20], [30, 40]));
    expect([0, 10, 19, 20, 39].map(position => extents.next(position)?.start)).toEqual([10, 10, 10, 30, 30]);
    expect(extents.next(40)).toBeUndefined();
  });

  it('tell what of another is missing', () => {
    const extents = new Extents(of([10, 20], [30, 40]));
    expect(extents.missing({ start: 0, end: 50 })).toEqual(of([0, 10], [20, 30], [40, 50]));
    expect(extents.missing({ start: 12, end: 35 })).toEqual(of([20, 30]));
    expect(extents.missing({ start: 10, end: 20 })).toEqual([]);
    expect(extents.missing({ start: 20, end: 20 })).toEqual([]);
    expect(new Extents().missing({ start: 1, end: 2 })).toEqual(of([1, 2]));
  });

  it('are copied with what they have then', () => {
    const extents = new Extents(of([10, 20]));
    const copy = new Extents(extents).addAll(of([20, 30], [40, 50]));
    extents.add({ start: 0, end: 5 });
    expect([[...copy], copy.bytes]).toEqual([of([10, 30], [40, 50]), 30]);
    expect([[...extents], extents.bytes]).toEqual([of([0, 5], [10, 20]), 15]);
  });

  it('are the same as a set of single bytes, whatever is added', () => {
    const SIZE = 64;
    let seed = 1;
    const random = (below: number): number => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed % below;
    };
    for (let round = 0; round < 300; round += 1) {
      const extents = new Extents();
      const bytes = new Set<number>();
      for (let step = 0; step < 12; step += 1) {
        const start = random(SIZE);
        const extent = { start, end: Math.min(SIZE, start + random(12)) };
        extents.add(extent);
        for (let at = extent.start; at < extent.end; at += 1) bytes.add(at);
        const all = [...Array(SIZE).keys()];
        const missing = all.filter(at => !bytes.has(at));
        const found = extents
          .missing({ start: 0, end: SIZE })
          .flatMap(({ start: from, end }) => all.slice(from, end));
        expect(found).toEqual(missing);
        expect(extents.bytes).toBe(bytes.size);
        const list = [...extents];
        expect(list.every((one, at) => at === 0 || (list[at - 1]?.end ?? 0) < one.start)).toBe(true);
      }
    }
  });
});
