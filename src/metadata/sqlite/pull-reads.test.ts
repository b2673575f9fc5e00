import { setImmediate as endOfTurn } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { PullReads } from './pull-reads.ts';

/** A connection that is locked for the first `lockedFor` reads, and a version that says how often it was looked at. */
function open({ lockedFor = 0 } = {}) {
  const counts = { looks: 0, locked: 0 };
  const later: (() => void)[] = [];
  const read = <T>(work: () => T | Promise<T>): Promise<T> => {
    if (counts.locked++ >= lockedFor) return Promise.resolve().then(work);
    return new Promise(resolve => later.push(() => resolve(work())));
  };
  const reads = new PullReads({ read }, { look: () => (counts.looks += 1) });
  return { reads, counts, unlock: () => later.splice(0).forEach(repeat => repeat()) };
}

it('looks once for the reads of a turn of the event loop, after all of them were asked for', async () => {
  const { reads, counts } = open();
  const first = reads.read(look => look());
  await Promise.resolve();
  const second = reads.read(look => look());
  await new Promise<void>(resolve => process.nextTick(resolve));
  expect(counts.looks).toBe(0);
  expect(await Promise.all([first, second])).toEqual([1, 1]);
});

it('looks again for what is asked for in the same turn after 32 reads', async () => {
  const { reads } = open();
  const seen = await Promise.all(Array.from({ length: 34 }, () => reads.read(look => look())));
  expect(seen).toEqual([...Array<number>(32).fill(1), 2, 2]);
});

it('looks again for a read that is asked for after a look', async () => {
  const { reads } = open();
  const seen = await reads.read(async look => [look(), await reads.read(again => again()), look()]);
  expect(seen).toEqual([1, 2, 1]);
});

it('does not look if no read needs it', async () => {
  const { reads, counts } = open();
  expect(await reads.read(() => 'answer')).toBe('answer');
  expect(counts.looks).toBe(0);
});

it('answers the others while one fails or is repeated', async () => {
  const { reads, unlock } = open({ lockedFor: 1 });
  const locked = reads.read(look => look());
  const failed = reads.read(() => {
    throw new Error('damaged');
  });
  const fine = reads.read(look => look());
  await expect(failed).rejects.toThrow('damaged');
  expect(await fine).toBe(1);
  await endOfTurn();
  unlock();
  expect(await locked).toBe(1);
});
