// What a replica finds out of others over real connections, by a clock that the tests move on.
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import type { GoneReplica, ReplicaPlace } from '../metadata/metadata-store.ts';
import { ClusterKeys } from './cluster-keys.ts';
import { ReplicaClient } from './replica-client.ts';
import { ReplicaServer } from './replica-server.ts';
import { ReplicaWatch } from './replica-watch.ts';

const KEYS = new ClusterKeys('a key of the cluster, long enough to use');
const OTHER_KEYS = new ClusterKeys('another key, which is also long enough to use');
const AGAIN_MS = 5_000;
const EACH_MS = 10_000;

let clock: ManualClock;
let places: ReplicaPlace[];
let gone: GoneReplica[];
let opened: { close(): unknown }[];
let lines: { readonly level: string; readonly text: string; readonly fields: object }[];
let client: ReplicaClient;
let watch: ReplicaWatch;

beforeEach(() => {
  clock = new ManualClock();
  places = [{ id: 'own', address: '127.0.0.1:1' }];
  gone = [];
  opened = [];
  lines = [];
  const note = (level: string) => (fields: object, text: string) => void lines.push({ level, text, fields });
  client = new ReplicaClient(KEYS, { noteAway: address => watch.noteAway(address) });
  watch = new ReplicaWatch({
    replica: 'own',
    listReplicas: async () => places,
    listGoneReplicas: async () => gone,
    ask: address => client.about(address),
    clock,
    log: { ...silentLog, info: note('info'), warn: note('warn') },
  });
});

afterEach(async () => {
  watch.close();
  client.close();
  for (const each of opened) await each.close();
});

/** Starts a replica; `listed`: how the index lists it. */
async function replica(
  id: string,
  { keys = KEYS, port = 0, listed = id }: { keys?: ClusterKeys; port?: number; listed?: string } = {},
): Promise<{ readonly address: string; readonly port: number; readonly close: () => Promise<void> }> {
  const server = await ReplicaServer.open({
    address: { host: '127.0.0.1', port },
    tls: keys,
    ledFill: async () => undefined,
    own: () => undefined,
    flights: () => undefined,
    about: () => ({ id, startedAtMs: 17, downloads: ['sha256:abc'] }),
    log: silentLog,
  });
  let isOpen = true;
  const close = async () => {
    if (isOpen) await server.close();
    isOpen = false;
  };
  opened.push({ close });
  const address = `127.0.0.1:${server.port}`;
  places = [...places.filter(place => place.id !== listed), { id: listed, address }];
  return { address, port: server.port, close };
}

/** Resolves when all were asked and this waits for the next time. */
const waiting = (ms: number) => clock.timer(ms);

/** As often as it takes until the watch is sure. */
async function becomeSure(): Promise<void> {
  watch.begin();
  for (let times = 0; times < 2; times += 1) await clock.pass(AGAIN_MS);
  await waiting(AGAIN_MS);
}

it('finds those that answer, and asks them again every now and then', async () => {
  const { address } = await replica('b');
  watch.begin();
  await waiting(EACH_MS);
  const about = { id: 'b', startedAtMs: 17, downloads: ['sha256:abc'] };
  expect(watch.others).toMatchObject([{ address, state: 'reached', sinceMs: clock.nowMs(), about }]);
  const further = await replica('c');
  await clock.pass(EACH_MS);
  await waiting(EACH_MS);
  expect(watch.others.map(other => other.address).toSorted()).toEqual([address, further.address].toSorted());
  expect([watch.problems, lines]).toEqual([[], []]);
});

it('says once that another one has another key, and once that it has this one’s', async () => {
  const sinceMs = clock.nowMs();
  const other = await replica('b', { keys: OTHER_KEYS });
  await becomeSure();
  expect(watch.others).toMatchObject([
    { address: other.address, state: 'unreachable', trouble: 'key', sinceMs },
  ]);
  expect(watch.problems).toEqual([
    expect.stringMatching(
      /^1 of 1 other replicas cannot be asked .*: content may be downloaded more than once/,
    ),
  ]);
  expect(watch.problems[0]).not.toContain(other.address);
  await clock.pass(AGAIN_MS);
  await waiting(AGAIN_MS);
  await other.close();
  await replica('b', { port: other.port });
  await clock.pass(AGAIN_MS);
  await waiting(EACH_MS);
  expect([watch.others[0]?.state, watch.problems]).toEqual(['reached', []]);
  expect(lines).toMatchObject([
    // Without a stack: nothing is wrong with the program.
    { level: 'warn', fields: { replica: other.address, reason: 'key', detail: expect.any(String) } },
    { level: 'info', fields: { replica: other.address, reason: 'key', forMs: 20_000 } },
  ]);
  expect(lines[0]?.fields).not.toHaveProperty('err');
});

it('tells a closed port from an address at which something else answers', async () => {
  const closed = await replica('closed');
  await closed.close();
  await replica('mistaken', { listed: 'b' });
  const web: Server = createServer((_req, res) => res.end()).listen(0, '127.0.0.1');
  await once(web, 'listening');
  opened.push({ close: () => new Promise(resolve => web.close(resolve)) });
  const bound = web.address();
  places.push({ id: 'web', address: `127.0.0.1:${typeof bound === 'object' ? bound?.port : ''}` });
  await becomeSure();
  const found = places.slice(1).map(({ address }) => watch.others.find(other => other.address === address));
  expect(found.map(other => other?.trouble)).toEqual(['unreachable', 'another', 'another']);
  expect(lines.map(({ level }) => level)).toEqual(['warn', 'warn', 'warn']);
});

it('says nothing of one that was killed, as long as it is only still listed', async () => {
  const other = await replica('b');
  watch.begin();
  await waiting(EACH_MS);
  await other.close();
  await clock.pass(EACH_MS);
  await waiting(AGAIN_MS);
  expect([watch.others[0]?.state, watch.problems]).toEqual(['reached', []]);
  places = places.filter(({ id }) => id !== 'b');
  await clock.pass(AGAIN_MS);
  await waiting(EACH_MS);
  expect([watch.others, lines]).toEqual([[], []]);
});

it('says that one which could not be asked is gone', async () => {
  await replica('b', { keys: OTHER_KEYS });
  await becomeSure();
  places = places.filter(({ id }) => id !== 'b');
  await clock.pass(AGAIN_MS);
  await waiting(EACH_MS);
  expect(watch.problems).toEqual([]);
  expect(lines.map(({ text }) => text).at(-1)).toBe('a replica that could not be asked is gone');
});

it('looks at once when one that is needed does not answer', async () => {
  const other = await replica('b');
  watch.begin();
  await waiting(EACH_MS);
  await other.close();
  await expect(client.fly(other.address, 'a question')).rejects.toThrow('cannot be reached');
  await waiting(AGAIN_MS);
  const sinceMs = clock.nowMs();
  for (let times = 0; times < 2; times += 1) await clock.pass(AGAIN_MS);
  await waiting(AGAIN_MS);
  expect(watch.others).toMatchObject([{ state: 'unreachable', sinceMs }]);
});

it('reports once that one disappeared without shutting down, and stops asking it', async () => {
  const { address, close } = await replica('b');
  watch.begin();
  await waiting(EACH_MS);
  await close();
  const goneSinceMs = clock.nowMs();
  gone = [{ id: 'b', address, goneSinceMs }];
  await clock.pass(EACH_MS);
  await waiting(EACH_MS);
  expect(watch.others).toMatchObject([{ address, state: 'gone', sinceMs: goneSinceMs }]);
  const since = new Date(goneSinceMs).toISOString();
  expect(watch.problems).toEqual([
    `a replica disappeared without shutting down, last seen at ${since} (see entrepot status)`,
  ]);
  await clock.pass(EACH_MS);
  await waiting(EACH_MS);
  expect(lines).toMatchObject([{ level: 'warn', fields: { replica: address, since } }]);
  gone = [];
  places = [];
  await clock.pass(EACH_MS);
  await waiting(EACH_MS);
  expect([watch.others, watch.problems]).toEqual([[], []]);
});

it('does not report itself as gone, as others do after it was suspended', async () => {
  const { address } = await replica('b');
  const goneSinceMs = clock.nowMs();
  gone = [{ id: 'own', address: '127.0.0.1:1', goneSinceMs }];
  watch.begin();
  await waiting(EACH_MS);
  expect(watch.others).toMatchObject([{ address, state: 'reached' }]);
  expect([watch.problems, lines]).toEqual([[], []]);
});

it('knows what it knew while the index does not say who is there', async () => {
  const { address } = await replica('b');
  watch.begin();
  await waiting(EACH_MS);
  const list = places;
  let asked = 0;
  watch.close();
  watch = new ReplicaWatch({
    replica: 'own',
    listReplicas: async () => {
      asked += 1;
      if (asked > 1) throw new Error('no database');
      return list;
    },
    listGoneReplicas: async () => gone,
    ask: to => client.about(to),
    clock,
    log: silentLog,
  });
  watch.begin();
  await waiting(EACH_MS);
  await clock.pass(EACH_MS);
  await waiting(EACH_MS);
  expect(asked).toBe(2);
  expect(watch.others).toMatchObject([{ address, state: 'reached' }]);
});
