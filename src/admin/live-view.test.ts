import { expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import {
  type KeptTransfers,
  type TransferKeeper,
  TransferTotals,
  withToday,
} from '../ops/transfer-totals.ts';
import type { AdminParts } from './admin-parts.ts';
import { LiveView } from './live-view.ts';
import { savedOf } from './status.ts';

it('counts nothing twice that another process keeps after its last report', async () => {
  let kept: KeptTransfers | undefined;
  const keeper: TransferKeeper = {
    read: async () => kept,
    add: async more => {
      kept = { ...more, sinceMs: 0, days: withToday(new Map(), more) };
      return true;
    },
  };
  const [own, other] = [0, 1].map(() => new TransferTotals(silentMeter, () => true));
  if (own === undefined || other === undefined) throw new Error('no totals');
  for (const totals of [own, other]) totals.keep(keeper, silentLog);
  const nothing = { downloads: [], partials: [], upstreams: [], firstBytes: [] };
  const parts = { config: { upstreams: new Map() }, mirror: { downloads: [] }, upstreams: new Map() };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- without upstreams and downloads, it needs no more
  const view = new LiveView(parts as unknown as AdminParts, {
    totals: own,
    reports: async () => [{ ...nothing, sinceStart: other.sinceStart, unkept: other.unkept }],
  });
  const saved = async () => {
    const { inAll, reports } = await view.traffic();
    return savedOf(inAll, reports, 0).inAll.sentBytes;
  };
  other.count('http_sent_bytes_total', { upstream: 'docker.io' }, 10);
  expect(await saved()).toBe(10);
  await other.close();
  expect(await saved()).toBe(10);
  await own.close();
});
