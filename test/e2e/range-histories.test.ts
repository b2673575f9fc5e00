import { afterEach, expect, it } from 'vitest';
import { LAYERS, RangeHistory } from '../support/range-history.ts';

const STEPS = Number(process.env['RANGE_HISTORY_STEPS'] ?? 24);
const SEEDS = (process.env['RANGE_HISTORY_SEEDS'] ?? '2').split(',').map(Number);

let history: RangeHistory | undefined;

afterEach(async () => {
  await history?.remove();
});

it.each(SEEDS)('fetch no byte twice, and none wrong or lost, with seed %i', async seed => {
  history = await RangeHistory.begin(seed);
  for (let step = 0; step < STEPS; step += 1) await history.step();
  expect(await history.end()).toBe(LAYERS);
});
