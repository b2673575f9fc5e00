import { readFile, writeFile } from 'node:fs/promises';
import { parse, stringify } from 'yaml';
import { Receiver } from '../../src/events/receiver.fixture.ts';
import { Entrepot } from '../support/entrepot.ts';
import { until } from '../support/programs.ts';
import { load } from './support/load.ts';
import { type PushedImage, pushImage } from './support/push.ts';
import { spread, table } from './support/table.ts';

const ACCEPT = 'Accept: application/vnd.oci.image.manifest.v1+json\r\n';
const PROCESSES = 4;
const ROUNDS = 6;
const SECONDS = 2;
const TOLD_WITHIN_MS = 10_000;
/** Characters. */
const LAST_LINES = 2_000;

/** `without` is there twice: how far the two are apart is what this comparison cannot tell. */
const SIDES = ['without', 'with an endpoint', 'without, again'] as const;
type Side = (typeof SIDES)[number];

interface Measured {
  readonly rate: number[];
  readonly cost: number[];
  /** To the rate of `without` in the same round. */
  readonly ratio: number[];
}

/**
 * Warm manifests with an endpoint that wants all events, and without; every pull is asserted to have arrived there. Two
 * processes of the same program differ by some per cent, and stay so: the same one is reloaded for each side of a round.
 */
export async function warmWithNotifications(): Promise<string> {
  const measured = new Map<Side, Measured>(SIDES.map(side => [side, { rate: [], cost: [], ratio: [] }]));
  for (let process = 0; process < PROCESSES; process += 1) {
    const subject = await Subject.start();
    try {
      for (const side of SIDES) await subject.pull(side);
      for (let round = 0; round < ROUNDS; round += 1) {
        const rates = new Map<Side, number>();
        // None has the first place, or the last, more often than the others.
        for (const side of SIDES.map((_, at) => SIDES[(at + round) % SIDES.length] ?? 'without')) {
          const { rate, cost } = await subject.pull(side);
          rates.set(side, rate);
          measured.get(side)?.cost.push(cost);
        }
        const base = rates.get('without') ?? Number.NaN;
        for (const [side, rate] of rates) {
          measured.get(side)?.rate.push(rate);
          measured.get(side)?.ratio.push(rate / base);
        }
      }
      await subject.requireAllTold();
    } finally {
      await subject.remove();
    }
  }
  return table(
    `Warm manifest by tag, 16 connections, ${ROUNDS} rounds by each of ${PROCESSES} processes`,
    ['notifications', 'requests/s', 'CPU µs/request', 'to the first'],
    [...measured].map(([side, { rate, cost, ratio }]) => [
      side,
      spread(rate),
      spread(cost, 1),
      spread(ratio, 3),
    ]),
  );
}

/** A process that is reloaded with an endpoint, and without. */
class Subject {
  readonly #entrepot: Entrepot;
  readonly #image: PushedImage;
  readonly #receiver: Receiver;
  #side: Side = 'without';
  /** How many pulls there were with the endpoint. */
  #pulls = 0;

  private constructor(entrepot: Entrepot, image: PushedImage, receiver: Receiver) {
    this.#entrepot = entrepot;
    this.#image = image;
    this.#receiver = receiver;
  }

  static async start(): Promise<Subject> {
    const entrepot = await Entrepot.start({ hosted: { prefixes: ['bench'], anonymous: 'push' } });
    const image = await pushImage(entrepot.url, 'bench/app', 'v1', [1_000]);
    return new Subject(entrepot, image, await Receiver.start());
  }

  /** How many a second, and the CPU time of each in microseconds. */
  async pull(side: Side): Promise<{ readonly rate: number; readonly cost: number }> {
    await this.#turnTo(side);
    const before = this.#entrepot.cpuSeconds();
    const { requests, seconds } = await load({
      kind: 'rate',
      port: Number(new URL(this.#entrepot.url).port),
      path: `/v2/${this.#image.repository}/manifests/${this.#image.tag}`,
      headers: ACCEPT,
      connections: 16,
      seconds: SECONDS,
      expectBytes: this.#image.manifestBytes,
    });
    if (side === 'with an endpoint') this.#pulls += requests;
    return { rate: requests / seconds, cost: ((this.#entrepot.cpuSeconds() - before) / requests) * 1e6 };
  }

  /** Throws unless the endpoint has been told of each pull. */
  async requireAllTold(): Promise<void> {
    await this.#turnTo('with an endpoint');
    await until('the endpoint to know of each pull', TOLD_WITHIN_MS, async () => this.#told === this.#pulls);
  }

  async remove(): Promise<void> {
    await this.#entrepot.remove();
    await this.#receiver.close();
  }

  /** Reloads the configuration with the endpoint, or without it. */
  async #turnTo(side: Side): Promise<void> {
    if (side === this.#side) return;
    this.#side = side;
    const { configFile, pid } = this.#entrepot;
    const config: object = parse(await readFile(configFile, 'utf8'));
    const endpoints = side === 'with an endpoint' ? [{ name: 'bench', url: this.#receiver.url }] : [];
    await writeFile(configFile, stringify({ ...config, notifications: { endpoints } }));
    process.kill(pid, 'SIGHUP');
    // Since the last pulls, of which each wrote a line.
    const isReloaded = () => this.#entrepot.logs().slice(-LAST_LINES).includes('configuration reloaded');
    await until('the configuration to be reloaded', TOLD_WITHIN_MS, async () => isReloaded());
  }

  /** How many pulls the endpoint knows of: one event tells of several alike, with their number. */
  get #told(): number {
    let pulls = 0;
    for (const { body } of this.#receiver.received) {
      const { events }: { events: { action: string; entrepot?: { count?: number } }[] } = JSON.parse(body);
      for (const { action, entrepot } of events) if (action === 'pull') pulls += entrepot?.count ?? 1;
    }
    return pulls;
  }
}
