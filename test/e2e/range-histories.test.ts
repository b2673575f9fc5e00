// Random histories of two processes on one store whose clients read parts of layers, pull them whole, and whose processes
// are killed, against a model of what was fetched: no byte twice, none wrong, none lost.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { type Extent, Extents } from '../../src/lib/extents.ts';
import { Chance } from '../support/chance.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const UPSTREAM = 'up.example';
const SIZE = 2 * MIB;
const BLOBS = 4;
/** A whole pull fetches smaller pieces again, since a request of their own would cost more. */
const MIN_RANGE_BYTES = 17 * KIB;
/** What is fetched is saved, and seen by the other process, within this time each. */
const SAVED_WITHIN_MS = 1_000;
const STEPS = Number(process.env['RANGE_HISTORY_STEPS'] ?? 16);
const SEEDS = (process.env['RANGE_HISTORY_SEEDS'] ?? '1').split(',').map(Number);

let upstream: FakeUpstream;
let servers: Entrepot[] = [];

afterEach(async () => {
  const [first, ...others] = servers;
  for (const server of others) await server.stop();
  await first?.remove();
  await upstream.stop();
});

/** What the model knows of a layer. */
interface Known {
  readonly blob: Content;
  readonly tag: string;
  /** What was fetched of it since it was last removed. */
  fetched: Extents;
  isStored: boolean;
  /** Whether upstream has sent a wrong byte of it that was kept, which the next whole pull finds out. */
  isCorrupt: boolean;
  wasCorrupt: boolean;
}

/** What upstream was asked to send of the blob, by the requests that succeeded. */
function takeAsked(blob: Content): Extent[] {
  const asked = upstream.requests.filter(
    ({ kind, method, reference, status }) =>
      kind === 'blob' && method === 'GET' && reference === blob.digest && status < 300,
  );
  upstream.requests.length = 0;
  return asked.map(({ headers }) => {
    const [, start = '0', end = ''] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '') ?? [];
    return { start: Number(start), end: end === '' ? blob.size : Number(end) + 1 };
  });
}

it.each(SEEDS)('fetch no byte twice, and none wrong or lost, with seed %i', async seed => {
  const chance = new Chance(seed);
  upstream = await FakeUpstream.start();
  const config = { upstreams: { [UPSTREAM]: { url: upstream.url } }, pulls: { completeRanged: 'never' } };
  const first = await Entrepot.start(config);
  const second = await Entrepot.start({ ...config, storage: { path: join(first.folder, 'store') } });
  servers = [first, second];
  const all: Known[] = Array.from({ length: BLOBS }, (_, at) => {
    const blob = randomBlob(SIZE, `${seed} ${at}`);
    upstream.add('app', imageOf([blob]), `v${at}`);
    return {
      blob,
      tag: `v${at}`,
      fetched: new Extents(),
      isStored: false,
      isCorrupt: false,
      wasCorrupt: false,
    };
  });
  const urlOf = (server: Entrepot, path: string): string => `${server.url}/v2/app/${path}?ns=${UPSTREAM}`;
  const pullManifests = async (server: Entrepot): Promise<void> => {
    for (const { tag } of all) expect((await get(urlOf(server, `manifests/${tag}`))).status).toBe(200);
  };
  for (const server of servers) await pullManifests(server);

  /** Adds what was fetched, none of which may have been there. */
  const account = (known: Known): void => {
    for (const extent of takeAsked(known.blob)) {
      expect(known.fetched.missing(extent)).toEqual([extent]);
      known.fetched.add(extent);
    }
  };

  const steps = {
    async range(server: Entrepot, known: Known): Promise<void> {
      const { blob } = known;
      const start = chance.below(SIZE - MIN_RANGE_BYTES);
      const end = Math.min(SIZE, start + MIN_RANGE_BYTES + chance.below(300 * KIB));
      const isCorrupt = !known.isCorrupt && chance.in(0.1);
      const wasKnown = known.isStored || known.fetched.missing({ start, end }).length === 0;
      if (isCorrupt) upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, corruptByte: 5 });
      const got = await get(urlOf(server, `blobs/${blob.digest}`), {
        headers: { range: `bytes=${start}-${end - 1}` },
      });
      upstream.behave();
      known.isCorrupt ||= isCorrupt && !wasKnown;
      expect([got.status, got.complete, got.bytes]).toEqual([206, true, end - start]);
      const right = createHash('sha256').update(bytesOf(blob).subarray(start, end)).digest('hex');
      expect(known.isCorrupt || got.sha256 === right).toBe(true);
      account(known);
      expect(known.isStored || known.fetched.missing({ start, end }).length === 0).toBe(true);
    },
    async pull(server: Entrepot, known: Known): Promise<void> {
      const { blob } = known;
      const got = await get(urlOf(server, `blobs/${blob.digest}`));
      account(known);
      const isRight = got.complete && got.status === 200 && got.sha256 === blob.digest.slice(7);
      expect(isRight).toBe(!known.isCorrupt);
      if (!isRight) {
        // All of it is fetched anew: the process keeps none of what it had, and reads nothing of the other's.
        Object.assign(known, { fetched: new Extents(), isCorrupt: false, wasCorrupt: true });
        return steps.pull(server, known);
      }
      expect(known.fetched.missing({ start: 0, end: SIZE })).toEqual([]);
      known.isStored = true;
      await until('it to be stored', 60_000, async () => {
        const { headers } = await get(urlOf(server, `blobs/${blob.digest}`));
        return headers['cache-status'] === 'entrepot; hit';
      });
      upstream.requests.length = 0;
    },
    async purge(_: Entrepot, known: Known): Promise<void> {
      // The other process may still have wrong bytes of it.
      if (!known.isStored || known.wasCorrupt) return;
      await first.command('rm', `${UPSTREAM}/app:${known.tag}`, '--purge');
      for (const server of servers) await pullManifests(server);
      upstream.requests.length = 0;
      Object.assign(known, { fetched: new Extents(), isStored: false });
    },
    async collect(): Promise<void> {
      expect((await first.command('gc')).code).toBe(0);
    },
    async kill(server: Entrepot): Promise<void> {
      await sleep(2 * SAVED_WITHIN_MS);
      await server.kill();
      const again = await server.startAgain();
      servers[servers.indexOf(server)] = again;
    },
  };
  const kinds = ['range', 'range', 'range', 'range', 'range', 'pull', 'purge', 'collect', 'kill'] as const;
  let last = first;
  for (let step = 0; step < STEPS; step += 1) {
    const server = chance.pick(servers);
    // What a process has fetched is known to the other when it is saved, and looked for.
    if (server !== last) await sleep(2.5 * SAVED_WITHIN_MS);
    last = server;
    await steps[chance.pick(kinds)](server, chance.pick(all));
  }
  for (const known of all) {
    await sleep(2.5 * SAVED_WITHIN_MS);
    for (let tries = 0; !known.isStored && tries < 2; tries += 1)
      await steps.pull(chance.pick(servers), known);
    expect(known.isStored).toBe(true);
  }
});
