import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Latch } from '../../test/support/latch.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import { FlightBoard, type FlightCalls, flightsOn, type Packing, SharedFlights } from './shared-flights.ts';

const packing: Packing<string> = {
  name: 'manifest',
  pack: answer => (answer === 'not stored' ? undefined : { answer }),
  unpack: async (packed: { readonly answer: string }) => `${packed.answer} of another`,
};

let board: FlightBoard;
const [one, other, third] = [{}, {}, {}];
const flightsOf = (process: object) => new SharedFlights(flightsOn(board.of(process)));

/** Asks, and lands `ms` later. */
const landAfter = async (ms: number, outcome: string | Error, { process = one, key = 'key' } = {}) => {
  const work = new Work();
  const asking = flightsOf(process).run(key, packing, work.ask);
  await setImmediate();
  await vi.advanceTimersByTimeAsync(ms);
  work.end(outcome);
  await asking.catch(() => {});
};
/** What a process gets that began `agoMs` ago; it asks for itself if nobody has. */
const got = (agoMs: number | undefined, { process = other, key = 'key' } = {}) => {
  const sinceMs = agoMs === undefined ? undefined : performance.now() - agoMs;
  return flightsOf(process).run(key, packing, async () => 'its own', { sinceMs });
};

beforeEach(() => void (board = new FlightBoard()));

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

describe('a question that another process has asked', () => {
  /** With a time that stands still. */
  beforeEach(() => void vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] }));

  afterEach(() => void vi.useRealTimers());

  it('is answered for those who began before the answer came, and for no others', async () => {
    await landAfter(20, 'digest');
    await vi.advanceTimersByTimeAsync(30);
    expect(await got(31)).toBe('digest of another');
    // Also for the one that has asked, which may have begun another request in the meantime.
    expect(await got(31, { process: one })).toBe('digest of another');
    for (const agoMs of [30, 29, 0, -1, Number.NaN, undefined]) {
      await landAfter(0, 'digest');
      await vi.advanceTimersByTimeAsync(30);
      expect(await got(agoMs)).toBe('its own');
    }
  });

  it('is answered for nobody who began after the answer came, though the board heard of it later', async () => {
    const work = new Work();
    const calls = board.of(one);
    const slow = flightsOn({
      fly: asked => calls.fly(asked),
      land: landed => void setTimeout(() => calls.land(landed), 40),
    });
    const asking = new SharedFlights(slow).run('key', packing, work.ask);
    await setImmediate();
    await vi.advanceTimersByTimeAsync(20);
    work.end('digest');
    await asking;
    await vi.advanceTimersByTimeAsync(50);
    expect(await got(51)).toBe('digest of another');
    expect(await got(50)).toBe('its own');
  });

  it('is answered for those who began before, however long they have to wait until they can ask', async () => {
    await landAfter(0, 'digest');
    await vi.advanceTimersByTimeAsync(10);
    const [calls, latch] = [flightsOn(board.of(other)), new Latch()];
    const fly: FlightCalls['fly'] = async (key, agoMs) => {
      await latch.opened;
      return calls.fly(key, agoMs);
    };
    const sinceMs = performance.now() - 11;
    const asking = new SharedFlights({ fly }).run('key', packing, async () => 'its own', { sinceMs });
    await vi.advanceTimersByTimeAsync(20);
    latch.open();
    expect(await asking).toBe('digest of another');
  });

  it('has the answer that came last', async () => {
    await landAfter(0, 'first');
    await vi.advanceTimersByTimeAsync(10);
    await landAfter(0, 'second', { process: third });
    await vi.advanceTimersByTimeAsync(10);
    expect(await got(30)).toBe('second of another');
    await landAfter(0, `a long one: ${'x'.repeat(4_096)}`);
    await vi.advanceTimersByTimeAsync(10);
    expect(await got(40)).toBe('its own');
  });

  it('says when the answer came, unless that was waited for', async () => {
    const landedAtMs: number[] = [];
    const onRemembered = (atMs: number) => void landedAtMs.push(atMs);
    const work = new Work();
    const asking = flightsOf(one).run('key', packing, work.ask);
    const waiting = flightsOf(other).run('key', packing, work.ask, { onRemembered });
    await setImmediate();
    work.end('digest');
    await Promise.all([asking, waiting]);
    const atMs = performance.now();
    await vi.advanceTimersByTimeAsync(30);
    await flightsOf(other).run('key', packing, work.ask, { sinceMs: atMs - 1, onRemembered });
    const refused = { sinceMs: atMs - 1, onRemembered, accepts: async () => false };
    expect(await flightsOf(other).run('key', packing, async () => 'its own', refused)).toBe('its own');
    expect(landedAtMs).toEqual([atMs]);
  });

  it('says when the failure came', async () => {
    const atMs = performance.now();
    await landAfter(0, new UpstreamFailure('limited', 'too many', { status: 429 }));
    await vi.advanceTimersByTimeAsync(30);
    const onRemembered = vi.fn<(landedAtMs: number) => void>();
    const late = flightsOf(other).run('key', packing, new Work().ask, { sinceMs: atMs - 1, onRemembered });
    await expect(late).rejects.toMatchObject({ kind: 'limited' });
    expect(onRemembered.mock.calls).toEqual([[atMs]]);
  });

  it('has failed for those who began before the failure, and for no others', async () => {
    await landAfter(0, new UpstreamFailure('limited', 'too many', { status: 429, retryAfterMs: 1_000 }));
    await vi.advanceTimersByTimeAsync(10);
    await expect(got(11)).rejects.toMatchObject({ kind: 'limited', status: 429, retryAfterMs: 1_000 });
    expect(await got(10)).toBe('its own');
  });

  it('has no answer if others have to ask for themselves', async () => {
    for (const outcome of [new Error('stopping'), 'not stored']) {
      await landAfter(0, outcome, { key: 'lost' });
      await vi.advanceTimersByTimeAsync(10);
      expect(await got(11, { key: 'lost' })).toBe('its own');
      await vi.advanceTimersByTimeAsync(5_000);
    }
  });

  it('keeps the answer of a process that has ended since, and none that it had not given', async () => {
    await landAfter(0, 'digest');
    void flightsOf(one).run('other key', packing, new Work().ask);
    await setImmediate();
    board.forget(one);
    await vi.advanceTimersByTimeAsync(10);
    expect(await got(11)).toBe('digest of another');
    expect(await got(11, { key: 'other key' })).toBe('its own');
  });

  it('has no answer any more after 5 s', async () => {
    await landAfter(0, 'digest');
    await vi.advanceTimersByTimeAsync(4_999);
    expect(await got(60_000)).toBe('digest of another');
    await vi.advanceTimersByTimeAsync(1);
    expect(await got(60_000)).toBe('its own');
  });

  it('has no answer from a process that others no longer wait for', async () => {
    await landAfter(10_001, 'late');
    await vi.advanceTimersByTimeAsync(10);
    expect(await got(60_000)).toBe('its own');
  });

  it('has no answer any more after a thousand others', async () => {
    const keys = Array.from({ length: 1_001 }, (_, at) => `key ${at}`);
    for (const key of keys) await landAfter(0, 'digest', { key });
    await vi.advanceTimersByTimeAsync(10);
    expect(await got(11, { key: 'key 0' })).toBe('its own');
    expect(await got(11, { key: 'key 2' })).toBe('digest of another');
  });
});
