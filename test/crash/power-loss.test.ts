import { afterEach, describe, expect, it } from 'vitest';
import { PowerHistory } from '../support/power-history.ts';
import { canPreload } from '../support/preload-library.ts';

/** `npm run test:crash:long`. */
const IS_LONG = process.env['CRASH_LONG'] === '1';
const LOSSES = IS_LONG ? 200 : 6;
/** On a machine that is slow, fewer losses. */
const MAX_MS = IS_LONG ? 30 * 60_000 : 90_000;

let history: PowerHistory;

afterEach(() => history.close());

describe.skipIf(!canPreload)('a store with only what was synced before a power failure (gcc)', () => {
  it('has everything that was acknowledged, nothing that was deleted, and nothing wrong', {
    timeout: MAX_MS + 600_000,
  }, async () => {
    history = await PowerHistory.open();
    await history.run(LOSSES, MAX_MS).finally(() => console.log(JSON.stringify(history.met)));
    // It goes on until everything was met: else it proves nothing.
    const { losses, images, deletions, lackedIngests, stops, kills } = history.met;
    expect(Math.min(losses, deletions, lackedIngests, stops + kills)).toBeGreaterThan(0);
    expect(images).toBeGreaterThan(losses);
  });
});
