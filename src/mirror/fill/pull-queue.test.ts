import { describe, expect, it } from 'vitest';
import { NO_TRANSFERS, type QueueLimits, type PullPlace, PullQueue, waiterOf } from './pull-queue.ts';

const NO_LIMIT: QueueLimits = {
  maxConnections: 1_000,
  serializeImagePulls: false,
  maxParallelImagePulls: undefined,
};

/** Enters, and notes the name in `order` when its turn comes. */
function enter(
  queue: PullQueue,
  order: string[],
  name: string,
  requester = 'a',
  repository = name,
  network?: string,
): PullPlace {
  const place = queue.enter({ requester, repository, network });
  void place.turn.then(() => order.push(name));
  return place;
}

const settled = () => new Promise(resolve => setImmediate(resolve));

describe('the pull queue', () => {
  it('runs as many as there may be connections, and the next when one leaves', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 2 });
    const order: string[] = [];
    const places = ['1', '2', '3'].map(name => enter(queue, order, name));
    expect(places.map(({ queued }) => queued)).toEqual([false, false, true]);
    places[0]?.leave();
    places[0]?.leave();
    await settled();
    expect(order).toEqual(['1', '2', '3']);
    expect([queue.state.running, queue.state.waiting]).toEqual([2, 0]);
  });

  it('serves requesters in turn, however many downloads one of them has', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 1 });
    const order: string[] = [];
    const places = [
      enter(queue, order, 'a1'),
      enter(queue, order, 'a2'),
      enter(queue, order, 'a3'),
      enter(queue, order, 'b1', 'b'),
    ];
    for (const _ of places) {
      await settled();
      places.find((_place, index) => ['a1', 'a2', 'a3', 'b1'][index] === order.at(-1))?.leave();
    }
    expect(order).toEqual(['a1', 'a2', 'b1', 'a3']);
  });

  it('serves the networks of a requester in turn, within its turns', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 1 });
    const order: string[] = [];
    const enterFrom = (network: string, name: string) => enter(queue, order, name, 'a', name, network);
    const names = ['x1', 'x2', 'x3', 'x4', 'b1', 'y1', 'z1'];
    const places = names.map(name =>
      name === 'b1' ? enter(queue, order, name, 'b') : enterFrom(name.slice(0, 1), name),
    );
    for (const _ of places) {
      await settled();
      places[names.indexOf(order.at(-1) ?? '')]?.leave();
    }
    expect(order).toEqual(['x1', 'x2', 'b1', 'y1', 'z1', 'x3', 'x4']);
    expect(queue.state).toEqual(NO_TRANSFERS);
  });

  it('starts a download for several networks of a requester once, in whichever turn comes first', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 1 });
    const order: string[] = [];
    const from = (network: string, name: string) => enter(queue, order, name, 'a', name, network);
    const [first, second, last] = [from('x', '1'), from('x', '2'), from('x', '3')];
    last.join({ requester: 'a', network: 'y' });
    last.join({ requester: 'a', network: 'y' });
    expect(queue.state).toMatchObject({ running: 1, waiting: 2, requesters: [{ running: 1, waiting: 2 }] });
    first.leave();
    second.leave();
    await settled();
    expect(order).toEqual(['1', '2', '3']);
    last.leave();
    expect(queue.state).toEqual(NO_TRANSFERS);
  });

  it('gives one turn to all credentials that no tenant has, by the networks that they come from', () => {
    const waiters = ['one', 'two'].map(id =>
      waiterOf({ tenant: undefined, id, credentialId: id, isUnknown: true, remote: '2001:db8:1:2::7' }),
    );
    expect(new Set(waiters.map(({ requester, network }) => `${requester} ${network}`))).toEqual(
      new Set(['unknown 2001:db8:1:2']),
    );
  });

  it('serializes image pulls, but not the blobs of one image', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, serializeImagePulls: true });
    const order: string[] = [];
    const first = [enter(queue, order, 'x1', 'a', 'x'), enter(queue, order, 'x2', 'a', 'x')];
    enter(queue, order, 'y1', 'a', 'y');
    enter(queue, order, 'x3', 'a', 'x').leave();
    await settled();
    expect(order).toEqual(['x1', 'x2', 'x3']);
    for (const place of first) place.leave();
    await settled();
    expect(order.at(-1)).toBe('y1');
  });

  it('runs as many image pulls as may be parallel', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxParallelImagePulls: 2 });
    const order: string[] = [];
    for (const name of ['x', 'y', 'z']) enter(queue, order, name);
    await settled();
    expect(order).toEqual(['x', 'y']);
  });

  it('forgets those that leave before their turn', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 1 });
    const order: string[] = [];
    const first = enter(queue, order, '1');
    enter(queue, order, '2').leave();
    enter(queue, order, '3');
    first.leave();
    await settled();
    expect(order).toEqual(['1', '3']);
  });

  it('runs prefetches on half of the connections, after all others', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 4 });
    const order: string[] = [];
    const ahead = (name: string): PullPlace => {
      const place = queue.enter({ requester: 'a', repository: name, isAhead: true });
      void place.turn.then(() => order.push(name));
      return place;
    };
    const places = ['ahead-1', 'ahead-2', 'ahead-3', 'ahead-4'].map(ahead);
    enter(queue, order, 'live');
    await settled();
    expect(order).toEqual(['ahead-1', 'ahead-2', 'live']);
    places[3]?.join({ requester: 'a' });
    await settled();
    expect(order).toEqual(['ahead-1', 'ahead-2', 'live', 'ahead-4']);
    expect(queue.state.waiting).toBe(1);
  });

  it('prefers a download that a client waits for', async () => {
    const queue = new PullQueue(NO_LIMIT);
    const order: string[] = [];
    const enterAs = (name: string, isAhead: boolean): PullPlace => {
      const place = queue.enter({ requester: 'a', repository: name, maxTransfers: 1, isAhead });
      void place.turn.then(() => order.push(name));
      return place;
    };
    const first = enterAs('first', false);
    enterAs('ahead', true);
    enterAs('live', false);
    first.leave();
    await settled();
    expect(order).toEqual(['first', 'live']);
  });

  it('keeps one image pull free from prefetches', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxParallelImagePulls: 2 });
    const ahead = (repository: string) => queue.enter({ requester: 'a', repository, isAhead: true });
    expect(['x', 'y', 'x'].map(name => ahead(name).queued)).toEqual([false, true, false]);
    expect(queue.enter({ requester: 'b', repository: 'z' }).queued).toBe(false);
  });

  it("keeps half of a requester's own limit free from prefetches", async () => {
    const queue = new PullQueue(NO_LIMIT);
    const enterAs = (repository: string, isAhead: boolean) =>
      queue.enter({ requester: 'a', repository, maxTransfers: 2, isAhead });
    expect(['1', '2'].map(name => enterAs(name, true).queued)).toEqual([false, true]);
    expect(enterAs('3', false).queued).toBe(false);
  });

  it("applies a requester's own limit, while others continue", async () => {
    const queue = new PullQueue(NO_LIMIT);
    const limited = (repository: string) => queue.enter({ requester: 'a', repository, maxTransfers: 2 });
    const places = ['1', '2', '3'].map(limited);
    const other = queue.enter({ requester: 'b', repository: '4' });
    expect([...places, other].map(({ queued }) => queued)).toEqual([false, false, true, false]);
    places[0]?.leave();
    await places[2]?.turn;
    expect([queue.state.running, queue.state.waiting]).toEqual([3, 0]);
  });

  it('starts a download for several in whichever turn comes first, so that a limit affects only its requester', async () => {
    const queue = new PullQueue(NO_LIMIT);
    const limited = (repository: string) => queue.enter({ requester: 'a', repository, maxTransfers: 1 });
    const [first, second, third] = ['1', '2', '3'].map(limited);
    expect([second?.queued, third?.queued]).toEqual([true, true]);
    second?.join({ requester: 'b', maxTransfers: 1 });
    await second?.turn;
    expect([queue.state.running, queue.state.waiting]).toEqual([2, 1]);
    // It took a turn of b's, so b has none left, and a has one as soon as its first is over.
    expect(queue.enter({ requester: 'b', repository: '4', maxTransfers: 1 }).queued).toBe(true);
    first?.leave();
    await third?.turn;
    second?.leave();
    third?.leave();
    expect([queue.state.running, queue.state.waiting]).toEqual([1, 0]);
  });

  it('starts what a raised limit allows as soon as it is told', async () => {
    const limits = { ...NO_LIMIT, maxConnections: 1 };
    const queue = new PullQueue(limits);
    const order: string[] = [];
    for (const name of ['1', '2', '3']) enter(queue, order, name);
    limits.maxConnections = 2;
    queue.limitsChanged();
    await settled();
    expect(order).toEqual(['1', '2']);
  });
});

const spare = (requester: string) => ({ requester, repository: 'up.example/app', isSpare: true });
const pull = (requester: string) => ({ requester, repository: 'up.example/app' });

async function isRecalled({ recalled }: PullPlace): Promise<boolean> {
  return Promise.race([recalled.then(() => true), settled().then(() => false)]);
}

describe('a spare place', () => {
  it('is given only while nobody waits for a connection', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 2 });
    const places = [queue.enter(pull('a')), queue.enter(pull('b'))];
    const [further, next] = [queue.enter(spare('a')), queue.enter(pull('c'))];
    places[0]?.leave();
    expect(queue.state.running).toBe(2);
    await next.turn;
    places[1]?.leave();
    await further.turn;
    expect(await isRecalled(further)).toBe(false);
  });

  it('is recalled for each download that waits, the last one first', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 4 });
    queue.enter(pull('a'));
    const spares = [queue.enter(spare('a')), queue.enter(spare('a')), queue.enter(spare('a'))];
    const next = queue.enter(pull('b'));
    expect(await Promise.all(spares.map(isRecalled))).toEqual([false, false, true]);
    queue.enter(pull('c'));
    expect(await Promise.all(spares.map(isRecalled))).toEqual([false, true, true]);
    spares[2]?.leave();
    await next.turn;
    expect(await Promise.all(spares.map(isRecalled))).toEqual([false, true, true]);
  });

  it('is recalled for a requester that has as many downloads as it may', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 10 });
    const limited = { maxTransfers: 2 };
    queue.enter({ ...pull('a'), ...limited });
    const own = queue.enter({ ...spare('a'), ...limited });
    const others = queue.enter({ ...spare('b'), ...limited });
    const next = queue.enter({ ...pull('a'), ...limited });
    expect(await Promise.all([own, others].map(isRecalled))).toEqual([true, false]);
    own.leave();
    await next.turn;
  });

  it('is not recalled for a download that waits for the end of another image pull', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 4, serializeImagePulls: true });
    queue.enter(pull('a'));
    const further = queue.enter(spare('a'));
    queue.enter({ requester: 'b', repository: 'up.example/other' });
    expect(await isRecalled(further)).toBe(false);
  });

  it('makes way for a prefetch, too', async () => {
    const queue = new PullQueue({ ...NO_LIMIT, maxConnections: 4 });
    queue.enter(pull('a'));
    const further = queue.enter(spare('a'));
    const ahead = queue.enter({ ...pull('b'), isAhead: true });
    expect(await isRecalled(further)).toBe(true);
    further.leave();
    await ahead.turn;
  });
});
