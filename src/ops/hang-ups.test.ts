import { EventEmitter } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { HangUps } from './hang-ups.ts';

it('the work runs once at a time, and once more for all signals that come meanwhile', async () => {
  const source = new EventEmitter();
  const hangUps = new HangUps(source);
  const ends: (() => void)[] = [];
  hangUps.begin(() => new Promise(resolve => ends.push(resolve)));
  expect(ends).toHaveLength(0);
  for (let signal = 0; signal < 3; signal += 1) source.emit('SIGHUP');
  expect(ends).toHaveLength(1);
  ends[0]?.();
  await setImmediate();
  expect(ends).toHaveLength(2);
  ends[1]?.();
  await setImmediate();
  expect(ends).toHaveLength(2);
  source.emit('SIGHUP');
  expect(ends).toHaveLength(3);
});

it('a signal before `begin` waits for it', async () => {
  const source = new EventEmitter();
  const hangUps = new HangUps(source);
  source.emit('SIGHUP');
  let done = 0;
  hangUps.begin(async () => void (done += 1));
  await setImmediate();
  expect(done).toBe(1);
});
