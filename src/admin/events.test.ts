import http from 'node:http';
import { setImmediate } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { eventSchemas, type EventName } from './documents/events.ts';
import type { FillDocument } from './documents/fills.ts';
import type { ReplicaDocument } from './documents/replicas.ts';
import { AdminEvents, type Observed } from './events.ts';
import { Refusals } from './refusals.ts';

const saved = { sentBytes: 0, fetchedBytes: 0, savedBytes: 0, since: '2026-01-01T00:00:00.000Z' };
const idle: Observed = {
  fills: [],
  queue: { running: 0, waiting: 0, maxConnections: 1, maxImagePulls: null, requesters: [] },
  overview: {
    ready: null,
    problems: [],
    saved: { sinceStart: saved, inAll: saved },
    store: {
      heldBytes: 0,
      unfinishedBytes: 0,
      maxBytes: null,
      freeBytes: 1,
      minFreeBytes: 1,
      blobs: 0,
      damaged: 0,
    },
    now: { downloading: 0, queued: 0, readers: 0, backoffs: 0, tasks: 0 },
    firstBytes: [],
    canLogIn: false,
    push: null,
    today: null,
  },
  upstreams: [],
  replicas: { entries: [] },
};

function digestOfFill(id: string): string {
  return `sha256:${id.repeat(64)}`;
}

function fillOf(id: string, bytes: number): FillDocument {
  return {
    id,
    upstream: 'docker.io',
    repository: 'docker.io/library/app',
    digest: digestOfFill(id),
    kind: 'whole',
    state: 'downloading',
    bytes,
    size: 100,
    readers: 1,
    requesters: ['anonymous'],
    started: '2026-01-01T00:00:00.000Z',
    holder: null,
    bytesPerSecond: null,
    remainingSeconds: null,
  };
}

interface Heard {
  readonly id: string;
  readonly name: string;
  readonly data: unknown;
}

/** A client of the stream. */
class Listener {
  text = '';
  status = 0;
  isClosed = false;
  readonly #request: http.ClientRequest;
  #response: http.IncomingMessage | undefined;

  constructor(
    port: number,
    {
      lastId,
      isSlow = false,
      who = '/',
    }: { readonly lastId?: string; readonly isSlow?: boolean; readonly who?: string } = {},
  ) {
    const headers = lastId === undefined ? {} : { 'Last-Event-ID': lastId };
    this.#request = http.get({ port, host: '127.0.0.1', path: who, headers, agent: false }, response => {
      this.#response = response;
      this.status = response.statusCode ?? 0;
      response.setEncoding('utf8');
      if (!isSlow) this.resume();
      response.once('close', () => (this.isClosed = true));
      response.on('error', () => {});
    });
    this.#request.on('error', () => {});
  }

  resume(): void {
    this.#response?.on('data', (text: string) => (this.text += text));
  }

  get events(): readonly Heard[] {
    return this.text
      .split('\n\n')
      .filter(block => block.includes('event: '))
      .map(block => {
        const member = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(block)?.[1] ?? '';
        return { id: member('id'), name: member('event'), data: JSON.parse(member('data')) };
      });
  }

  names(): readonly string[] {
    return this.events.map(({ name }) => name);
  }

  last(name: EventName): unknown {
    return this.events.findLast(event => event.name === name)?.data;
  }

  leave(): void {
    this.#request.destroy();
  }
}

let close: (() => Promise<void>) | undefined;

afterEach(async () => {
  await close?.();
  close = undefined;
});

/** Whoever it takes so long to find out about that he has left by then. */
const LATE = '/late-found';

async function serve(state: { now: Observed; isIndexAway?: boolean }) {
  const refusals = new Refusals();
  const clock = new ManualClock();
  let looks = 0;
  const events = new AdminEvents({
    observe: async () => {
      looks += 1;
      return state.now;
    },
    isStored: async digest => {
      if (state.isIndexAway === true) throw new Error('the index is away');
      return digest === digestOfFill('a');
    },
    refusals,
    clock,
    log: silentLog,
  });
  const streams: http.ServerResponse[] = [];
  const server = http.createServer((req, res) => {
    streams.push(res);
    const follow = () => events.follow(req, res, req.url ?? '');
    if (req.url === LATE) res.once('close', follow);
    else follow();
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  close = async () => {
    await events.close();
    server.closeAllConnections();
    await new Promise(resolve => server.close(resolve));
  };
  return { events, refusals, port, clock, streams, looks: () => looks };
}

async function follows(events: AdminEvents, clients: number): Promise<void> {
  await expect.poll(() => events.clients, { interval: 5 }).toBe(clients);
}

it('looks at nothing while nobody follows, and once a second for all who do', async () => {
  const { events, port, clock, looks } = await serve({ now: idle });
  await clock.advance(60_000);
  expect(looks()).toBe(0);
  const clients = [1, 2, 3].map(() => new Listener(port));
  await follows(events, 3);
  await clock.advance(1_000);
  await clock.advance(1_000);
  expect(looks()).toBe(2);
  for (const client of clients) client.leave();
  await follows(events, 0);
  await clock.advance(60_000);
  expect(looks()).toBe(2);
});

it('says which replicas there are as soon as one is no longer reached', async () => {
  const since = '2026-01-01T00:00:00.000Z';
  const reached = { state: 'reached', reason: null, since, started: since, downloads: [] } as const;
  const own: ReplicaDocument = { ...reached, address: '192.0.2.1:5002', isOwn: true };
  const other: ReplicaDocument = { ...reached, address: '192.0.2.2:5002', isOwn: false };
  const state = { now: { ...idle, replicas: { entries: [own, other] } } };
  const { events, port, clock } = await serve(state);
  const client = new Listener(port);
  await follows(events, 1);
  await clock.advance(1_000);
  await expect.poll(() => client.last('replicas')).toEqual({ entries: [own, other] });
  const away: ReplicaDocument = { ...other, state: 'unreachable', reason: 'key' };
  state.now = { ...idle, replicas: { entries: [own, away] } };
  await clock.advance(1_000);
  await expect.poll(() => client.last('replicas')).toEqual({ entries: [own, away] });
  expect(eventSchemas.replicas.parse(client.last('replicas'))).toEqual(client.last('replicas'));
});

it('says first that everything has to be asked for, then only what has changed', async () => {
  const state = { now: idle };
  const { events, port, clock } = await serve(state);
  const client = new Listener(port);
  await follows(events, 1);
  await clock.advance(1_000);
  await expect.poll(() => client.names()).toEqual(['reset', 'queue', 'overview', 'backoffs']);
  state.now = { ...idle, fills: [fillOf('a', 1), fillOf('b', 1)] };
  await clock.advance(1_000);
  await expect
    .poll(() => client.last('fills'))
    .toMatchObject({ changed: [{ id: 'a' }, { id: 'b' }], gone: [], total: 2 });
  state.now = { ...idle, fills: [fillOf('b', 50)] };
  await clock.advance(1_000);
  await expect
    .poll(() => client.last('fills'))
    .toMatchObject({ changed: [{ id: 'b', bytes: 50 }], gone: [{ id: 'a', stored: true }], total: 1 });
  state.now = idle;
  await clock.advance(1_000);
  await expect
    .poll(() => client.last('fills'))
    .toMatchObject({ changed: [], gone: [{ id: 'b', stored: false }], total: 0 });
  const before = client.events.length;
  await clock.advance(1_000);
  events.note('images');
  await clock.advance(1_000);
  await expect.poll(() => client.names().slice(before)).toEqual(['images']);
  for (const { name, data } of client.events) {
    const schema = Object.entries(eventSchemas).find(([known]) => known === name)?.[1];
    expect(schema?.parse(data)).toEqual(data);
  }
  expect(new Set(client.events.map(({ id }) => id)).size).toBe(client.events.length);
});

it('says later what it could not find out at once', async () => {
  const state: Parameters<typeof serve>[0] = { now: { ...idle, fills: [fillOf('a', 1)] } };
  const { events, port, clock } = await serve(state);
  const client = new Listener(port);
  await follows(events, 1);
  await clock.advance(1_000);
  await expect.poll(() => client.last('fills')).toMatchObject({ total: 1 });
  const queue = { ...idle.queue, waiting: 7 };
  state.now = { ...idle, queue };
  state.isIndexAway = true;
  await clock.advance(1_000);
  state.isIndexAway = false;
  await clock.advance(1_000);
  await expect
    .poll(() => client.last('fills'))
    .toMatchObject({ gone: [{ id: 'a', stored: true }], total: 0 });
  expect(client.last('queue')).toEqual(queue);
});

it('lets a client go on that has missed nothing, and says to another to begin again', async () => {
  const state = { now: idle };
  const { events, port, clock } = await serve(state);
  const [stays, leaves] = [new Listener(port), new Listener(port)];
  await follows(events, 2);
  await clock.advance(1_000);
  await expect.poll(() => leaves.events.length).toBe(4);
  const lastId = leaves.events.at(-1)?.id ?? '';
  leaves.leave();
  await follows(events, 1);
  const back = new Listener(port, { lastId });
  await follows(events, 2);
  await expect.poll(() => back.text).toContain(': go on');
  expect(back.names()).toEqual([]);
  events.note('tenants');
  await clock.advance(1_000);
  await expect.poll(() => stays.names().at(-1)).toBe('tenants');
  const late = new Listener(port, { lastId });
  await expect.poll(() => late.names()).toEqual(['reset']);
});

it('says at most once a second how a task is', async () => {
  const { events, port, clock } = await serve({ now: idle });
  const client = new Listener(port);
  await follows(events, 1);
  const task = {
    id: 'one',
    action: 'gc' as const,
    subject: null,
    by: 'ops',
    state: 'running' as const,
    started: '2026-01-01T00:00:00.000Z',
    ended: null,
    step: null,
    items: 0,
    bytes: 0,
    totalBytes: null,
    message: null,
    result: null,
  };
  for (let items = 0; items <= 1_000; items += 1) events.noteTask({ ...task, items });
  await clock.advance(1_000);
  await expect.poll(() => client.last('task')).toMatchObject({ items: 1_000 });
  expect(client.names().filter(name => name === 'task')).toHaveLength(1);
});

it('says of each refusal once, even of one that comes later than another of its time', async () => {
  const { events, refusals, port, clock } = await serve({ now: idle });
  const refuse = (reference: string, atMs: number) =>
    refusals.add({
      atMs,
      times: 1,
      requester: 'team-a',
      remote: '192.0.2.1',
      repository: 'docker.io/library/app',
      reference,
      method: 'GET',
      status: 403,
      code: 'DENIED',
      reason: 'DENIED: no',
    });
  refuse('before', 1_000);
  const client = new Listener(port);
  await follows(events, 1);
  const told = () => client.events.filter(({ name }) => name === 'refusals').map(({ data }) => data);
  refuse('first', 2_000);
  await clock.advance(1_000);
  await expect.poll(told).toMatchObject([{ changed: [{ reference: 'first' }] }]);
  refuse('same-ms', 2_000);
  await clock.advance(1_000);
  await expect.poll(() => told().slice(1)).toMatchObject([{ changed: [{ reference: 'same-ms' }] }]);
  refuse('of-another-process', 1_500);
  await clock.advance(1_000);
  await expect
    .poll(() => told().slice(2))
    .toMatchObject([{ changed: [{ reference: 'of-another-process' }], more: false }]);
});

it('lists so many at most, and says that there are more', async () => {
  const many = Array.from({ length: 1_000 }, (_, at) => fillOf(String(at), 0));
  const { events, port, clock } = await serve({ now: { ...idle, fills: many } });
  const client = new Listener(port);
  await follows(events, 1);
  await clock.advance(1_000);
  await expect.poll(() => client.last('fills')).toMatchObject({ total: 1_000, more: true });
  expect(JSON.stringify(client.last('fills')).length).toBeLessThan(200_000);
});

function upstreamsAt(at: number): Observed['upstreams'] {
  const rest = { lastAnswer: null, lastError: null, budgets: [], backoffs: 0, firstBytes: [], login: null };
  const mirrors = ['x'.repeat(100_000)];
  return [{ name: 'docker.io', url: `https://${at}`, mirrors, state: 'ok', ...rest }];
}

/** Lets something happen each second until some of it waits for the client of the first stream. */
async function untilSomeWaits(
  state: { now: Observed },
  { streams: [stream], clock }: Pick<Awaited<ReturnType<typeof serve>>, 'streams' | 'clock'>,
): Promise<void> {
  const doesWait = () => stream !== undefined && stream.writableLength > 0;
  for (let at = 0; at < 200 && !doesWait(); at += 1) {
    state.now = { ...idle, upstreams: upstreamsAt(at) };
    await clock.advance(1_000);
    // What the system takes leaves meanwhile.
    await setImmediate();
  }
  expect(doesWait()).toBe(true);
}

it('takes nobody for a client who has left by then', async () => {
  const { events, port, streams, looks, clock } = await serve({ now: idle });
  const gone = new Listener(port, { who: LATE });
  await expect.poll(() => streams.length).toBe(1);
  gone.leave();
  await expect.poll(() => streams[0]?.closed).toBe(true);
  await clock.advance(1_000);
  expect([events.clients, looks()]).toEqual([0, 0]);
});

it('goes on for others when a stream was ended whose client does not read', async () => {
  const state = { now: idle };
  const served = await serve(state);
  const { events, port, clock, streams } = served;
  const slow = new Listener(port, { isSlow: true });
  await follows(events, 1);
  const quick = new Listener(port);
  await follows(events, 2);
  await untilSomeWaits(state, served);
  // As when its client may not read any more.
  streams[0]?.end();
  state.now = { ...idle, upstreams: upstreamsAt(-1) };
  await clock.advance(1_000);
  await expect.poll(() => quick.last('upstreams')).toMatchObject({ changed: [{ url: 'https://-1' }] });
  await follows(events, 1);
  slow.leave();
});

it('keeps nothing for a client that had to make room and does not read', async () => {
  const state = { now: idle };
  const served = await serve(state);
  const { events, port, streams } = served;
  const slow = new Listener(port, { who: '/greedy', isSlow: true });
  await follows(events, 1);
  await untilSomeWaits(state, served);
  for (let at = 1; at < 100; at += 1) void new Listener(port, { who: '/greedy' });
  await follows(events, 100);
  const late = new Listener(port, { who: '/late' });
  await expect.poll(() => late.names()).toContain('reset');
  await expect.poll(() => streams[0]?.closed).toBe(true);
  slow.leave();
});

it('disconnects who reads too slowly, and nobody else', async () => {
  const state = { now: idle };
  const { events, port, clock } = await serve(state);
  const [quick, slow] = [new Listener(port), new Listener(port, { isSlow: true })];
  await follows(events, 2);
  for (let at = 0; at < 200 && events.clients === 2; at += 1) {
    state.now = { ...idle, upstreams: upstreamsAt(at) };
    await clock.advance(1_000);
    await expect.poll(() => quick.last('upstreams')).toMatchObject({ changed: [{ url: `https://${at}` }] });
  }
  expect(events.clients).toBe(1);
  expect(quick.isClosed).toBe(false);
  slow.resume();
  await expect.poll(() => slow.isClosed).toBe(true);
});

it('does not take more clients than it can serve, and lets nobody keep out others', async () => {
  const { events, port } = await serve({ now: idle });
  const quiet = new Listener(port, { who: '/quiet' });
  await follows(events, 1);
  const greedy: Listener[] = [];
  for (let at = 0; at < 99; at += 1) {
    greedy.push(new Listener(port, { who: '/greedy' }));
    await follows(events, at + 2);
  }
  const late = new Listener(port, { who: '/late' });
  await expect.poll(() => late.names()).toEqual(['reset']);
  await expect.poll(() => greedy[0]?.isClosed).toBe(true);
  const again = new Listener(port, { who: '/greedy' });
  await expect.poll(() => again.names()).toEqual(['reset']);
  await expect.poll(() => greedy[1]?.isClosed).toBe(true);
  expect([events.clients, quiet.isClosed, late.isClosed]).toEqual([100, false, false]);
});
