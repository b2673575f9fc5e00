import { describe, expect, it, test } from 'vitest';
import { type Clock, systemClock } from './clock.ts';
import { ManualClock } from './manual-clock.fixture.ts';

/** A Clock, and what lets its time pass. */
interface Passing {
  readonly clock: Clock;
  readonly pass: (ms: number) => Promise<void>;
}

const manual = (): Passing => {
  const clock = new ManualClock();
  return { clock, pass: ms => clock.advance(ms) };
};
const system = (): Passing => ({ clock: systemClock, pass: ms => systemClock.sleep(ms + 1) });

describe.each([
  ["the system's clock", system],
  ['a clock that tests move on', manual],
])('%s', (_, start) => {
  it('calls each timer once, in the order in which they are due, but not one that was cancelled', async () => {
    const { clock, pass } = start();
    const called: string[] = [];
    clock.after(20, () => called.push('later'));
    clock.after(5, () => called.push('sooner'));
    const cancelled = clock.after(1, () => called.push('cancelled')).unref();
    cancelled.cancel();
    cancelled.cancel();
    expect(called).toEqual([]);
    await pass(20);
    await pass(20);
    expect(called).toEqual(['sooner', 'later']);
  });

  it('ends a sleep when its time is over, and when its signal aborts', async () => {
    const { clock, pass } = start();
    const abort = new AbortController();
    const sleeps = [
      clock.sleep(5),
      clock.sleep(60_000, { signal: abort.signal }),
      clock.sleep(60_000, { signal: AbortSignal.abort(), ref: false }),
    ];
    const ended = Promise.allSettled(sleeps);
    await pass(5);
    abort.abort();
    expect(await ended).toMatchObject([
      { status: 'fulfilled' },
      { status: 'rejected', reason: { name: 'AbortError' } },
      { status: 'rejected', reason: { name: 'AbortError' } },
    ]);
  });

  it('says how much time has passed', async () => {
    const { clock, pass } = start();
    const [wallMs, monotonicMs] = [clock.nowMs(), clock.monotonicMs()];
    await pass(20);
    expect(clock.monotonicMs() - monotonicMs).toBeGreaterThanOrEqual(20);
    expect(clock.nowMs() - wallMs).toBeGreaterThanOrEqual(20);
  });
});

test('what a timer sets in turn is called at its time, too', async () => {
  const clock = new ManualClock();
  const atMs: number[] = [];
  const repeat = () => {
    atMs.push(clock.monotonicMs());
    clock.after(10, repeat);
  };
  clock.after(10, repeat);
  await clock.advance(35);
  expect(atMs).toEqual([10, 20, 30]);
  expect(clock.monotonicMs()).toBe(35);
});

test('a timer can be waited for before it is set', async () => {
  const clock = new ManualClock();
  const passed = clock.pass(10);
  clock.after(20, () => {});
  const slept = clock.sleep(10);
  await passed;
  await slept;
  expect(clock.monotonicMs()).toBe(10);
});
