import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get, type Got, many } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';

let upstream: FakeUpstream;
let entrepot: Entrepot;

async function start(options: FakeUpstreamOptions = {}): Promise<void> {
  upstream = await FakeUpstream.start(options);
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
}

beforeEach(() => {
  upstream = undefined as unknown as FakeUpstream;
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

function held(size: number, seed: string): Content {
  const blob = randomBlob(size, seed);
  upstream.add('app', imageOf([blob]), '1');
  return blob;
}

const urlOf = (blob: Content) => `${entrepot.url}/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`;
const blobGets = () => upstream.downloads().length;

function expectWhole(got: Got, blob: Content): void {
  expect({
    status: got.status,
    complete: got.complete,
    bytes: got.bytes,
    digest: `sha256:${got.sha256}`,
  }).toEqual({
    status: 200,
    complete: true,
    bytes: blob.size,
    digest: blob.digest,
  });
}

/** What stands under `blobs/` of the store. */
async function blobFiles(): Promise<string[]> {
  const folder = join(entrepot.folder, 'store', 'blobs');
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter(entry => entry.isFile()).map(entry => entry.name);
}

/** Asks until the blob is served whole without asking upstream. */
async function expectHeld(blob: Content): Promise<void> {
  await until('the blob to be held', 60_000, async () => (await blobFiles()).includes(blob.digest.slice(7)));
  const before = upstream.requests.length;
  expectWhole(await get(urlOf(blob)), blob);
  expect(upstream.requests.length).toBe(before);
}

/** A failure is remembered for a moment: asks until it is over. */
async function untilServed(blob: Content): Promise<void> {
  await until('the next request to work', 90_000, async () => {
    const got = await get(urlOf(blob));
    return got.complete && got.status === 200;
  });
}

describe('one download, many readers', () => {
  it('gives 50 clients of a cold blob the bytes of one upstream GET, while it is downloaded', async () => {
    await start({ linkBytesPerS: 40 * MIB });
    const blob = held(64 * MIB, 'fifty');
    const sentAtFirstByte: number[] = [];
    const onFirstByte = () => sentAtFirstByte.push(upstream.bytesSent);
    const quick = many(30, () => get(urlOf(blob), { onFirstByte }));
    // They read no more until the others have all: what is here waits for them on disk, not in memory.
    const slow = many(20, () => get(urlOf(blob), { onFirstByte, readAfter: quick }));
    for (const answer of [...(await quick), ...(await slow)]) expectWhole(answer, blob);
    expect(sentAtFirstByte.length).toBe(50);
    expect(blobGets()).toBe(1);
    expect(Math.max(...sentAtFirstByte)).toBeLessThan(blob.size / 2);
    expect(entrepot.peakRss()).toBeLessThan(256 * MIB);
  });

  it('continues when the client that started it leaves at a tenth', async () => {
    await start({ linkBytesPerS: 40 * MIB });
    const blob = held(32 * MIB, 'leaver');
    const leaver = get(urlOf(blob), { leaveAtByte: blob.size / 10 });
    await until('the fill to begin', 60_000, async () => blobGets() === 1);
    const others = await many(49, () => get(urlOf(blob)));
    expect((await leaver).complete).toBe(false);
    for (const answer of others) expectWhole(answer, blob);
    expect(blobGets()).toBe(1);
    await expectHeld(blob);
  });

  it('is finished and stored when everybody leaves', async () => {
    await start({ linkBytesPerS: 40 * MIB });
    const blob = held(16 * MIB, 'everybody');
    const leavers = await many(5, () => get(urlOf(blob), { leaveAtByte: MIB }));
    expect(leavers.some(({ complete }) => complete)).toBe(false);
    await expectHeld(blob);
    expect(blobGets()).toBe(1);
  });
});

describe('an upstream that breaks the connection', () => {
  it('is resumed once with a Range, unnoticed by clients', async () => {
    await start({ linkBytesPerS: 40 * MIB });
    const blob = held(32 * MIB, 'cut');
    const cut = Math.floor(blob.size * 0.6);
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, cutAtByte: cut });
    const answers = await many(10, () => get(urlOf(blob)));
    for (const answer of answers) expectWhole(answer, blob);
    const gets = upstream.requests.filter(({ kind, method }) => kind === 'blob' && method === 'GET');
    expect(gets.map(({ headers }) => headers.range)).toEqual([
      undefined,
      expect.stringMatching(/^bytes=\d+-$/),
    ]);
    const from = Number(/\d+/.exec(gets[1]?.headers.range ?? '')?.[0]);
    expect(from).toBeGreaterThan(cut * 0.9);
    expect(from).toBeLessThanOrEqual(cut);
    await expectHeld(blob);
  });

  it('finally gives every client a reset and none a complete body, stores nothing, and affects no later request', async () => {
    await start({ linkBytesPerS: 40 * MIB, ranges: false });
    const blob = held(8 * MIB, 'gone');
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, cutAtByte: Math.floor(blob.size * 0.6) });
    upstream.misbehave({ kind: 'blob', method: 'GET', skip: 1, reset: true });
    const answers = await many(10, () => get(urlOf(blob)));
    expect(answers.filter(({ complete, status }) => complete && status === 200)).toEqual([]);
    expect(await blobFiles()).toEqual([]);
    upstream.behave();
    await untilServed(blob);
    await expectHeld(blob);
  });
});

describe('an upstream that sends wrong bytes', () => {
  for (const [where, size, byte] of [
    ['in the middle', 8 * MIB, 4 * MIB],
    ['at the very end', 8 * MIB, 8 * MIB - 1],
    ['in a small blob', 1_000, 10],
  ] as const) {
    it(`${where} never completes a body and leaves nothing behind`, async () => {
      await start();
      const blob = held(size, where);
      upstream.misbehave({ kind: 'blob', method: 'GET', corruptByte: byte });
      const answers = await many(5, () => get(urlOf(blob)));
      expect(answers.filter(({ complete, status }) => complete && status === 200)).toEqual([]);
      expect(answers.every(({ bytes, status }) => status !== 200 || bytes < blob.size)).toBe(true);
      expect(await blobFiles()).toEqual([]);
      upstream.behave();
      await untilServed(blob);
      await expectHeld(blob);
    });
  }

  it('or a wrong length is handled like wrong bytes', async () => {
    await start();
    const blob = held(4 * MIB, 'length');
    upstream.misbehave({ kind: 'blob', method: 'GET', contentLength: blob.size - 1_000 });
    upstream.misbehave({ kind: 'blob', method: 'HEAD', contentLength: blob.size - 1_000 });
    const got = await get(urlOf(blob));
    expect(got.complete && got.status === 200).toBe(false);
    expect(await blobFiles()).toEqual([]);
  });
});

describe('two processes on one store', () => {
  it('make one download, and when its process is killed the other continues it with a Range', async () => {
    await start({ linkBytesPerS: 4 * MIB });
    const blob = held(48 * MIB, 'two');
    const second = await Entrepot.start({
      upstreams: { [UPSTREAM]: { url: upstream.url } },
      storage: { path: join(entrepot.folder, 'store') },
    });
    try {
      const first = get(urlOf(blob));
      await until('the first fill', 60_000, async () => blobGets() === 1);
      let seen = 0;
      const along = get(urlOf(blob).replace(entrepot.url, second.url), { onData: bytes => (seen = bytes) });
      await until('the second process to read along', 60_000, async () => seen > 4 * MIB);
      expect(blobGets()).toBe(1);
      await entrepot.kill();
      expect((await first).complete).toBe(false);
      expectWhole(await along, blob);
      const ranges = upstream.downloads().map(({ headers }) => headers.range);
      expect(ranges).toEqual([undefined, expect.stringMatching(/^bytes=[1-9]\d*-$/)]);
      await sleep(100);
    } finally {
      await second.remove();
    }
  });
});

it('that the disk has no room for is reported once, with the reason, and never as stored', async () => {
  upstream = await FakeUpstream.start();
  const upstreams = { [UPSTREAM]: { url: upstream.url } };
  entrepot = await Entrepot.start({ upstreams, storage: { minFree: '900TiB' } });
  const image = imageOf([randomBlob(1_000_000, 'no room')]);
  upstream.add('no-room', image, 'v1');
  const [layer] = image.layers;
  const got = await get(`${entrepot.url}/v2/no-room/blobs/${layer!.digest}?ns=${UPSTREAM}`);
  expect([got.status, got.complete, got.headers['cache-status']]).toEqual([
    200,
    true,
    'entrepot; fwd=uri-miss',
  ]);
  const pulled = await entrepot.command('pull', `${UPSTREAM}/no-room:v1`);
  expect(pulled.stderr.match(/less than storage\.minFree/g)).toHaveLength(1);
  expect(pulled.stderr).toMatch(
    /^✗ up\.example\/no-room:v1: sha256:[0-9a-f]{64} could not be stored: the disk has /m,
  );
  expect(entrepot.logs()).not.toContain('a download failed');
  const passedOn = entrepot
    .logs()
    .split('\n')
    .filter(line => line.includes('a download is passed on but not stored'))
    .map(line => JSON.parse(line) as object);
  expect(passedOn).not.toEqual([]);
  for (const line of passedOn) {
    expect(line).toMatchObject({ err: { code: 'ENOSPC', message: expect.stringContaining('minFree') } });
    expect(JSON.stringify(line)).not.toMatch(/stack|length/);
  }
});
