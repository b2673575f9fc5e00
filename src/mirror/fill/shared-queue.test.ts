import { setImmediate } from 'node:timers/promises';
import { beforeEach, expect, it } from 'vitest';
import { PullQueue } from './pull-queue.ts';
import { PlacesOfProcess, type QueueCalls, RemoteQueue, SharedQueue } from './shared-queue.ts';

interface TestProcess {
  readonly queue: RemoteQueue;
  readonly places: PlacesOfProcess;
}

const limits = { maxConnections: 1, serializeImagePulls: false };

let shared: SharedQueue;
let one: TestProcess;
let other: TestProcess;
/** What has begun, in order. */
let begun: string[];

/** A process whose messages arrive a turn of the event loop later. */
function processOn(queue: SharedQueue): TestProcess {
  const places = new PlacesOfProcess(queue, {
    begin: place => void setImmediate().then(() => remote.begin(place)),
    recall: place => void setImmediate().then(() => remote.recall(place)),
  });
  const calls: QueueCalls = {
    enter: request => void setImmediate().then(() => places.enter(request)),
    join: request => void setImmediate().then(() => places.join(request)),
    leave: place => void setImmediate().then(() => places.leave(place)),
  };
  const remote = new RemoteQueue(calls);
  return { queue: remote, places };
}

beforeEach(() => {
  shared = new SharedQueue(new PullQueue(limits));
  [one, other] = [processOn(shared), processOn(shared)];
  begun = [];
});

function enter({ queue }: TestProcess, name: string, key?: string) {
  const place = queue.enter({ requester: name, repository: 'up.example/app', ...(key && { key }) });
  void place.turn.then(() => begun.push(name));
  return place;
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn += 1) await setImmediate();
}

it('limits the downloads of all processes together, in order', async () => {
  const first = enter(one, 'first', 'blob 1');
  await settle();
  enter(other, 'second', 'blob 2');
  await settle();
  expect([begun, shared.state.waiting]).toEqual([['first'], 1]);
  first.leave();
  await settle();
  expect([begun, shared.state.waiting]).toEqual([['first', 'second'], 0]);
});

it('gives processes that download the same one place, until the last has left it', async () => {
  const first = enter(one, 'first', 'blob');
  const second = enter(other, 'second', 'blob');
  const third = enter(one, 'third', 'another');
  await settle();
  expect(begun).toEqual(['first', 'second']);
  first.leave();
  first.leave();
  await settle();
  expect(begun).toEqual(['first', 'second']);
  second.leave();
  await settle();
  expect(begun).toEqual(['first', 'second', 'third']);
  third.leave();
});

it('takes back the places of a process that has ended', async () => {
  enter(one, 'first', 'blob');
  enter(one, 'gone');
  await settle();
  enter(other, 'second');
  await settle();
  one.places.leaveAll();
  await settle();
  expect([begun, shared.state.waiting]).toEqual([['first', 'second'], 0]);
});

it('asks a process for a spare place back when another one waits', async () => {
  shared = new SharedQueue(new PullQueue({ ...limits, maxConnections: 2 }));
  [one, other] = [processOn(shared), processOn(shared)];
  enter(one, 'first');
  const spare = one.queue.enter({ requester: 'first', repository: 'up.example/app', isSpare: true });
  let isRecalled = false;
  void spare.recalled.then(() => (isRecalled = true));
  await spare.turn;
  enter(other, 'second');
  await settle();
  expect(isRecalled).toBe(true);
  spare.leave();
  await settle();
  expect(begun).toEqual(['first', 'second']);
});
