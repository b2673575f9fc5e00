import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { createMetrics, lastingSum, METRICS } from './metrics.ts';

describe('metrics', () => {
  it('are in the Prometheus text format, with our prefix, and with those of the process', async () => {
    const { meter, text, contentType } = createMetrics();
    meter.count('http_requests_total', { route: 'blob', method: 'GET', status: '200' });
    meter.count('bytes_from_upstream_total', { upstream: 'docker.io' }, 512);
    meter.gauge('fills_running', 3);
    meter.observe('http_request_duration_seconds', 0.02, { route: 'blob' });
    const lines = (await text()).split('\n');
    expect(lines).toContain('entrepot_http_requests_total{route="blob",method="GET",status="200"} 1');
    expect(lines).toContain('entrepot_bytes_from_upstream_total{upstream="docker.io"} 512');
    expect(lines).toContain('entrepot_fills_running 3');
    expect(lines).toContain('entrepot_http_request_duration_seconds_bucket{le="0.025",route="blob"} 1');
    expect(lines.some(line => line.startsWith('process_resident_memory_bytes '))).toBe(true);
    expect(contentType).toContain('text/plain');
  });

  it('begin at zero for each known label value', async () => {
    const lines = (await createMetrics().text()).split('\n');
    for (const outcome of ['verified', 'refused', 'failed']) {
      expect(lines).toContain(`entrepot_fills_total{outcome="${outcome}"} 0`);
    }
  });

  it('refuse a name, a kind or a label that is not in the table', () => {
    const { meter } = createMetrics();
    expect(() => meter.count('fils_total')).toThrow(/no counter is called fils_total/);
    expect(() => meter.count('fills_running')).toThrow(/no counter/);
    expect(() => meter.gauge('fills_total', 1)).toThrow(/no gauge/);
    expect(() => meter.observe('fills_running', 1)).toThrow(/no histogram/);
    expect(() => meter.count('fills_total', { repository: 'library/nginx' })).toThrow(/repository/);
    expect(() => meter.counter('fills_running')).toThrow(/no counter/);
    expect(() => meter.counter('fills_total', { repository: 'library/nginx' })).toThrow(/repository/);
  });

  it('of a prepared counter begin at zero, and are exact whenever they are read', async () => {
    const { meter, text } = createMetrics();
    const add = meter.counter('http_sent_bytes_total', { upstream: 'docker.io' });
    expect(await text()).toContain('entrepot_http_sent_bytes_total{upstream="docker.io"} 0');
    add(2);
    add(3);
    expect(await text()).toContain('entrepot_http_sent_bytes_total{upstream="docker.io"} 5');
    meter.count('http_sent_bytes_total', { upstream: 'docker.io' }, 10);
    meter.counter('http_sent_bytes_total', { upstream: 'docker.io' })();
    expect(await text()).toContain('entrepot_http_sent_bytes_total{upstream="docker.io"} 16');
  });

  it('are independent for two servers in one process', async () => {
    const [first, second] = [createMetrics(), createMetrics()];
    first.meter.gauge('fills_running', 7);
    expect(await second.text()).toContain('entrepot_fills_running 0');
  });

  it('of several processes are added up, but for what each knows, or only the one that reports', async () => {
    const [own, other] = [createMetrics(), createMetrics()];
    for (const { meter } of [own, other]) {
      meter.count('logins_total', { outcome: 'accepted' }, 2);
      meter.observe('http_request_duration_seconds', 0.5, { route: 'blob' });
      meter.gauge('http_bodies_open', 3);
      meter.gauge('tenants', 4);
      meter.gauge('store_held_blobs', 5);
    }
    other.meter.gauge('upstream_budget_remaining', 7, { upstream: 'docker.io' });
    const snapshot = structuredClone(await other.snapshot());
    const text = await own.textOfAll([snapshot, await lastingSum([snapshot, snapshot])]);
    for (const line of [
      'logins_total{outcome="accepted"} 8',
      'http_request_duration_seconds_count{route="blob"} 4',
      'http_bodies_open 6',
      'tenants 4',
      'store_held_blobs 5',
      'upstream_budget_remaining{upstream="docker.io"} 7',
    ]) {
      expect(text).toContain(`entrepot_${line}\n`);
    }
    expect(text).toContain('process_start_time_seconds ');
  });

  it('in the table are exactly those that the code reports', () => {
    const src = fileURLToPath(new URL('../', import.meta.url));
    const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter(name =>
      /(?<!\.test)\.ts$/.test(name),
    );
    const text = files.map(file => readFileSync(join(src, file), 'utf8')).join('\n');
    const reported = [...text.matchAll(/meter\??\.(?:count|counter|gauge|observe)\(\s*'([^']+)'/g)].map(
      match => match[1] ?? '',
    );
    expect(reported.length).toBeGreaterThan(3);
    expect([...new Set(reported)].sort()).toEqual(Object.keys(METRICS).sort());
  });
});
