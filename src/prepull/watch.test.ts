import { expect, test } from 'vitest';
import { parseCron } from '../lib/cron.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { type Named, watch } from './watch.ts';

/** The first wait of ImagePullBackOff. */
const RETRY_MS = 10_000;
const START_MS = new Date(2026, 0, 1, 10, 0, 30).getTime();

const named = (...names: string[]): Named<{ readonly name: string }> => ({
  images: names.map(name => ({ name })),
  unread: 0,
});

/** Runs a watch on a clock of its own for `forMs`; what was pulled when, in seconds. */
async function watched(
  forMs: number,
  fails: (name: string, attempt: number) => boolean,
  namedAt: (seconds: number) => Named<{ readonly name: string }> = () => named('good', 'bad'),
) {
  const clock = new ManualClock(START_MS);
  const attempts = new Map<string, number>();
  const pulls: [seconds: number, ...names: string[]][] = [];
  const waits: (number | undefined)[][] = [];
  const failing: number[] = [];
  const stop = new AbortController();
  const watching = watch({
    schedule: parseCron('*/10 * * * *'),
    named: async () => namedAt(clock.monotonicMs() / 1000),
    pull: async images => {
      pulls.push([clock.monotonicMs() / 1000, ...images.map(({ name }) => name)]);
      return images.filter(({ name }) => {
        attempts.set(name, (attempts.get(name) ?? 0) + 1);
        return fails(name, attempts.get(name) ?? 0);
      });
    },
    failed: error => {
      throw error;
    },
    failing: count => failing.push(count),
    waits: ({ roundMs, retryMs }) => waits.push([roundMs, retryMs].map(ms => ms && (ms - START_MS) / 1000)),
    signal: stop.signal,
    clock,
  });
  await clock.advance(forMs);
  stop.abort();
  await expect(watching).rejects.toThrow('aborted');
  return { pulls, waits, failing };
}

test('all images are pulled at once and at each time of the schedule', async () => {
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

test('failures are retried like an image pull that backs off, without the others', async () => {
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

test('a file that cannot be read is retried, and then new images in it are pulled', async () => {
  const { pulls, failing } = await watched(
    560_000,
    () => false,
    seconds => (seconds < 70 ? { ...named('good'), unread: 1 } : named('good', 'late')),
  );
  expect(pulls).toEqual([
    [0, 'good'],
    [70, 'late'],
  ]);
  expect(failing).toEqual([1, 1, 1, 0]);
});

test('an image is pulled for further platforms when a file that names them can be read', async () => {
  const { images } = named('good');
  const pulled: unknown[] = [];
  const stop = new AbortController();
  let reading = 0;
  const clock = new ManualClock(START_MS);
  const watching = watch({
    schedule: parseCron('0 0 1 1 *'),
    named: async () => {
      reading += 1;
      const platforms = new Set(reading === 1 ? [] : ['linux/arm64']);
      return { images: images.map(image => ({ ...image, platforms })), unread: reading === 1 ? 1 : 0 };
    },
    pull: async wanted => {
      pulled.push(...wanted);
      return reading === 1 ? wanted : [];
    },
    failed: () => {},
    waits: () => {},
    signal: stop.signal,
    clock,
  });
  await clock.pass(RETRY_MS);
  stop.abort();
  await expect(watching).rejects.toThrow('aborted');
  expect(pulled).toEqual([
    { name: 'good', platforms: new Set() },
    { name: 'good', platforms: new Set(['linux/arm64']) },
  ]);
});

test('an image that is no longer named does not fail any more, from the next round on', async () => {
  const { failing } = await watched(
    600_000,
    name => name === 'bad',
    seconds => (seconds < 570 ? named('good', 'bad') : named('good')),
  );
  expect(failing).toEqual([1, 1, 1, 1, 1, 1, 0]);
});
