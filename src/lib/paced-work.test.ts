import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { PacedWork } from './paced-work.ts';

/** Takes 20 ms each time, and gives how often it was done. */
function counted(): () => Promise<number> {
  let times = 0;
  return async () => {
    const time = ++times;
    await sleep(20);
    return time;
  };
}

test('work is done once for all who wait for it, and again for requests that come meanwhile', async () => {
  const work = new PacedWork(counted());
  const waiting = [work.ask(), work.ask(), work.ask()];
  await sleep(5);
  const late = [work.ask(), work.ask()];
  expect(await Promise.all([...waiting, ...late])).toEqual([1, 1, 1, 2, 2]);
});

test('work takes at most a tenth of the time, however often it is requested', async () => {
  const work = new PacedWork(counted());
  const beganAtMs = performance.now();
  for (let time = 1; time <= 4; time += 1) expect(await work.ask()).toBe(time);
  expect(performance.now() - beganAtMs).toBeGreaterThan(3 * 200);
});

test('an error is thrown to those that waited, and the work is done again for the next', async () => {
  let isBroken = true;
  const work = new PacedWork(async () => {
    if (isBroken) throw new Error('broken');
    return 'done';
  });
  await expect(Promise.all([work.ask(), work.ask()])).rejects.toThrow('broken');
  isBroken = false;
  expect(await work.ask()).toBe('done');
});
