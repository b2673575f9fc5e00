import { expect, test } from 'vitest';
import { Latch } from '../../test/support/latch.ts';
import { FreshFlight } from './fresh-flight.ts';

/** Work whose runs end one after the other, each with its number. */
function numberedRuns(fails: readonly number[] = []) {
  const latches: Latch[] = [];
  const start = async () => {
    const latch = new Latch();
    const number = latches.push(latch);
    await latch.opened;
    if (fails.includes(number)) throw new Error(`run ${number} failed`);
    return number;
  };
  return {
    start,
    end: (number: number) => latches[number - 1]?.open(),
    get begun() {
      return latches.length;
    },
  };
}

test('who comes while work runs gets the result of the next run, which all share who came meanwhile', async () => {
  const flights = new FreshFlight<number>();
  const runs = numberedRuns();
  const first = flights.run('key', runs.start);
  const later = [flights.run('key', runs.start), flights.run('key', runs.start)];
  expect(runs.begun).toBe(1);
  runs.end(1);
  expect(await first).toBe(1);
  await expect.poll(() => runs.begun).toBe(2);
  const latest = flights.run('key', runs.start);
  runs.end(2);
  expect(await Promise.all(later)).toEqual([2, 2]);
  await expect.poll(() => runs.begun).toBe(3);
  runs.end(3);
  expect(await latest).toBe(3);
});

test('who comes as a run ends shares the next one with those who came before', async () => {
  const flights = new FreshFlight<number>();
  const runs = numberedRuns();
  const asItEnds = flights.run('key', runs.start).then(() => flights.run('key', runs.start));
  const later = flights.run('key', runs.start);
  runs.end(1);
  await expect.poll(() => runs.begun).toBe(2);
  runs.end(2);
  expect(await Promise.all([asItEnds, later])).toEqual([2, 2]);
});

test('work for other keys does not wait', async () => {
  const flights = new FreshFlight<number>();
  const runs = numberedRuns();
  const both = [flights.run('one', runs.start), flights.run('other', runs.start)];
  expect(runs.begun).toBe(2);
  runs.end(1);
  runs.end(2);
  expect(await Promise.all(both)).toEqual([1, 2]);
});

test('a failure is that of those who share the run, and the next run begins nevertheless', async () => {
  const flights = new FreshFlight<number>();
  const runs = numberedRuns([1]);
  const first = flights.run('key', runs.start);
  const later = flights.run('key', runs.start);
  runs.end(1);
  await expect(first).rejects.toThrow('run 1 failed');
  await expect.poll(() => runs.begun).toBe(2);
  runs.end(2);
  expect(await later).toBe(2);
});

test('who comes while work hangs waits a moment for it, and not until its end', async () => {
  const flights = new FreshFlight<number>();
  const runs = numberedRuns();
  const hanging = flights.run('key', runs.start);
  const later = [flights.run('key', runs.start), flights.run('key', runs.start)];
  expect(runs.begun).toBe(1);
  await expect.poll(() => runs.begun).toBe(2);
  const latest = flights.run('key', runs.start);
  runs.end(2);
  expect(await Promise.all(later)).toEqual([2, 2]);
  await expect.poll(() => runs.begun).toBe(3);
  runs.end(1);
  expect(await hanging).toBe(1);
  // The end of the first is not that of the line.
  const last = flights.run('key', runs.start);
  expect(runs.begun).toBe(3);
  runs.end(3);
  expect(await latest).toBe(3);
  await expect.poll(() => runs.begun).toBe(4);
  runs.end(4);
  expect(await last).toBe(4);
});

test('nothing is remembered: who comes after the end begins a run of its own', async () => {
  const flights = new FreshFlight<number>();
  const runs = numberedRuns([2]);
  const ended = flights.run('key', runs.start);
  runs.end(1);
  expect(await ended).toBe(1);
  const failed = flights.run('key', runs.start);
  runs.end(2);
  await expect(failed).rejects.toThrow('run 2 failed');
  const own = flights.run('key', runs.start);
  expect(runs.begun).toBe(3);
  runs.end(3);
  expect(await own).toBe(3);
});
