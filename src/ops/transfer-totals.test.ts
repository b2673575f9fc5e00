import { expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import {
  type KeptTransfers,
  NO_TRAFFIC,
  type TransferKeeper,
  type Traffic,
  TransferTotals,
  withToday,
} from './transfer-totals.ts';

const SINCE_MS = 1_000;

class MemoryKeeper implements TransferKeeper {
  kept: KeptTransfers | undefined;
  additions = 0;
  state: 'free' | 'busy' | 'broken' = 'free';

  async read(): Promise<KeptTransfers | undefined> {
    return this.kept;
  }

  async add(more: Traffic): Promise<boolean> {
    if (this.state === 'broken') throw new Error('the disk is full');
    if (this.state === 'busy') return false;
    this.additions += 1;
    const { sentBytes, fetchedBytes, days } = this.kept ?? { ...NO_TRAFFIC, days: new Map() };
    this.kept = {
      sinceMs: SINCE_MS,
      sentBytes: sentBytes + more.sentBytes,
      fetchedBytes: fetchedBytes + more.fetchedBytes,
      days: withToday(days, more),
    };
    return true;
  }
}

function counting(keeper: TransferKeeper): TransferTotals {
  const totals = new TransferTotals(silentMeter, upstream => upstream === 'docker.io');
  totals.keep(keeper, silentLog);
  return totals;
}

const send = (totals: TransferTotals, bytes: number, upstream = 'docker.io') =>
  totals.count('http_sent_bytes_total', { upstream }, bytes);

it('counts mirrored content, not hosted content, and passes everything on', () => {
  const counted: string[] = [];
  const count = (name: string) => void counted.push(name);
  const meter = { ...silentMeter, count, counter: (name: string) => () => count(name) };
  const totals = new TransferTotals(meter, upstream => upstream === 'docker.io');
  send(totals, 5);
  send(totals, 7, 'none');
  totals.count('bytes_from_upstream_total', { upstream: 'docker.io' }, 3);
  totals.count('fills_total', { outcome: 'verified' });
  totals.counter('http_sent_bytes_total', { upstream: 'docker.io' })(4);
  totals.counter('http_sent_bytes_total', { upstream: 'none' })(4);
  expect(totals.sinceStart).toEqual({ ...NO_TRAFFIC, sentBytes: 9, fetchedBytes: 3 });
  expect(counted).toEqual([
    'http_sent_bytes_total',
    'http_sent_bytes_total',
    'bytes_from_upstream_total',
    'fills_total',
    'http_sent_bytes_total',
    'http_sent_bytes_total',
  ]);
});

it('counts pulls, and answers by whether something was fetched for them', () => {
  const totals = new TransferTotals(silentMeter, upstream => upstream === 'docker.io');
  const upstream = 'docker.io';
  const request = { route: 'manifest', method: 'GET', status: '200' };
  totals.counter('http_requests_total', request)();
  totals.counter('http_requests_total', { ...request, method: 'HEAD' })();
  totals.counter('http_requests_total', { ...request, status: '404' })();
  totals.counter('http_requests_total', { ...request, route: 'blob' })();
  for (const outcome of ['hit', 'revalidated', 'stale', 'joined', 'miss']) {
    totals.counter('http_outcomes_total', { route: 'blob', upstream, outcome })();
  }
  totals.counter('http_outcomes_total', { route: 'blob', upstream: 'none', outcome: 'hosted' })();
  expect(totals.sinceStart).toEqual({ ...NO_TRAFFIC, pulls: 1, hits: 4, misses: 1 });
});

it('stores its totals for the next process, once, and writes nothing if nothing is new', async () => {
  const keeper = new MemoryKeeper();
  const first = counting(keeper);
  send(first, 5);
  expect(await first.inAll()).toMatchObject({ sinceMs: undefined, sentBytes: 5, fetchedBytes: 0 });
  await first.close();
  await first.close();
  expect(keeper.additions).toBe(1);
  const second = counting(keeper);
  expect(second.sinceStart).toEqual(NO_TRAFFIC);
  expect(await second.inAll()).toMatchObject({ sinceMs: SINCE_MS, sentBytes: 5, fetchedBytes: 0 });
  await second.close();
  expect(keeper.additions).toBe(1);
});

it('adds to the totals of other processes, whoever stores first', async () => {
  const keeper = new MemoryKeeper();
  const [one, other] = [counting(keeper), counting(keeper)];
  send(one, 5);
  send(other, 7);
  await one.close();
  expect(await other.inAll()).toMatchObject({ sentBytes: 12 });
  await other.close();
  expect(keeper.kept).toMatchObject({ sentBytes: 12 });
});

it('loses nothing that could not be stored at first', async () => {
  const keeper = new MemoryKeeper();
  const totals = counting(keeper);
  send(totals, 5);
  for (const state of ['broken', 'busy', 'free'] as const) {
    keeper.state = state;
    await totals.close();
    expect(await totals.inAll()).toMatchObject({ sentBytes: 5 });
  }
  expect(keeper.kept).toMatchObject({ sentBytes: 5 });
});

it('counts once what several callers store at the same time', async () => {
  const keeper = new MemoryKeeper();
  const totals = counting(keeper);
  send(totals, 5);
  const first = totals.close();
  send(totals, 7);
  await Promise.all([first, totals.close(), totals.close()]);
  expect(keeper.kept).toMatchObject({ sentBytes: 12 });
});

it('counts nothing twice while it is being saved', async () => {
  const keeper = new MemoryKeeper();
  const totals = counting(keeper);
  send(totals, 5);
  let release: (() => void) | undefined;
  const released = new Promise<void>(resolve => (release = resolve));
  const add = keeper.add.bind(keeper);
  // Written, and not known to be.
  keeper.add = async more => {
    const isAdded = await add(more);
    await released;
    return isAdded;
  };
  const closed = totals.close();
  await expect.poll(() => keeper.additions).toBe(1);
  const all = totals.inAll();
  release?.();
  expect(await all).toMatchObject({ sentBytes: 5 });
  await closed;
});
