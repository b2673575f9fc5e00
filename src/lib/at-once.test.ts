import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Latch } from '../../test/support/latch.ts';
import { forEachAtOnce } from './at-once.ts';

/** Numbers from 0 on; notes how many were taken. */
function numbers(count: number) {
  const taken = { count: 0, isEnded: false };
  async function* items() {
    try {
      for (let number = 0; number < count; number += 1) {
        taken.count += 1;
        yield number;
      }
    } finally {
      taken.isEnded = true;
    }
  }
  return { items: items(), taken };
}

async function* cutOff() {
  yield 1;
  throw new Error('cut off');
}

test('works on all items, on as many at a time as there is room for', async () => {
  const { items, taken } = numbers(20);
  const [done, atOnce] = [new Array<number>(), new Set<number>()];
  let most = 0;
  await forEachAtOnce(items, 3, async item => {
    atOnce.add(item);
    most = Math.max(most, atOnce.size);
    expect(taken.count - done.length).toBeLessThanOrEqual(3);
    await nextTurn();
    atOnce.delete(item);
    done.push(item);
  });
  expect([most, done.toSorted((a, b) => a - b)]).toEqual([3, Array.from({ length: 20 }, (_, at) => at)]);
});

test('begins nothing more after an error, and rejects with it when all that was begun has ended', async () => {
  const { items, taken } = numbers(20);
  const ended = new Array<number>();
  const working = forEachAtOnce(items, 3, async item => {
    if (item === 1) throw new Error('no such luck');
    for (let turns = 0; turns < 10; turns += 1) await nextTurn();
    ended.push(item);
  });
  await expect(working).rejects.toThrow('no such luck');
  expect([ended, taken]).toEqual([[0], { count: 3, isEnded: true }]);
});

test('begins nothing after an error that comes while the next item is awaited', async () => {
  const begun = new Array<number>();
  const failed = new Latch();
  async function* items() {
    yield 1;
    await failed.opened;
    await nextTurn();
    yield 2;
  }
  const working = forEachAtOnce(items(), 3, async item => {
    begun.push(item);
    await nextTurn();
    failed.open();
    throw new Error('no such luck');
  });
  await expect(working).rejects.toThrow('no such luck');
  expect(begun).toEqual([1]);
});

test('waits for what was begun if there is no next item for an error', async () => {
  let hasEnded = false;
  const working = forEachAtOnce(cutOff(), 3, async () => {
    for (let turns = 0; turns < 10; turns += 1) await nextTurn();
    hasEnded = true;
  });
  await expect(working).rejects.toThrow('cut off');
  expect(hasEnded).toBe(true);
});
