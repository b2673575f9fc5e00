import { setImmediate } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { UpstreamFailure } from '../upstream/failures.ts';
import { FlightBoard, flightsOn, type Packing, SharedFlights } from './shared-flights.ts';

const packing: Packing<string> = {
  name: 'manifest',
  pack: answer => (answer === 'not stored' ? undefined : { answer }),
  unpack: async (packed: { readonly answer: string }) => `${packed.answer} of another`,
};

const board = new FlightBoard();
const [one, other, third] = [{}, {}, {}];
const flightsOf = (process: object) => new SharedFlights(flightsOn(board.of(process)));

/** Work that ends when it is told to, and how often it was begun. */
class Work {
  count = 0;
  end: (outcome: string | Error) => void = () => {};

  readonly ask = (): Promise<string> => {
    this.count += 1;
    return new Promise<string>((resolve, reject) => {
      this.end = outcome => (typeof outcome === 'string' ? resolve(outcome) : reject(outcome));
    });
  };
}

it('a question that several processes have is asked by one, and answers all', async () => {
  const work = new Work();
  const asking = [one, other, third].map(process => flightsOf(process).run('key', packing, work.ask));
  await setImmediate();
  expect(work.count).toBe(1);
  work.end('digest');
  expect(await Promise.all(asking)).toEqual(['digest', 'digest of another', 'digest of another']);
  const again = flightsOf(other).run('key', packing, work.ask);
  await setImmediate();
  work.end('new');
  expect([await again, work.count]).toEqual(['new', 2]);
});

it('a failure of upstream is shared; any other is not, nor is an answer that others cannot find', async () => {
  for (const outcome of [new Error('stopping'), 'not stored']) {
    const work = new Work();
    const first = flightsOf(one)
      .run('lost', packing, work.ask)
      .catch(() => 'failed');
    const second = flightsOf(other).run('lost', packing, work.ask);
    await setImmediate();
    work.end(outcome);
    await setImmediate();
    await setImmediate();
    expect(work.count).toBe(2);
    work.end('second');
    expect([await first, await second]).toEqual([typeof outcome === 'string' ? outcome : 'failed', 'second']);
  }
  const work = new Work();
  const asking = [one, other].map(process => flightsOf(process).run('key', packing, work.ask));
  const failures = Promise.allSettled(asking);
  await setImmediate();
  work.end(new UpstreamFailure('limited', 'too many', { status: 429, retryAfterMs: 1_000 }));
  for (const settled of await failures) {
    expect(settled).toMatchObject({ reason: { kind: 'limited', status: 429, retryAfterMs: 1_000 } });
  }
  expect(work.count).toBe(1);
});

it('when the process that asks ends, the next one asks', async () => {
  const [first, second] = [new Work(), new Work()];
  const lost = flightsOf(one).run('key', packing, first.ask);
  const waiting = [other, third].map(process => flightsOf(process).run('key', packing, second.ask));
  await setImmediate();
  board.forget(one);
  await setImmediate();
  expect(second.count).toBe(1);
  second.end('digest');
  expect(await Promise.all(waiting)).toEqual(['digest', 'digest of another']);
  // It was only thought to have ended.
  first.end('late');
  expect(await lost).toBe('late');
});

it('a question of a process that hangs is asked again by the next one, for which others wait', async () => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] });
  try {
    const [slow, next] = [new Work(), new Work()];
    const asking = flightsOf(one).run('key', packing, slow.ask);
    await setImmediate();
    await vi.advanceTimersByTimeAsync(9_000);
    const waiting = flightsOf({}).run('key', packing, next.ask);
    await vi.advanceTimersByTimeAsync(1_001);
    const answers = [other, third].map(process => flightsOf(process).run('key', packing, next.ask));
    await setImmediate();
    expect(next.count).toBe(1);
    // It was only slow: those who were already waiting for it still get its answer.
    slow.end('late');
    expect([await asking, await waiting]).toEqual(['late', 'late of another']);
    next.end('digest');
    expect(await Promise.all(answers)).toEqual(['digest', 'digest of another']);
  } finally {
    vi.useRealTimers();
  }
});

it('a process that has stopped waiting does not lead when the one that asks ends', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  try {
    const [hung, late, next] = [new Work(), new Work(), new Work()];
    void flightsOf(one).run('key', packing, hung.ask);
    const impatient = flightsOf(other).run('key', packing, late.ask);
    await setImmediate();
    await vi.advanceTimersByTimeAsync(10_000);
    late.end('late');
    expect(await impatient).toBe('late');
    board.forget(one);
    await setImmediate();
    const asking = flightsOf(third).run('key', packing, next.ask);
    await setImmediate();
    expect(next.count).toBe(1);
    next.end('digest');
    expect(await asking).toBe('digest');
  } finally {
    vi.useRealTimers();
  }
});
