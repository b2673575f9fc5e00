// Histories of pauses, which go on until enough has been met: the short form in each run of the tests, the long one with
// CRASH_LONG=1, on several stores side by side, since most of the time somebody is waited for.
import { afterEach, expect, it } from 'vitest';
import { PauseHistory, untilAllEnd } from '../support/pause-history.ts';
import { ALL_STEPS, StepCounter } from '../support/pause-steps.ts';
import { canPreload } from '../support/preload-library.ts';

/** What is to be met: blobs that were acknowledged, Leases that another process took over, kinds of step. */
interface Figures {
  readonly acknowledged: number;
  readonly takeovers: number;
  readonly steps: number;
}

const LONG = {
  stores: 3,
  processes: 4,
  maxPauseMs: 20_000,
  maxMs: 30 * 60_000,
  enough: { acknowledged: 300, takeovers: 300, steps: ALL_STEPS.length },
  least: { acknowledged: 300, takeovers: 300, steps: ALL_STEPS.length },
};
/** A slow machine has no more than `least` to meet, and may take its time for that. */
const SHORT = {
  stores: 1,
  processes: 3,
  maxPauseMs: 8_000,
  maxMs: 40_000,
  enough: { acknowledged: 60, takeovers: 20, steps: ALL_STEPS.length / 2 },
  least: { acknowledged: 2, takeovers: 1, steps: 2 },
};
const { stores, processes, maxPauseMs, maxMs, enough, least } =
  process.env['CRASH_LONG'] === '1' ? LONG : SHORT;
const isLong = process.env['CRASH_LONG'] === '1';

let histories: readonly PauseHistory[] = [];

afterEach(() => Promise.all(histories.map(history => history.close())));

it.skipIf(!canPreload)(
  'processes that are suspended at any step lose, change and remove nothing that was acknowledged (gcc)',
  { timeout: maxMs + 600_000 },
  async () => {
    const counter = new StepCounter();
    const options = { processes, pushers: 12, pullers: 3, minPauseMs: 6_000, maxPauseMs, counter };
    histories = await Promise.all(Array.from({ length: stores }, () => PauseHistory.open(options)));
    const sum = (of: (history: PauseHistory) => number) => histories.reduce((all, each) => all + of(each), 0);
    const figures = (): Figures => ({
      acknowledged: sum(({ acknowledged }) => acknowledged),
      takeovers: sum(({ takeovers }) => takeovers),
      steps: ALL_STEPS.filter(step => counter.met.has(step)).length,
    });
    const endMs = performance.now() + maxMs;
    const over = new AbortController();
    const isOver = () => {
      const met = figures();
      const isLate = performance.now() > endMs;
      return over.signal.aborted || reaches(met, enough) || (isLate && (isLong || reaches(met, least)));
    };
    try {
      await untilAllEnd(histories.map(history => history.run(isOver).finally(() => over.abort())));
      for (const history of histories) await history.expectSound();
    } finally {
      const unmet = ALL_STEPS.filter(step => !counter.met.has(step));
      console.log(JSON.stringify({ ...figures(), ...Object.fromEntries(counter.met), unmet }));
    }
    const met = figures();
    // Else it proves nothing.
    expect({ ...met, isEnough: reaches(met, least) }).toMatchObject({ isEnough: true });
  },
);

function reaches(met: Figures, goal: Figures): boolean {
  return met.acknowledged >= goal.acknowledged && met.takeovers >= goal.takeovers && met.steps >= goal.steps;
}
