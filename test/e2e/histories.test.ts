// Some random histories in a minute; test/crash has more of them.
import { assert, asyncProperty } from 'fast-check';
import { expect, it } from 'vitest';
import { SEED } from '../support/chance.ts';
import { histories, History } from '../support/history.ts';

it('nothing acknowledged is lost, nothing deleted comes back, and exactly what is reachable is left', {
  timeout: 240_000,
}, async () => {
  const history = await History.open();
  try {
    await assert(
      asyncProperty(histories(20), steps => history.run(steps)),
      // One store for all: what failed cannot be shrunk, but its seed and path repeat it.
      { numRuns: 3, seed: SEED, endOnFailure: true },
    );
    await history.expectExactlyTheReachable();
    expect(history.met.size).toBeGreaterThan(2);
  } finally {
    await history.close();
  }
});
