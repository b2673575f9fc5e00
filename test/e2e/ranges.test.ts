// Clients that read parts of layers, as real ones do, and clients and upstreams that behave badly.
import { createHash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Chance } from '../support/chance.ts';
import { type GetOptions, get } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../support/fake-upstream.ts';
import type { Misbehaviour } from '../support/fake-upstream-requests.ts';
import { openFiles } from '../support/open-files.ts';
import { until } from '../support/programs.ts';

const KB = 1000;
const KIB = 1024;
const MIB = 1024 * KIB;
const UPSTREAM = 'up.example';
const NODE = { ns: UPSTREAM };

let upstream: FakeUpstream;
let entrepot: Entrepot;

async function startAll(options: FakeUpstreamOptions = {}, pulls: object = {}): Promise<void> {
  upstream = await FakeUpstream.start(options);
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } }, pulls });
}

beforeEach(() => {
  upstream = undefined as unknown as FakeUpstream;
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

/** A layer of an image whose manifest a client has pulled. */
async function layer(size: number, seed: string): Promise<Content> {
  const blob = randomBlob(size, seed);
  upstream.add('app', imageOf([blob]), seed);
  const manifest = await get(`${entrepot.url}/v2/app/manifests/${seed}?ns=${NODE.ns}`);
  expect(manifest.status).toBe(200);
  upstream.requests.length = 0;
  return blob;
}

const urlOf = (blob: Content): string => `${entrepot.url}/v2/app/blobs/${blob.digest}?ns=${NODE.ns}`;

/** Requests a range, and checks the bytes. */
async function range(blob: Content, header: string): Promise<void> {
  const { status, body } = await fetched(blob, header);
  expect(status).toBe(206);
  const [start = 0, end = 0] = header.replace('bytes=', '').split('-').map(Number);
  expect(body.equals(bytesOf(blob).subarray(start, end + 1))).toBe(true);
}

async function fetched(blob: Content, header?: string): Promise<{ status: number; body: Buffer }> {
  const response = await fetch(urlOf(blob), header === undefined ? {} : { headers: { range: header } });
  return { status: response.status, body: Buffer.from(await response.arrayBuffer()) };
}

const sentOf = (act: () => Promise<void>): Promise<number> => {
  const before = upstream.bytesSent;
  return act().then(() => upstream.bytesSent - before);
};

/** What stargz-snapshotter asks of a layer to mount it, and to read some files. */
async function readLikeStargz(blob: Content, files: readonly number[]): Promise<number> {
  const { size } = blob;
  await range(blob, 'bytes=0-1');
  expect((await get(urlOf(blob), { method: 'HEAD' })).headers['content-length']).toBe(String(size));
  await range(blob, `bytes=${size - 33 * KB}-${size - 1}`);
  await range(blob, `bytes=${size - 133 * KB}-${size - 33 * KB - 1}`);
  await range(blob, `bytes=0-${350 * KB - 1}`);
  for (const at of files) await range(blob, `bytes=${at * 50 * KB}-${at * 50 * KB + 100 * KB - 1}`);
  return 2 + 133 * KB + 350 * KB + files.length * 100 * KB;
}

describe('a client like stargz-snapshotter', () => {
  it('has from upstream what it asks for, the next node nothing, and a whole pull the rest', async () => {
    await startAll({ linkBytesPerS: 12.5 * KB * KB });
    const blob = await layer(64 * MIB, 'stargz');
    const files = [40, 200, 600, 1_200];
    let askedBytes = 0;
    const sent = await sentOf(async () => {
      askedBytes = await readLikeStargz(blob, files);
    });
    expect(sent).toBeLessThan(1.05 * askedBytes);
    expect(await sentOf(async () => void (await readLikeStargz(blob, files)))).toBe(0);
    const rest = await sentOf(async () => {
      expect((await get(urlOf(blob))).sha256).toBe(blob.digest.slice(7));
    });
    expect(sent + rest).toBeLessThan(1.01 * blob.size);
  });
});

it('ranges for which the store has no room are sent nevertheless, and nothing else is requested from upstream', async () => {
  upstream = await FakeUpstream.start();
  const storage = { maxBytes: '1MiB' };
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } }, storage });
  const blob = await layer(32 * MIB, 'no-room');
  const [first, second] = [20 * MIB, 30 * MIB];
  await range(blob, `bytes=${first}-${first + 4 * MIB - 1}`);
  const parts = await fetched(blob, `bytes=${first}-${first + 9},${second}-${second + 9}`);
  expect(parts.status).toBe(206);
  for (const start of [first, second])
    expect(parts.body.includes(bytesOf(blob).subarray(start, start + 10))).toBe(true);
  const asked = upstream.requests.filter(({ kind }) => kind === 'blob').map(({ headers }) => headers.range);
  expect(asked.length).toBeGreaterThan(0);
  for (const header of asked) {
    const [, start = 0] = /^bytes=(\d+)-\d+$/.exec(header ?? '')?.map(Number) ?? [];
    expect(start).toBeGreaterThanOrEqual(first);
  }
});

it('how much is there of a layer that is not stored is said by inspect', async () => {
  await startAll();
  const blob = await layer(4 * MIB, 'there');
  await range(blob, `bytes=${MIB}-${2 * MIB - 1}`);
  const reference = `${UPSTREAM}/app:there`;
  await until('the range to be saved', 20_000, async () => {
    const { stdout } = await entrepot.command('inspect', reference);
    return /layer +\S+ +4.0 MiB +missing, 1.0 MiB of it stored/.test(stdout);
  });
  const inspected = JSON.parse((await entrepot.command('inspect', '--json', reference)).stdout);
  expect(inspected).toMatchObject({
    missingBytes: expect.any(Number),
    manifests: [{ blobs: [{ bytesThere: 0 }, { digest: blob.digest, state: 'missing', bytesThere: MIB }] }],
  });
});

const CLIENTS = 10;
/** Connections that are kept for the next request: one for each that ran at the same time, and the whole pulls'. */
const POOLED = CLIENTS + 3;

/** What may go wrong with one answer. */
const WRONG: readonly Misbehaviour[] = [
  { cutAtByte: 10_000 },
  { cutAtByte: 0 },
  { reset: true },
  { status: 416 },
  { status: 503 },
  { status: 200, headers: { 'Content-Type': 'text/html' }, body: '<p>log in</p>' },
  { headers: { 'Content-Range': null } },
  { headers: { 'Content-Range': 'bytes 0-99/100' } },
  { headers: { 'Content-Range': 'bytes 5-1/3' } },
  { headers: { 'Content-Type': 'multipart/byteranges; boundary=x', 'Content-Range': null } },
  { headers: { 'Content-Encoding': 'gzip' } },
  { contentLength: 10 },
  { contentLength: 100_000_000 },
  { bytesPerS: MIB },
  { delayMs: 50 },
];

it('leaving clients and wrong answers cost no handle, no memory and no right byte', async () => {
  await startAll({ linkBytesPerS: 100 * MIB }, { completeRanged: 'never' });
  const chance = new Chance(14);
  const blobs = await Promise.all(['one', 'two', 'three'].map(seed => layer(8 * MIB, seed)));
  const before = await handles();
  /** Whether the bytes of each complete body were right. */
  const complete: boolean[] = [];
  const one = async (): Promise<void> => {
    const blob = chance.pick(blobs);
    if (chance.in(0.3)) upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, ...chance.pick(WRONG) });
    const leaving: GetOptions = chance.in(0.3) ? { leaveAtByte: chance.below(200 * KIB) } : {};
    const start = chance.below(blob.size - MIB);
    const end = start + chance.below(chance.in(0.2) ? MIB : 60 * KIB);
    const isWhole = chance.in(0.05);
    const got = await get(
      urlOf(blob),
      isWhole ? leaving : { ...leaving, headers: { range: `bytes=${start}-${end}` } },
    );
    if (!got.complete || got.status !== (isWhole ? 200 : 206)) return;
    const expected = isWhole ? bytesOf(blob) : bytesOf(blob).subarray(start, end + 1);
    complete.push(got.sha256 === createHash('sha256').update(expected).digest('hex'));
  };
  for (let round = 0; round < 40; round += 1) await Promise.all(Array.from({ length: CLIENTS }, one));
  expect(complete.length).toBeGreaterThan(50);
  expect(complete.filter(isRight => !isRight)).toEqual([]);
  upstream.behave();
  for (const blob of blobs) {
    await until(
      'it to be served',
      90_000,
      async () => (await get(urlOf(blob))).sha256 === blob.digest.slice(7),
    );
  }
  await until('what is open to be closed', 90_000, async () => {
    const { files, sockets } = await handles();
    return files <= before.files && sockets <= before.sockets + POOLED;
  });
  const metrics = await entrepot.metrics();
  expect(metrics).toMatch(/^entrepot_http_bodies_open 0$/m);
  expect(metrics).toMatch(/^entrepot_queue_length 0$/m);
  expect(metrics).toMatch(/^entrepot_fills_running 0$/m);
  expect(await readdir(join(entrepot.folder, 'store', 'ingest'))).toEqual([]);
  expect(entrepot.logs()).not.toMatch(/internal error|UnhandledPromise/);
});

/** What the server has open. */
async function handles(): Promise<{ files: number; sockets: number }> {
  const targets = await openFiles(entrepot.pid);
  return {
    files: targets.filter(target => target.startsWith(join(entrepot.folder, 'store'))).length,
    sockets: targets.filter(target => target.startsWith('socket:')).length,
  };
}
