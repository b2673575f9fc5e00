import { afterEach, describe, expect, it } from 'vitest';
import { PowerHistory } from '../support/power-history.ts';
import { canPreload } from '../support/preload-library.ts';

/** `npm run test:crash:long`. */
const LOSSES = process.env['CRASH_LONG'] === '1' ? 200 : 6;

let history: PowerHistory;

afterEach(() => history.close());

describe.skipIf(!canPreload)('a store that has only what was synced when the power failed (gcc)', () => {
  it('has everything that was acknowledged, nothing that was deleted, and nothing wrong', {
    timeout: 3_000_000,
  }, async () => {
    history = await PowerHistory.open();
    await history.run(LOSSES);
    const { images, deletions, lackedIngests, stops, kills } = history.met;
    console.log(JSON.stringify({ losses: LOSSES, ...history.met }));
    // Else it proves nothing.
    expect(images).toBeGreaterThan(LOSSES);
    expect(Math.min(deletions, lackedIngests, stops + kills)).toBeGreaterThan(0);
  });
});
