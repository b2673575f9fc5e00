// The histories of test/e2e for longer, until each kind of event has been met; with CRASH_LONG=1 many of them.
import { assert, asyncProperty } from 'fast-check';
import { expect, it } from 'vitest';
import { newSeed, SEED } from '../support/chance.ts';
import { histories, History } from '../support/history.ts';

const IS_LONG = process.env['CRASH_LONG'] === '1';
const RUNS = IS_LONG ? 24 : 3;
/** Chance decides what is met: it goes on until all has been. */
const MAX_RUNS = 20 * RUNS;
const EVENTS = [
  'mounted',
  'manifest deleted',
  'collected',
  'evicted',
  'read while collected',
  'forgotten',
  'imported while collected',
  'damaged',
  'killed',
];

const areAllMet = ({ met }: History) => EVENTS.every(event => met.has(event));

it('nothing acknowledged is lost, nothing deleted comes back, and exactly what is reachable is left', {
  timeout: 1_200_000,
}, async () => {
  const history = await History.open();
  const seed = IS_LONG ? newSeed() : SEED;
  try {
    for (let runs = 0; runs < RUNS || (!areAllMet(history) && runs < MAX_RUNS); runs += RUNS) {
      await assert(
        asyncProperty(histories(40), steps => history.run(steps)),
        { numRuns: RUNS, seed: seed + runs, endOnFailure: true },
      );
    }
    await history.expectExactlyTheReachable();
    for (const event of EVENTS) expect([...history.met.keys()]).toContain(event);
  } finally {
    await history.close();
  }
});
