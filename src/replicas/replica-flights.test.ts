// Questions that replicas agree on over real connections.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it, vi } from 'vitest';
import { Latch } from '../../test/support/latch.ts';
import { listen } from '../http/listen.ts';
import { silentLog } from '../lib/log.ts';
import type { ReplicaPlace } from '../metadata/metadata-store.ts';
import {
  type AgoMs,
  type Landing,
  type Packing,
  type SharedFlight,
  SharedFlights,
} from '../mirror/shared-flights.ts';
import { ClusterKeys } from './cluster-keys.ts';
import { ReplicaClient } from './replica-client.ts';
import { ReplicaFlights } from './replica-flights.ts';
import { ReplicaServer } from './replica-server.ts';

const KEYS = new ClusterKeys('a key of the cluster, long enough to use');
const TEXT: Packing<string> = {
  name: 'text',
  pack: answer => answer,
  unpack: async packed => String(packed),
};

const places: ReplicaPlace[] = [];
const opened: { close(): unknown }[] = [];
/** How many questions have reached a replica from others. */
let arrived = 0;

interface OpenReplica {
  readonly flights: SharedFlights;
  readonly client: ReplicaClient;
  readonly address: string;
  readonly close: () => Promise<void>;
}

const ask = (answer: string) => async () => answer;

async function replica(id: string): Promise<OpenReplica> {
  const client = new ReplicaClient(KEYS);
  const calls = new ReplicaFlights({
    replica: id,
    listReplicas: async () => places,
    flyAt: (address, key, agoMs) => client.fly(address, key, agoMs),
  });
  const server = await ReplicaServer.open({
    address: { host: '127.0.0.1', port: 0 },
    tls: KEYS,
    ledFill: async () => undefined,
    own: () => undefined,
    flights: () => {
      arrived += 1;
      return calls.board;
    },
    about: () => undefined,
    log: silentLog,
  });
  const address = `127.0.0.1:${server.port}`;
  places.push({ id, address });
  let isOpen = true;
  const close = async () => {
    if (!isOpen) return;
    isOpen = false;
    client.close();
    await server.close();
  };
  opened.push({ close });
  return { flights: new SharedFlights(calls), client, address, close };
}

afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
  places.length = 0;
  arrived = 0;
});

it('each question is asked by one of all replicas, whichever decides about it', async () => {
  const replicas = [await replica('a'), await replica('b'), await replica('c')];
  const asked: string[] = [];
  const latch = new Latch();
  const keys = Array.from({ length: 12 }, (_, at) => `question ${at}`);
  const answers = keys.flatMap(key =>
    replicas.map(({ flights }) =>
      flights.run(key, TEXT, async () => {
        asked.push(key);
        await latch.opened;
        return `the answer to ${key}`;
      }),
    ),
  );
  while (asked.length < keys.length || arrived < 2 * keys.length) await sleep(5);
  latch.open();
  expect(await Promise.all(answers)).toEqual(keys.flatMap(key => replicas.map(() => `the answer to ${key}`)));
  expect(asked.toSorted()).toEqual(keys.toSorted());
});

it('an answer is that of whoever began before it came, whichever replica decides about the question', async () => {
  const replicas = [await replica('a'), await replica('b')];
  const [one, two] = replicas;
  const sinceMs = performance.now();
  for (let at = 0; at < 8; at += 1) {
    await one!.flights.run(`question ${at}`, TEXT, ask('an answer'));
    expect(await two!.flights.run(`question ${at}`, TEXT, ask('another'), { sinceMs })).toBe('an answer');
    expect(await two!.flights.run(`question ${at}`, TEXT, ask('a later one'))).toBe('a later one');
    expect(await two!.flights.run(`question ${at}`, TEXT, ask('the last'), { sinceMs })).toBe('a later one');
  }
});

it.each([undefined, 0, -1, Number.NaN, Number.POSITIVE_INFINITY])(
  'a replica that says that it began %s ms ago gets no answer from before',
  async agoMs => {
    const { flights, client, address } = await replica('a');
    await flights.run('question', TEXT, async () => 'an answer');
    const flight = await client.fly(address, 'text question', agoMs === undefined ? undefined : () => agoMs);
    expect(flight).toHaveProperty('land');
    expect(await client.fly(address, 'text question', () => 60_000)).toMatchObject({
      landing: { answer: 'an answer' },
    });
  },
);

it('how long ago a question began is said when there is a connection to say it over', async () => {
  const { client, address } = await replica('a');
  const latch = new Latch();
  const { hostname, port } = new URL(`https://${address}`);
  const slow = createServer(socket => {
    void latch.opened.then(() => socket.pipe(connect(Number(port), hostname)).pipe(socket));
  });
  opened.push(slow);
  const slowPort = await listen(slow, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
  const agoMs = vi.fn<AgoMs>(() => 1);
  const flying = client.fly(`127.0.0.1:${slowPort}`, 'question', agoMs);
  await once(slow, 'connection');
  expect(agoMs).not.toHaveBeenCalled();
  latch.open();
  expect(await flying).toHaveProperty('land');
  expect(agoMs).toHaveBeenCalledOnce();
});

it('another one asks if who has begun to ask is gone, or fails in a way that says nothing', async () => {
  const [one, two] = [await replica('a'), await replica('b')];
  for (let at = 0; at < 8; at += 1) {
    const latch = new Latch();
    const asking = new Latch();
    const first = one.flights.run(`question ${at}`, TEXT, async () => {
      asking.open();
      await latch.opened;
      throw new Error('a bug');
    });
    first.catch(() => {});
    await asking.opened;
    const second = two.flights.run(`question ${at}`, TEXT, async () => 'an answer');
    latch.open();
    await expect(first).rejects.toThrow('a bug');
    expect(await second).toBe('an answer');
  }
});

it('a lead that comes too late, from a replica that decided before, ends no other', async () => {
  vi.useFakeTimers({ toFake: ['performance', 'setTimeout', 'clearTimeout'] });
  try {
    const ended: unknown[] = [];
    const leads = new Map(['b', 'c'].map(address => [address, new Latch()]));
    const calls = new ReplicaFlights({
      replica: 'a',
      listReplicas: async () => places,
      flyAt: async address => {
        await leads.get(address)?.opened;
        return { land: landing => ended.push([address, landing]) };
      },
    });
    const flights = new SharedFlights(calls);
    places.push({ id: 'b', address: 'b' });
    const impatient = flights.run('question', TEXT, async () => 'an answer');
    await vi.advanceTimersByTimeAsync(60_000);
    expect(await impatient).toBe('an answer');
    places.splice(0, 1, { id: 'c', address: 'c' });
    const asked = new Latch();
    leads.get('c')?.open();
    const leading = flights.run('question', TEXT, async () => {
      leads.get('b')?.open();
      await asked.opened;
      return 'a later answer';
    });
    await vi.waitFor(() => expect(ended).toContainEqual(['b', 'lost']));
    asked.open();
    await leading;
    expect(ended).toEqual([
      ['b', 'lost'],
      ['c', { answer: 'a later answer', ledForMs: expect.any(Number) }],
    ]);
  } finally {
    vi.useRealTimers();
  }
});

it('a replica that cannot be reached is not waited for', async () => {
  const [one, two] = [await replica('a'), await replica('b')];
  await two.close();
  const answers = Array.from({ length: 8 }, (_, at) =>
    one.flights.run(`question ${at}`, TEXT, async () => 'an answer'),
  );
  expect(new Set(await Promise.all(answers))).toEqual(new Set(['an answer']));
});

it('so few questions wait for other replicas that connections for everything else remain', async () => {
  const waiting: ((flight: SharedFlight) => void)[] = [];
  const calls = new ReplicaFlights({
    replica: 'a',
    listReplicas: async () => [{ id: 'b', address: 'b' }],
    flyAt: () => new Promise(resolve => void waiting.push(resolve)),
  });
  const flights = Array.from({ length: 512 }, (_, at) => calls.fly(`question ${at}`));
  expect(await calls.fly('one more')).toEqual({ landing: 'lost' });
  const landed: Landing[] = [];
  waiting.shift()?.({ land: landing => void landed.push(landing) });
  const lead = await flights[0]!;
  expect(await calls.fly('one more')).toEqual({ landing: 'lost' });
  if ('land' in lead) lead.land('lost');
  expect(landed).toEqual(['lost']);
  void calls.fly('one more');
  await vi.waitFor(() => expect(waiting).toHaveLength(512));
});
