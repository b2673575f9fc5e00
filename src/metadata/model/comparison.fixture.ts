// The model test: an index and one in memory, which is the contract as plain code, go through the same random histories.
import * as fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { SEED } from '../../../test/support/chance.ts';
import { everyAnswer } from './questions.fixture.ts';
import { openMemorySide, type Side } from './side.fixture.ts';
import { CONTENT, RECORDS, type Step, STORING, TICK } from './steps.fixture.ts';
import { timeOf } from './universe.fixture.ts';

/**
 * `openSide`: an empty index. `runs`: how many histories of each kind; more find more, and a bug that needs five steps
 * takes some hundred.
 */
export function comparisonWithModel(openSide: () => Promise<Side>, runs: number): void {
  const numRuns = Number(process.env['MODEL_RUNS'] ?? runs);

  beforeEach(() => {
    // Nothing happens by itself, however long a history takes on a busy machine.
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] });
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  test('whatever happens to content, it and an index in memory say the same of it', async () => {
    const storing = fc.array(fc.oneof(...STORING), { minLength: 8, maxLength: 20, size: 'max' });
    const changed = fc.array(fc.oneof(...CONTENT), { maxLength: 30, size: 'max' });
    const property = fc.asyncProperty(storing, changed, async (before, after) => {
      const { memory, stored } = await bothSay(openSide, [...before, ...after]);
      expect(stored).toEqual(memory);
    });
    await fc.assert(property, { numRuns, seed: SEED });
  }, 1_200_000);

  test('the same is true of tenants, credentials, uploads and settings', async () => {
    const steps = fc.array(fc.oneof(...RECORDS), { maxLength: 20, size: 'max' });
    const property = fc.asyncProperty(steps, async given => {
      const { memory, stored } = await bothSay(openSide, given);
      expect(stored).toEqual(memory);
    });
    await fc.assert(property, { numRuns, seed: SEED });
  }, 1_200_000);
}

/** What both sides say at each step, and of everything at the end. */
async function bothSay(openStored: () => Promise<Side>, steps: readonly Step[]) {
  const memory = openMemorySide();
  const stored = await openStored();
  const answers = { memory: new Array<unknown>(), stored: new Array<unknown>() };
  let ticks = 0;
  vi.setSystemTime(timeOf(ticks));
  try {
    for (const step of steps) {
      if (step.name === TICK) vi.setSystemTime(timeOf((ticks += 1)));
      answers.memory.push(await said(memory, step));
      answers.stored.push(await said(stored, step));
    }
    for (const store of [...memory.stores, ...stored.stores]) await store.writeUses();
    answers.memory.push(await everyAnswer(memory));
    answers.stored.push(await everyAnswer(stored));
  } finally {
    await memory.close();
    await stored.close();
  }
  return answers;
}

async function said(side: Side, step: Step): Promise<unknown> {
  try {
    return { [step.name]: await step.run(side) };
  } catch (error) {
    return { [step.name]: String(error) };
  }
}
