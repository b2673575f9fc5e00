import { expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import { type KeptTransfers, type TransferKeeper, TransferTotals } from './transfer-totals.ts';

const SINCE_MS = 1_000;

class MemoryKeeper implements TransferKeeper {
  kept: KeptTransfers | undefined;
  additions = 0;
  state: 'free' | 'busy' | 'broken' = 'free';

  async read(): Promise<KeptTransfers | undefined> {
    return this.kept;
  }

  async add(more: { sentBytes: number; fetchedBytes: number }): Promise<boolean> {
    if (this.state === 'broken') throw new Error('the disk is full');
    if (this.state === 'busy') return false;
    this.additions += 1;
    const { sentBytes, fetchedBytes } = this.kept ?? { sentBytes: 0, fetchedBytes: 0 };
    this.kept = {
      sinceMs: SINCE_MS,
      sentBytes: sentBytes + more.sentBytes,
      fetchedBytes: fetchedBytes + more.fetchedBytes,
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
  expect(totals.sinceStart).toEqual({ sentBytes: 9, fetchedBytes: 3 });
  expect(counted).toEqual([
    'http_sent_bytes_total',
    'http_sent_bytes_total',
    'bytes_from_upstream_total',
    'fills_total',
    'http_sent_bytes_total',
    'http_sent_bytes_total',
  ]);
});

it('stores its totals for the next process, once, and writes nothing if nothing is new', async () => {
  const keeper = new MemoryKeeper();
  const first = counting(keeper);
  send(first, 5);
  expect(await first.inAll()).toEqual({ sinceMs: undefined, sentBytes: 5, fetchedBytes: 0 });
  await first.close();
  await first.close();
  expect(keeper.additions).toBe(1);
  const second = counting(keeper);
  expect(second.sinceStart).toEqual({ sentBytes: 0, fetchedBytes: 0 });
  expect(await second.inAll()).toEqual({ sinceMs: SINCE_MS, sentBytes: 5, fetchedBytes: 0 });
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
