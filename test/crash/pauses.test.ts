// Histories of pauses: the short form for each run of the tests, the long one (CRASH_LONG=1) until enough has been met.
import { afterEach, expect, it } from 'vitest';
import { PAUSED_STEPS, PauseHistory } from '../support/pause-history.ts';
import { canPreload } from '../support/preload-library.ts';

const IS_LONG = process.env['CRASH_LONG'] === '1';
const SHORT_MS = 50_000;
const LONG_MS = 60 * 60_000;
const LEAST = 300;

let history: PauseHistory;

afterEach(() => history.close());

it.skipIf(!canPreload)(
  'processes that stand still at any step lose, change and remove nothing that was acknowledged (gcc)',
  { timeout: LONG_MS + 600_000 },
  async () => {
    history = await PauseHistory.open({
      processes: IS_LONG ? 4 : 3,
      pushers: IS_LONG ? 8 : 4,
      minPauseMs: 6_000,
      maxPauseMs: IS_LONG ? 20_000 : 8_000,
    });
    const endMs = performance.now() + (IS_LONG ? LONG_MS : SHORT_MS);
    const isAllMet = () =>
      history.acknowledged >= LEAST &&
      history.takeovers >= LEAST &&
      PAUSED_STEPS.every(step => history.met.has(step));
    await history.run(() => performance.now() > endMs || (IS_LONG && isAllMet()));
    await history.expectSound();
    const { acknowledged, takeovers } = history;
    console.log(JSON.stringify({ acknowledged, takeovers, ...Object.fromEntries(history.met) }));
    expect(acknowledged).toBeGreaterThanOrEqual(IS_LONG ? LEAST : 10);
    expect(takeovers).toBeGreaterThanOrEqual(IS_LONG ? LEAST : 1);
    const unmet = PAUSED_STEPS.filter(step => !history.met.has(step));
    expect(IS_LONG ? unmet : []).toEqual([]);
    expect(history.met.size).toBeGreaterThan(1);
  },
);
