import { join } from 'node:path';
import type { PushedImage } from './support/push.ts';
import type { Subject } from './support/subjects.ts';
import { load } from './support/load.ts';
import { LOOP_DELAY, type LoopDelay, worstDelay } from './support/loop-delay.ts';
import { median, spread, table } from './support/table.ts';

const ACCEPT = 'Accept: application/vnd.oci.image.manifest.v1+json\r\n';
const GIB = 2 ** 30;

/** Requests per second for a manifest that everybody holds, by tag and by digest, rounds alternating. */
export async function warmManifests(
  subjects: readonly Subject[],
  image: PushedImage,
  rounds: number,
  seconds: number,
): Promise<string> {
  const rows: string[][] = [];
  for (const reference of [image.tag, image.digest]) {
    const rates = new Map<string, number[]>();
    const cpu = new Map<string, number[]>();
    const delays = new Map<string, LoopDelay[]>();
    for (let round = 0; round < rounds; round++) {
      for (const subject of subjects) {
        const path = `/v2/${image.repository}/manifests/${reference}${subject.query}`;
        await subject.loop?.read();
        const before = subject.cpuSeconds();
        const result = await load({
          kind: 'rate',
          port: subject.port,
          path,
          headers: ACCEPT,
          connections: 16,
          seconds,
          expectBytes: image.manifestBytes,
        });
        push(rates, subject.name, result.requests / result.seconds);
        push(cpu, subject.name, ((subject.cpuSeconds() - before) / result.requests) * 1e6);
        pushIfAny(delays, subject.name, await subject.loop?.read());
      }
    }
    const base = median(rates.get('docker-registry') ?? []);
    for (const [name, values] of rates) {
      rows.push([
        `${reference.startsWith('sha256:') ? 'by digest' : 'by tag'}, ${name}`,
        spread(values),
        spread(cpu.get(name) ?? []),
        worstDelay(delays.get(name) ?? []),
        `${(median(values) / base).toFixed(1)} ×`,
      ]);
    }
  }
  return table(
    'Warm manifest GET, 16 connections',
    ['', 'requests/s', 'CPU µs/request', LOOP_DELAY, 'docker-registry'],
    rows,
  );
}

/** Throughput of held blobs with 1, 8 and 64 clients. */
export async function warmBlobs(
  subjects: readonly Subject[],
  image: PushedImage,
  rounds: number,
  seconds: number,
): Promise<string> {
  const rows: string[][] = [];
  const size = image.sizes[1] ?? 0;
  for (const clients of [1, 8, 64]) {
    const rates = new Map<string, number[]>();
    const cpu = new Map<string, number[]>();
    const delays = new Map<string, LoopDelay[]>();
    for (let round = 0; round < rounds; round++) {
      for (const subject of subjects) {
        await subject.loop?.read();
        const before = subject.cpuSeconds();
        const result = await load({
          kind: 'rate',
          port: subject.port,
          path: `/v2/${image.repository}/blobs/${image.digests[1]}${subject.query}`,
          headers: '',
          connections: clients,
          seconds,
          expectBytes: size,
        });
        push(rates, subject.name, result.bytes / result.seconds / 1e9);
        push(cpu, subject.name, (subject.cpuSeconds() - before) / (result.bytes / GIB));
        pushIfAny(delays, subject.name, await subject.loop?.read());
      }
    }
    const base = median(rates.get('nginx') ?? []);
    for (const subject of subjects) {
      const values = rates.get(subject.name) ?? [];
      rows.push([
        `${clients} client${clients > 1 ? 's' : ''}, ${subject.name}`,
        spread(values, 2),
        spread(cpu.get(subject.name) ?? [], 2),
        worstDelay(delays.get(subject.name) ?? []),
        (subject.peakRssBytes() / 2 ** 20).toFixed(0),
        `${(median(values) / base).toFixed(2)} ×`,
      ]);
    }
  }
  return table(
    'Warm blob of 64 MiB',
    ['', 'GB/s', 'CPU s/GiB', LOOP_DELAY, 'peak MiB so far', 'nginx'],
    rows,
  );
}

/** Where docker-registry keeps a blob's bytes: what nginx is given to serve. */
export function dockerRegistryFile(dataFolder: string, digest: string): string {
  const hex = digest.slice('sha256:'.length);
  return join(dataFolder, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data');
}

function push<Value>(map: Map<string, Value[]>, key: string, value: Value): void {
  map.set(key, [...(map.get(key) ?? []), value]);
}

function pushIfAny<Value>(map: Map<string, Value[]>, key: string, value: Value | undefined): void {
  if (value !== undefined) push(map, key, value);
}
