import { afterEach, beforeEach, expect, it } from 'vitest';
import { type Log, silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { silentMeter } from '../lib/meter.ts';
import { MemoryIndex } from '../metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { EndpointClient } from './endpoint-client.ts';
import { EventSender } from './event-sender.ts';
import { Receiver, type ReceiverAnswer } from './receiver.fixture.ts';

const SOURCE = { uri: '//node-1', host: 'node-1' };
/** Longer than any pause of a busy machine. */
const TIMEOUT_MS = 30_000;
/** What a hanging receiver costs the test. */
const SHORT_TIMEOUT_MS = 100;

let index: MemoryIndex;
let clock: ManualClock;
let receiver: Receiver;
let senders: EventSender[];

beforeEach(async () => {
  index = new MemoryIndex();
  // Back-offs need not be seen.
  clock = new ManualClock().skipWaits(600_000);
  receiver = await Receiver.start();
  senders = [];
});

afterEach(async () => {
  await Promise.all(senders.map(sender => sender.close()));
  await receiver.close();
});

async function put(store: MetadataStore, repository: string, from: number, to: number): Promise<void> {
  const messages = Array.from({ length: to - from }, (_, at) => ({
    endpoint: 'ci',
    atMs: clock.nowMs(),
    body: JSON.stringify({
      id: `${repository} ${from + at}`,
      kind: 'push',
      atMs: 0,
      repository,
      size: from + at,
    }),
  }));
  await store.outbox?.put(messages);
}

function begin(
  store: MetadataStore,
  { timeoutMs = TIMEOUT_MS, log = silentLog, onChange = (): void => {} } = {},
): EventSender {
  const client = new EndpointClient({
    endpoint: {
      name: 'ci',
      url: receiver.url,
      format: 'distribution',
      headers: {},
      signingKey: undefined,
      ca: undefined,
      timeoutMs,
      eventsPerRequest: 7,
    },
    source: SOURCE,
    proxy: undefined,
    userAgent: 'entrepot',
    clock,
  });
  if (store.outbox === undefined) throw new Error('it has no outbox');
  const needs = {
    name: 'ci',
    client,
    outbox: store.outbox,
    leases: store,
    clock,
    log,
    meter: silentMeter,
    onChange,
  };
  const sender = EventSender.begin(needs);
  senders.push(sender);
  return sender;
}

const isEmpty = async (store: MetadataStore) => (await store.outbox?.readState('ci'))?.waiting === 0;

/** The sizes of the events that the receiver has accepted, each at its first arrival. */
function accepted(bodies: readonly string[], repository: string): readonly number[] {
  const sizes = bodies.flatMap(body => {
    const { events }: { events: { target: { repository: string; size: number } }[] } = JSON.parse(body);
    return events.filter(({ target }) => target.repository === repository).map(({ target }) => target.size);
  });
  return [...new Set(sizes)];
}

const upTo = (count: number) => Array.from({ length: count }, (_, number) => number);

it('sends what waits, in order, as many at once as the endpoint takes', async () => {
  const store = index.open();
  await put(store, 'team-a/app', 0, 20);
  begin(store);
  await expect.poll(() => isEmpty(store)).toBe(true);
  expect(receiver.received.map(({ body }) => JSON.parse(body).events.length)).toEqual([7, 7, 6]);
  expect(
    accepted(
      receiver.received.map(({ body }) => body),
      'team-a/app',
    ),
  ).toEqual(upTo(20));
});

it('an endpoint that fails, hangs, breaks connections and redirects gets all in the end, in order', async () => {
  const store = index.open();
  const answers: ReceiverAnswer[] = [500, 'hang', { location: 'http://127.0.0.1:1/' }, 'reset', 429, 204];
  const bodies: string[] = [];
  let asked = 0;
  receiver.answer = ({ body }) => {
    const answer = answers[asked % answers.length] ?? 204;
    asked += 1;
    if (answer === 204) bodies.push(body);
    return answer;
  };
  await put(store, 'team-a/app', 0, 40);
  await put(store, 'team-b/app', 0, 10);
  await put(store, 'team-a/app', 40, 60);
  begin(store, { timeoutMs: SHORT_TIMEOUT_MS });
  await expect.poll(() => isEmpty(store)).toBe(true);
  expect(accepted(bodies, 'team-a/app')).toEqual(upTo(60));
  expect(accepted(bodies, 'team-b/app')).toEqual(upTo(10));
});

it('one of several processes sends, and another one when that has ended', async () => {
  const [one, other] = [index.open(), index.open()];
  const first = begin(one);
  await put(one, 'team-a/app', 0, 10);
  await expect.poll(() => isEmpty(one)).toBe(true);
  const second = begin(other);
  await put(other, 'team-a/app', 10, 20);
  await expect.poll(() => isEmpty(one)).toBe(true);
  expect([first.isSending, second.isSending]).toEqual([true, false]);
  await first.close();
  await one.close();
  await put(other, 'team-a/app', 20, 30);
  await expect.poll(() => isEmpty(other)).toBe(true);
  expect(second.isSending).toBe(true);
  const all = receiver.received.flatMap(({ body }) => JSON.parse(body).events);
  expect(all.map(({ target }) => target.size)).toEqual(upTo(30));
});

it('says once that the endpoint fails, and when it accepts events again', async () => {
  const store = index.open();
  const said: string[] = [];
  const log: Log = { ...silentLog, warn: (_: object, words: string) => void said.push(words) };
  log.info = (_: object, words: string) => void said.push(words);
  let failures = 3;
  receiver.answer = () => ((failures -= 1) >= 0 ? 503 : 204);
  await put(store, 'team-a/app', 0, 1);
  const sender = begin(store, { log });
  await expect.poll(() => isEmpty(store)).toBe(true);
  expect(said).toEqual([
    'an endpoint of notifications fails: its events wait',
    'an endpoint of notifications accepts events again',
  ]);
  expect(sender.problem).toBeUndefined();
});

it('what has waited for more than a week is dropped', async () => {
  const store = index.open();
  await put(store, 'team-a/app', 0, 3);
  clock.set(clock.nowMs() + 8 * 24 * 3_600_000);
  await put(store, 'team-a/app', 3, 5);
  begin(store);
  await expect.poll(() => isEmpty(store)).toBe(true);
  expect(
    accepted(
      receiver.received.map(({ body }) => body),
      'team-a/app',
    ),
  ).toEqual([3, 4]);
  expect((await store.outbox?.readState('ci'))?.dropped).toBe(3);
});

it('a receiver that is asked while it is closed answers before the sender ends', async () => {
  const store = index.open();
  const answers: ((status: number) => void)[] = [];
  receiver.answer = () => new Promise(resolve => void answers.push(resolve));
  await put(store, 'team-a/app', 0, 1);
  const sender = begin(store);
  await expect.poll(() => receiver.received).toHaveLength(1);
  const closed = sender.close();
  answers[0]?.(204);
  await closed;
  expect(await isEmpty(store)).toBe(true);
});

/** Refuses whatever has the event of this size, and nothing else. */
function refusing(size: number): string[][] {
  const sizes: string[][] = [];
  receiver.answer = ({ body }) => {
    const { events }: { events: { id: string; target: { size: number } }[] } = JSON.parse(body);
    sizes.push(events.map(({ id }) => id));
    return events.some(({ target }) => target.size === size) ? 422 : 204;
  };
  return sizes;
}

it('finds the event that an endpoint refuses, without sending those behind it, and goes on when it is skipped', async () => {
  const store = index.open();
  const said: object[] = [];
  const log: Log = { ...silentLog, warn: (fields: object) => void said.push(fields) };
  const sent = refusing(4);
  await put(store, 'team-a/app', 0, 20);
  // It stands still once it has found the event.
  clock.skipWaits(0);
  const sender = begin(store, { log });
  await expect.poll(() => sender.problem?.refused).toBe('team-a/app 4');
  expect(sender.problem?.reason).toBe('it answered 422 to push of team-a/app');
  expect(said).toMatchObject([{ endpoint: 'ci', event: 'team-a/app 4' }]);
  expect((await store.outbox?.readState('ci'))?.waiting).toBe(16);
  const [blocking] = (await store.outbox?.listNext('ci', 1)) ?? [];
  const position = blocking?.position ?? 0;
  await store.outbox?.skip('ci', { from: position, to: position });
  sender.hurry();
  await expect.poll(() => isEmpty(store)).toBe(true);
  expect(sender.problem).toBeUndefined();
  const arrived = sent.filter(ids => !ids.includes('team-a/app 4')).flat();
  expect(arrived).toEqual(upTo(20).flatMap(number => (number === 4 ? [] : `team-a/app ${number}`)));
});

it('has no problem any more when what was refused is skipped, and nothing else waits', async () => {
  const store = index.open();
  refusing(0);
  await put(store, 'team-a/app', 0, 1);
  clock.skipWaits(0);
  // The first change is that it sends.
  const problems: (string | undefined)[] = [];
  const sender = begin(store, { onChange: () => problems.push(sender.problem?.refused) });
  await expect.poll(() => problems).toEqual([undefined, 'team-a/app 0']);
  await store.outbox?.skip('ci', { from: 0, to: Number.MAX_SAFE_INTEGER });
  sender.hurry();
  await expect.poll(() => problems).toEqual([undefined, 'team-a/app 0', undefined]);
});

it('waits for an endpoint that fails in another way with as many events as before', async () => {
  const store = index.open();
  const sizes: number[] = [];
  receiver.answer = ({ body }) => {
    sizes.push(JSON.parse(body).events.length);
    return sizes.length < 4 ? 403 : 204;
  };
  await put(store, 'team-a/app', 0, 7);
  begin(store);
  await expect.poll(() => isEmpty(store)).toBe(true);
  expect(sizes).toEqual([7, 7, 7, 7]);
});
