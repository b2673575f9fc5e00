import { Receiver } from '../../src/events/receiver.fixture.ts';
import { Entrepot } from '../support/entrepot.ts';
import { until } from '../support/programs.ts';
import type { RateResult } from './support/client.ts';
import { load } from './support/load.ts';
import { type PushedImage, pushImage } from './support/push.ts';
import { median, spread, table } from './support/table.ts';

const ACCEPT = 'Accept: application/vnd.oci.image.manifest.v1+json\r\n';
/** Two processes of the same program differ by some per cent, and stay so: each side is measured with as many. */
const PROCESSES = 8;
const ROUNDS = 3;
const SECONDS = 2;

/** `without` is there twice: how far the two are apart is what this comparison cannot tell. */
const SIDES = ['without', 'with an endpoint', 'without, again'] as const;
type Side = (typeof SIDES)[number];

interface Subject {
  readonly side: Side;
  readonly entrepot: Entrepot;
  readonly image: PushedImage;
  pulls: number;
}

/** Warm manifests with an endpoint that wants all events, and without; every pull is asserted to have arrived there. */
export async function warmWithNotifications(): Promise<string> {
  const rates = new Map<Side, number[]>(SIDES.map(side => [side, []]));
  const costs = new Map<Side, number[]>(SIDES.map(side => [side, []]));
  for (let process = 0; process < PROCESSES; process += 1) {
    const receiver = await Receiver.start();
    // None has the first place, or the last, more often than the others.
    const order = SIDES.map((_, at) => SIDES[(at + process) % SIDES.length] ?? 'without');
    const subjects = await Promise.all(order.map(side => start(side, receiver.url)));
    try {
      const own = new Map(subjects.map(subject => [subject, { rate: [] as number[], cost: [] as number[] }]));
      for (const subject of subjects) await pull(subject);
      for (let round = 0; round < ROUNDS; round += 1) {
        for (const [subject, { rate, cost }] of own) {
          const before = subject.entrepot.cpuSeconds();
          const { requests, seconds } = await pull(subject);
          rate.push(requests / seconds);
          cost.push(((subject.entrepot.cpuSeconds() - before) / requests) * 1e6);
        }
      }
      for (const [{ side }, { rate, cost }] of own) {
        rates.get(side)?.push(median(rate));
        costs.get(side)?.push(median(cost));
      }
      const told = subjects.find(({ side }) => side === 'with an endpoint');
      await until('the endpoint knows of each pull', 10_000, async () => pullsIn(receiver) === told?.pulls);
    } finally {
      for (const { entrepot } of subjects) await entrepot.remove();
      await receiver.close();
    }
  }
  const base = rates.get('without') ?? [];
  return table(
    `Warm manifest by tag, 16 connections, medians of ${ROUNDS} rounds by each of ${PROCESSES} processes`,
    ['notifications', 'requests/s', 'CPU µs/request', 'to the first'],
    SIDES.map(side => {
      const ratios = (rates.get(side) ?? []).map((rate, at) => rate / (base[at] ?? Number.NaN));
      return [side, spread(rates.get(side) ?? []), spread(costs.get(side) ?? [], 1), spread(ratios, 3)];
    }),
  );
}

async function start(side: Side, url: string): Promise<Subject> {
  const entrepot = await Entrepot.start({
    hosted: { prefixes: ['bench'], anonymous: 'push' },
    ...(side === 'with an endpoint' && { notifications: { endpoints: [{ name: 'bench', url }] } }),
  });
  return { side, entrepot, image: await pushImage(entrepot.url, 'bench/app', 'v1', [1_000]), pulls: 0 };
}

async function pull(subject: Subject): Promise<RateResult> {
  const { entrepot, image } = subject;
  const result = await load({
    kind: 'rate',
    port: Number(new URL(entrepot.url).port),
    path: `/v2/${image.repository}/manifests/${image.tag}`,
    headers: ACCEPT,
    connections: 16,
    seconds: SECONDS,
    expectBytes: image.manifestBytes,
  });
  subject.pulls += result.requests;
  return result;
}

/** One event tells of several alike, with their number. */
function pullsIn({ received }: Receiver): number {
  let pulls = 0;
  for (const { body } of received) {
    const { events }: { events: { action: string; entrepot?: { count?: number } }[] } = JSON.parse(body);
    for (const { action, entrepot } of events) if (action === 'pull') pulls += entrepot?.count ?? 1;
  }
  return pulls;
}
