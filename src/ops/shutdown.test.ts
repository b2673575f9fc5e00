import { EventEmitter } from 'node:events';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { type Closer, Shutdown } from './shutdown.ts';

class FakeProcess extends EventEmitter {
  readonly codes: number[] = [];

  exit(code: number): void {
    this.codes.push(code);
    this.emit('exited');
  }

  exited(): Promise<void> {
    return new Promise(resolve => this.once('exited', resolve));
  }
}

function setUp(closers: readonly Closer[], timeoutMs = 60_000) {
  const source = new FakeProcess();
  let flushes = 0;
  const flush = () => {
    flushes++;
  };
  const lines: unknown[] = [];
  const log = { ...silentLog, info: (fields: object, text: string) => void lines.push([text, fields]) };
  const options = { log, timeoutMs, transfersTimeoutMs: timeoutMs / 2, flush, process: source };
  const shutdown = new Shutdown(closers, options);
  shutdown.listen();
  return { source, shutdown, lines, flushes: () => flushes };
}

const never: Closer = { name: 'never', close: () => new Promise(() => {}) };

describe('shutdown', () => {
  it('says how long transfers may take, and when it gives up', async () => {
    const { shutdown, lines } = setUp([]);
    await shutdown.begin('SIGTERM');
    const limits = { transfersTimeoutMs: 30_000, timeoutMs: 60_000 };
    expect(lines[0]).toEqual([expect.stringMatching(/^stopping/), { reason: 'SIGTERM', ...limits }]);
  });

  it('closes in order on the first signal, flushes the log and exits with 0', async () => {
    const closed: string[] = [];
    const closer = (name: string): Closer => ({
      name,
      close: async () => {
        await new Promise(resolve => setImmediate(resolve));
        closed.push(name);
      },
    });
    const { source, flushes } = setUp([closer('server'), closer('store')]);
    source.emit('SIGTERM');
    await source.exited();
    expect(closed).toEqual(['server', 'store']);
    expect(source.codes).toEqual([0]);
    expect(flushes()).toBe(1);
  });

  it('ends at once on the second signal', async () => {
    const { source } = setUp([never]);
    source.emit('SIGTERM');
    source.emit('SIGINT');
    expect(source.codes).toEqual([130]);
  });

  it('takes the echo of a signal for the first one, and the next for the second', () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    const { source } = setUp([never]);
    source.emit('SIGINT');
    vi.advanceTimersByTime(300);
    source.emit('SIGINT');
    expect(source.codes).toEqual([]);
    vi.advanceTimersByTime(300);
    source.emit('SIGINT');
    expect(source.codes).toEqual([130]);
  });

  it('exits with 1 when the time is over, after everything had its turn', async () => {
    let isClosed = false;
    const last: Closer = {
      name: 'last',
      close: async () => {
        isClosed = true;
      },
    };
    const { source } = setUp([never, last], 10);
    source.emit('SIGINT');
    await source.exited();
    expect(source.codes).toEqual([1]);
    expect(isClosed).toBe(true);
  });

  it('continues after a closer that fails, and exits with 1', async () => {
    const broken: Closer = { name: 'broken', close: () => Promise.reject(new Error('broken')) };
    const { source, shutdown } = setUp([broken]);
    await Promise.all([shutdown.begin('test'), shutdown.begin('again')]);
    expect(source.codes).toEqual([1]);
  });
});
