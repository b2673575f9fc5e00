import type { ServerDocument } from '../../src/compose/server.ts';
import { Entrepot } from '../support/entrepot.ts';
import { cpuSecondsOf } from '../support/programs.ts';
import { type PushedImage, pushImage } from './support/push.ts';
import { spread, table } from './support/table.ts';
import { wrk } from './support/wrk.ts';

const ACCEPT = 'Accept: application/vnd.oci.image.manifest.v1+json\r\n';
const COUNTS = [1, 2] as const;

interface Subject {
  readonly name: string;
  readonly entrepot: Entrepot;
  readonly image: PushedImage;
  /** Those that serve clients. */
  readonly pids: readonly number[];
}

/**
 * Warm manifests by one process and by two, alternating. With as many cores as processes the load takes some of theirs, so
 * it is wrk's, and what a request costs and how evenly the processes work is printed beside the rate.
 */
export async function processes(rounds = 3, seconds = 4): Promise<string> {
  const subjects = await Promise.all(COUNTS.map(start));
  try {
    const rows = new Map(
      subjects.map(subject => [subject, { rate: [0], cost: [0], busiest: [0], load: [0] }]),
    );
    for (const row of rows.values()) for (const values of Object.values(row)) values.pop();
    for (let round = 0; round < rounds; round += 1) {
      for (const [subject, row] of rows) {
        const { entrepot, image, pids } = subject;
        const all = [...new Set([entrepot.pid, ...pids])];
        const before = all.map(cpuSecondsOf);
        const result = await wrk({
          port: Number(new URL(entrepot.url).port),
          path: `/v2/${image.repository}/manifests/${image.tag}`,
          headers: ACCEPT,
          connections: 16,
          seconds,
          expectBytes: image.manifestBytes,
        });
        const used = all.map((pid, at) => cpuSecondsOf(pid) - (before[at] ?? 0));
        const sum = used.reduce((total, each) => total + each, 0);
        row.rate.push(result.requests / result.seconds);
        row.cost.push((sum / result.requests) * 1e6);
        row.busiest.push((Math.max(...used) / sum) * 100);
        row.load.push(result.cpuSeconds / result.seconds);
      }
    }
    return table(
      'Warm manifest by tag, 16 connections, by serving processes',
      ['', 'requests/s', 'CPU µs/request', 'busiest process, %', 'cores of the load'],
      [...rows].map(([{ name }, { rate, cost, busiest, load: cores }]) => [
        name,
        spread(rate),
        spread(cost),
        spread(busiest),
        spread(cores, 2),
      ]),
    );
  } finally {
    for (const { entrepot } of subjects) await entrepot.remove();
  }
}

async function start(count: number): Promise<Subject> {
  const entrepot = await Entrepot.start({
    server: { processes: count },
    hosted: { prefixes: ['bench'], anonymous: 'push' },
  });
  const image = await pushImage(entrepot.url, 'bench/app', 'v1', [1_000]);
  const { pid, servingPids = [] } = await entrepot.ask<ServerDocument>('/debug/server');
  return { name: String(count), entrepot, image, pids: servingPids.length === 0 ? [pid] : servingPids };
}
