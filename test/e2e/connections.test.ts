import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it } from 'vitest';
import { Extents } from '../../src/lib/extents.ts';
import { get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
const SIZE = 64 * MIB;
/** Of one connection. */
const RATE = 7 * MIB;
/** What was received by then is saved, and seen by other processes. */
const SAVED_WITHIN_MS = 2_000;

let upstream: FakeUpstream;
let servers: Entrepot[] = [];

afterEach(async () => {
  // The store is in the folder of the first.
  for (const server of servers.toReversed()) await server.remove();
  await upstream.stop();
});

async function start(options: object = {}): Promise<Entrepot> {
  const [first] = servers;
  const store = first === undefined ? {} : { storage: { path: join(first.folder, 'store') } };
  const server = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url } },
    ...options,
    ...store,
  });
  servers.push(server);
  return server;
}

async function layer(): Promise<Content> {
  upstream = await FakeUpstream.start();
  upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: RATE });
  const blob = randomBlob(SIZE, 'layer');
  upstream.add('app', imageOf([blob]), '1');
  return blob;
}

const urlOf = (server: Entrepot, path: string): string => `${server.url}/v2/app/${path}?ns=${UPSTREAM}`;

async function pull(server: Entrepot, { digest }: Content) {
  expect((await get(urlOf(server, 'manifests/1'))).status).toBe(200);
  return get(urlOf(server, `blobs/${digest}`));
}

/** The ranges that upstream was asked for with an end, and their bytes. */
function askedRanges(): Extents {
  const asked = new Extents();
  for (const { headers } of upstream.requests) {
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(headers.range ?? '') ?? [];
    if (first !== undefined) asked.add({ start: Number(first), end: Number(last) + 1 });
  }
  return asked;
}

it('a layer that comes over several connections is gone on with after a kill, with what was saved', async () => {
  const blob = await layer();
  let server = await start();
  const broken = pull(server, blob);
  await until('further connections', 60_000, async () => askedRanges().bytes > SIZE / 4);
  await sleep(SAVED_WITHIN_MS);
  await server.kill();
  expect((await broken).complete).toBe(false);
  const sent = upstream.bytesSent;
  server = await server.startAgain();
  servers = [server];
  const got = await pull(server, blob);
  expect([got.status, got.complete, `sha256:${got.sha256}`]).toEqual([200, true, blob.digest]);
  // What four connections bring until it is saved, or has not arrived when the process is killed.
  expect(upstream.bytesSent).toBeLessThan(SIZE + 4 * RATE);
  expect(sent).toBeGreaterThan(SIZE / 4);
});

it('a layer that comes over several connections is followed by another process on the store', async () => {
  const blob = await layer();
  const [one, other] = [await start(), await start()];
  const first = pull(one, blob);
  await until('further connections', 60_000, async () => askedRanges().bytes > 0);
  const second = await pull(other, blob);
  for (const got of [await first, second]) {
    expect([got.status, got.complete, `sha256:${got.sha256}`]).toEqual([200, true, blob.digest]);
  }
  expect(upstream.bytesSent).toBeLessThan(SIZE + 2 * MIB);
});

it('further connections of one serving process are given back to another one', async () => {
  const blob = await layer();
  const small = randomBlob(100_000, 'small');
  upstream.add('small', imageOf([small]), '1');
  const server = await start({ server: { processes: 2 }, pulls: { maxConnections: 2 } });
  const first = pull(server, blob);
  await until('further connections', 60_000, async () => askedRanges().bytes > 0);
  const smalls = await Promise.all(
    // Clients' connections go to both processes in turn.
    Array.from({ length: 4 }, async () => {
      await get(`${server.url}/v2/small/manifests/1?ns=${UPSTREAM}`);
      return get(`${server.url}/v2/small/blobs/${small.digest}?ns=${UPSTREAM}`);
    }),
  );
  for (const got of smalls) expect([got.status, got.complete]).toEqual([200, true]);
  const { complete, sha256 } = await first;
  expect([complete, sha256]).toEqual([true, createHashOf(blob)]);
});

function createHashOf({ digest }: Content): string {
  return digest.slice('sha256:'.length);
}
