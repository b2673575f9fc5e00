import { expect, it, vi } from 'vitest';
import type { PrefixQuota } from '../hosted/quota.ts';
import { createMetrics } from '../ops/metrics.ts';
import { QuotaReport } from './quota-report.ts';

const tenant = (name: string, quotaBytes?: number) => ({ name, options: { quotaBytes } });

it('names the tenants that have a quota, and no longer those that have lost it', async () => {
  const { meter, text } = createMetrics();
  let tenants = [tenant('team-a', 100), tenant('team-b', 0), tenant('team-c')];
  const usedBytes = vi.fn<PrefixQuota['usedBytes']>(async names => new Map(names.map(name => [name, 25])));
  const report = new QuotaReport({ list: () => tenants }, { usedBytes }, meter);
  const samples = async () => (await text()).match(/^entrepot_tenant_\w+\{.*$/gm);
  await report.report();
  expect(usedBytes.mock.calls).toEqual([[['team-a', 'team-b']]]);
  expect(await samples()).toEqual([
    'entrepot_tenant_used_bytes{tenant="team-a"} 25',
    'entrepot_tenant_used_bytes{tenant="team-b"} 25',
    'entrepot_tenant_quota_bytes{tenant="team-a"} 100',
    'entrepot_tenant_quota_bytes{tenant="team-b"} 0',
  ]);
  tenants = [tenant('team-a', 100), tenant('team-b')];
  await report.report();
  expect(await samples()).toEqual([
    'entrepot_tenant_used_bytes{tenant="team-a"} 25',
    'entrepot_tenant_quota_bytes{tenant="team-a"} 100',
  ]);
});
