import { expect, it } from 'vitest';
import { type Extent, Extents } from '../../lib/extents.ts';
import { planRanges } from './plan-ranges.ts';

const KIB = 1024;
const of = (...pairs: readonly (readonly [number, number])[]): Extent[] =>
  pairs.map(([start, end]) => ({ start, end }));
const planned = (wanted: readonly Extent[], known: readonly Extent[] = []) =>
  planRanges(wanted, new Extents(known));

it('requests what is missing, and nothing of what is known', () => {
  expect(planned(of([0, 100 * KIB]), of([40 * KIB, 60 * KIB]))).toEqual(
    of([0, 40 * KIB], [60 * KIB, 100 * KIB]),
  );
  expect(planned(of([10, 20]), of([0, 30]))).toEqual([]);
  expect(planned([])).toEqual([]);
});

it('requests neighbours together, in whatever order and however often they are wanted', () => {
  expect(planned(of([20 * KIB, 30 * KIB], [0, 10], [0, 10], [8, 4 * KIB]))).toEqual(of([0, 30 * KIB]));
});

it('requests a gap of up to 16 KiB with its neighbours, and no larger one', () => {
  expect(planned(of([0, 10], [10 + 16 * KIB, 20 * KIB]))).toEqual(of([0, 20 * KIB]));
  expect(planned(of([0, 10], [11 + 16 * KIB, 20 * KIB]))).toEqual(of([0, 10], [11 + 16 * KIB, 20 * KIB]));
});

it('requests no gap of which a byte is known', () => {
  expect(planned(of([0, 10], [30, 40]), of([15, 16]))).toEqual(of([0, 10], [30, 40]));
  expect(planned(of([0, 40]), of([15, 16]))).toEqual(of([0, 15], [16, 40]));
});
