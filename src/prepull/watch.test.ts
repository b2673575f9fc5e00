import { expect, test } from 'vitest';
import { parseCron } from '../lib/cron.ts';
import { watch } from './watch.ts';

const START_MS = new Date(2026, 0, 1, 10, 0, 30).getTime();

/** Runs a watch on a clock of its own until it has lasted `forMs`; what was pulled when, in seconds. */
async function watched(forMs: number, fails: (name: string, attempt: number) => boolean) {
  let nowMs = START_MS;
  const attempts = new Map<string, number>();
  const pulls: [seconds: number, ...names: string[]][] = [];
  const waits: (number | undefined)[][] = [];
  const stop = new AbortController();
  const watching = watch({
    schedule: parseCron('*/10 * * * *'),
    images: async () => [{ name: 'good' }, { name: 'bad' }],
    pull: async images => {
      pulls.push([(nowMs - START_MS) / 1000, ...images.map(({ name }) => name)]);
      return images.filter(({ name }) => {
        attempts.set(name, (attempts.get(name) ?? 0) + 1);
        return fails(name, attempts.get(name) ?? 0);
      });
    },
    failed: error => {
      throw error;
    },
    waits: ({ roundMs, retryMs }) => waits.push([roundMs, retryMs].map(ms => ms && (ms - START_MS) / 1000)),
    signal: stop.signal,
    nowMs: () => nowMs,
    sleep: async ms => {
      nowMs += ms;
      if (nowMs > START_MS + forMs) stop.abort(new Error('over'));
      stop.signal.throwIfAborted();
    },
  });
  await expect(watching).rejects.toThrow('over');
  return { pulls, waits };
}

test('everything is pulled at once and at each time of the schedule', async () => {
  const { pulls, waits } = await watched(1_300_000, () => false);
  expect(pulls).toEqual([
    [0, 'good', 'bad'],
    [570, 'good', 'bad'],
    [1170, 'good', 'bad'],
  ]);
  expect(waits).toEqual([
    [570, undefined],
    [1170, undefined],
    [1770, undefined],
  ]);
});

test('what fails is tried again like an image pull that backs off, without the others', async () => {
  const { pulls, waits } = await watched(560_000, name => name === 'bad');
  expect(pulls).toEqual([
    [0, 'good', 'bad'],
    [10, 'bad'],
    [30, 'bad'],
    [70, 'bad'],
    [150, 'bad'],
    [310, 'bad'],
  ]);
  // The one after that would come behind the next round.
  expect(waits.map(([, retry]) => retry)).toEqual([10, 30, 70, 150, 310, undefined]);
  const recovering = await watched(560_000, (name, attempt) => name === 'bad' && attempt < 3);
  expect(recovering.pulls).toEqual([
    [0, 'good', 'bad'],
    [10, 'bad'],
    [30, 'bad'],
  ]);
});
