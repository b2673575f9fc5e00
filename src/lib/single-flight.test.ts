import { describe, expect, it } from 'vitest';
import { SingleFlight, unlessAborted } from './single-flight.ts';

function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

describe('SingleFlight', () => {
  it('starts work once for all who ask while it runs', async () => {
    const flights = new SingleFlight<number>();
    const work = deferred<number>();
    let starts = 0;
    const start = () => {
      starts += 1;
      return work.promise;
    };
    const first = flights.run('a', start);
    const second = flights.run('a', start);
    expect([first.joined, second.joined]).toEqual([false, true]);
    work.resolve(7);
    expect(await Promise.all([first.promise, second.promise])).toEqual([7, 7]);
    expect(starts).toBe(1);
    expect(flights.size).toBe(0);
  });

  it('shares a failure with all who wait and forgets it afterwards', async () => {
    const flights = new SingleFlight<number>();
    const work = deferred<number>();
    const waiters = [flights.run('a', () => work.promise), flights.run('a', () => work.promise)];
    work.reject(new Error('no'));
    const results = await Promise.allSettled(waiters.map(({ promise }) => promise));
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(await flights.run('a', async () => 1).promise).toBe(1);
  });

  it('turns a synchronous throw into a rejection', async () => {
    const flights = new SingleFlight<number>();
    const { promise } = flights.run('a', () => {
      throw new Error('at once');
    });
    await expect(promise).rejects.toThrow('at once');
    expect(flights.size).toBe(0);
  });

  it('runs different keys separately', async () => {
    const flights = new SingleFlight<string>();
    const answers = ['a', 'b'].map(key => flights.run(key, async () => key).promise);
    expect(await Promise.all(answers)).toEqual(['a', 'b']);
  });
});

describe('unlessAborted', () => {
  it('lets one waiter leave while the work continues for the others', async () => {
    const work = deferred<number>();
    const leaver = new AbortController();
    const leaving = unlessAborted(work.promise, leaver.signal);
    const staying = unlessAborted(work.promise, undefined);
    leaver.abort(new Error('gone'));
    await expect(leaving).rejects.toThrow('gone');
    work.resolve(1);
    expect(await staying).toBe(1);
  });

  it('rejects at once for a signal that has aborted already', async () => {
    await expect(
      unlessAborted(deferred<number>().promise, AbortSignal.abort(new Error('gone'))),
    ).rejects.toThrow('gone');
  });
});
