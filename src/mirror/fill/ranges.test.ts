import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { Chance } from '../../../test/support/chance.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../../../test/support/content.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../../../test/support/fake-upstream.ts';
import { Latch } from '../../../test/support/latch.ts';
import {
  APP,
  MirrorWorld,
  type MirrorWorldOptions,
  repositoryOf,
  UPSTREAM,
  whole,
} from '../../../test/support/mirror-world.ts';
import { openFilesIn } from '../../../test/support/open-files.ts';
import type { BlobParts, Spool } from '../../blobs/spool.ts';
import type { BlobReader } from '../../lib/blob-reader.ts';
import { type Extent, Extents } from '../../lib/extents.ts';
import { type Log, silentLog } from '../../lib/log.ts';
import { ManualClock } from '../../lib/manual-clock.fixture.ts';
import { nameCredential } from '../../oci/credential.ts';
import { OciError } from '../../oci/errors.ts';
import { ANY_MANIFEST, type BlobWant } from '../../oci/pull-source.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import { partsKey } from './fill-key.ts';
import { MAX_UNSAVED_BYTES } from './partial-blob.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SLOW = { linkBytesPerS: 8 * MIB };
let upstream: FakeUpstream;
let worlds: MirrorWorld[] = [];

async function startWorld(
  fake: FakeUpstreamOptions = {},
  options: MirrorWorldOptions = {},
): Promise<MirrorWorld> {
  upstream = await FakeUpstream.start(fake);
  return another(options);
}

/** The options of a world with so many connections. */
const connections = (maxConnections: number): MirrorWorldOptions => ({
  limits: { maxConnections, serializeImagePulls: false, maxParallelImagePulls: undefined },
});

async function another(options: MirrorWorldOptions = {}): Promise<MirrorWorld> {
  const world = await MirrorWorld.open(upstream, options);
  worlds.push(world);
  return world;
}

/** A layer of an image whose manifest the world has pulled, so that the right to its repository is proved. */
async function layer(world: MirrorWorld, size: number, seed: string, repository = 'app'): Promise<Content> {
  const blob = randomBlob(size, seed);
  upstream.add(repository, imageOf([blob]), seed);
  await world.manifest(seed, repositoryOf(repository));
  return blob;
}

/** What upstream was asked for of blobs: `undefined` for all. */
const asked = (): (string | undefined)[] =>
  upstream.requests
    .filter(({ kind, method }) => kind === 'blob' && method === 'GET')
    .map(({ headers }) => headers.range?.replace('bytes=', ''));
/** The bytes that were asked for with ranges that have an end. */
const askedExtents = (): Extent[] =>
  asked().flatMap(range => {
    const [, start, end] = /^(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    return start === undefined ? [] : [{ start: Number(start), end: Number(end) + 1 }];
  });

const sum = (extents: readonly Extent[]): number =>
  extents.reduce((total, { start, end }) => total + end - start, 0);

async function open(
  world: MirrorWorld,
  blob: Content,
  wanted: readonly Extent[],
  repository: Repository = APP,
) {
  const right = await world.right(repository);
  return world.mirror.openBlob(repository, blob.digest, right, wantOf(wanted));
}

/** As of a client that names the bytes of each range. */
function wantOf(wanted: readonly Extent[]): BlobWant {
  const [first] = wanted;
  const want = (size: number) => {
    if (first !== undefined && first.start >= size) throw new OciError('RANGE_INVALID');
    return wanted;
  };
  return Object.assign(want, { first });
}

/** Reads the extents, compares them with the blob's bytes, and closes. */
async function expectRight(reader: BlobReader, blob: Content, wanted: readonly Extent[]): Promise<void> {
  try {
    for (const extent of wanted) await readRight(reader, blob, extent);
  } finally {
    await reader.close();
  }
}

async function readRight(reader: BlobReader, blob: Content, { start, end }: Extent): Promise<void> {
  const buffer = Buffer.alloc(end - start);
  for (let read = 0; read < buffer.length; ) {
    const count = await reader.read(buffer.subarray(read), start + read);
    expect(count).toBeGreaterThan(0);
    read += count;
  }
  expect(buffer.equals(bytesOf(blob).subarray(start, end))).toBe(true);
}

async function readRanges(world: MirrorWorld, blob: Content, ...wanted: readonly Extent[]): Promise<string> {
  const { reader, outcome } = await open(world, blob, wanted);
  await expectRight(reader, blob, wanted);
  return outcome;
}

async function statOf(world: MirrorWorld, blob: Content) {
  return world.mirror.statBlob(APP, blob.digest, await world.right());
}

/** Begins a whole pull; resolves when upstream is sending. */
async function beginPull(world: MirrorWorld, blob: Content, isSent: (bytes: number) => boolean = () => true) {
  upstream.requests.length = 0;
  const before = upstream.bytesSent;
  const pulled = world.pull(blob.digest);
  await until(() => asked().length > 0 && upstream.bytesSent > before && isSent(upstream.bytesSent - before));
  return { pulled };
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(5);
}

async function untilNothingIsSent(): Promise<void> {
  await until(async () => {
    const sentBefore = upstream.bytesSent;
    await sleep(100);
    return upstream.bytesSent === sentBefore;
  });
}

/** How much is kept as parts, and would be there after a crash. */
async function savedIn(world: MirrorWorld): Promise<number> {
  let bytes = 0;
  for await (const { isParts, key, epoch = 0 } of world.spool.list()) {
    const saved = isParts ? await world.spool.savedParts(key, epoch) : undefined;
    bytes += saved?.extents.bytes ?? 0;
    await saved?.close();
  }
  return bytes;
}

/** Which ingests of the store this process has open, also those that are stored blobs by now. */
const openIngests = async ({ folder }: MirrorWorld) => [
  ...(await openFilesIn(join(folder, 'ingest'))),
  ...(await openFilesIn(join(folder, 'blobs'))),
];

/** `target` with some other methods. */
function replacing<T extends object>(target: T, methods: Partial<T>): T {
  return new Proxy(target, {
    get: (_, name) => {
      const value: unknown = Reflect.get(name in methods ? methods : target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

afterEach(async () => {
  vi.restoreAllMocks();
  for (const world of worlds) await world.remove();
  worlds = [];
  await upstream.stop();
});

describe('a range of a blob that is not stored', () => {
  it('is requested from upstream alone, once, and nothing else is', async () => {
    const world = await startWorld();
    const blob = await layer(world, 8 * MIB, 'far');
    const far = { start: 7 * MIB, end: 7 * MIB + 100 };
    expect(await readRanges(world, blob, far)).toBe('miss');
    expect(await readRanges(world, blob, far)).toBe('hit');
    expect(await readRanges(world, blob, { start: far.start + 10, end: far.end })).toBe('hit');
    expect(asked()).toEqual([`${far.start}-${far.end - 1}`]);
    expect(upstream.count('blob', { method: 'HEAD' })).toBe(0);
    expect(world.mirror.runningFills).toBe(0);
    expect(await world.fetchedBytes()).toBe(100);
  });

  it('is one request for all who want it at the same time, whoever of them leaves', async () => {
    const world = await startWorld(SLOW);
    const blob = await layer(world, 8 * MIB, 'shared');
    const wanted = [{ start: 4 * MIB, end: 6 * MIB }];
    const [first, ...others] = await Promise.all(Array.from({ length: 5 }, () => open(world, blob, wanted)));
    await first?.reader.close();
    for (const { reader } of others) await expectRight(reader, blob, wanted);
    expect(asked()).toEqual([`${4 * MIB}-${6 * MIB - 1}`]);
  });

  it('that overlaps others is requested where it differs from them', async () => {
    const world = await startWorld();
    const blob = await layer(world, 8 * MIB, 'overlap');
    await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    await readRanges(world, blob, { start: MIB / 2, end: 3 * MIB });
    const all = askedExtents();
    expect(sum(all)).toBe(new Extents(all).bytes);
    expect([...new Extents(all)]).toEqual([{ start: MIB / 2, end: 3 * MIB }]);
  });

  it('ends when the only client that wants it leaves, and what came is kept', async () => {
    const world = await startWorld(SLOW);
    const blob = await layer(world, 64 * MIB, 'leaver');
    const { reader } = await open(world, blob, [{ start: MIB, end: 63 * MIB }]);
    await reader.read(Buffer.alloc(1), MIB);
    await reader.close();
    await untilNothingIsSent();
    expect(upstream.bytesSent).toBeLessThan(32 * MIB);
    expect(await readRanges(world, blob, { start: MIB, end: MIB + 1000 })).toBe('hit');
  });

  it('is one of many in one request, of which neighbours are requested together', async () => {
    const world = await startWorld();
    const blob = await layer(world, 16 * MIB, 'many');
    const wanted = Array.from({ length: 200 }, (_, at) => {
      const start = Math.floor(at / 10) * 700 * KIB + (at % 10) * 12 * KIB;
      return { start, end: start + 8 * KIB };
    });
    await readRanges(world, blob, ...wanted);
    expect(asked()).toHaveLength(20);
    expect(await readRanges(world, blob, ...wanted.toReversed())).toBe('hit');
  });

  it('is kept open for the next one, but only so many blobs are', async () => {
    const world = await startWorld();
    for (let at = 0; at < 70; at += 1) {
      const blob = randomBlob(300 * KIB, `idle ${at}`);
      upstream.add('app', blob);
      await readRanges(world, blob, { start: 0, end: 2 });
    }
    await until(async () => (await openIngests(world)).length <= 64);
    expect(await openIngests(world)).toHaveLength(64);
  });

  it('is listed while it is requested, or waits for that, and counts in the queue', async () => {
    const world = await startWorld(SLOW, connections(1));
    const [first, second] = [await layer(world, 4 * MIB, 'first'), await layer(world, 4 * MIB, 'second')];
    const far: Extent = { start: MIB, end: 3 * MIB };
    const reading = await open(world, first, [far]);
    const waiting = open(world, second, [
      { start: 0, end: 1_000 },
      { start: MIB, end: MIB + 500 },
    ]);
    await until(() => world.mirror.queue.waiting === 2);
    await until(() => (world.mirror.downloads[0]?.bytes ?? 0) > 0);
    const ranges = {
      kind: 'ranges',
      repository: `${UPSTREAM}/app`,
      readers: 1,
      startedAtMs: world.nowMs,
      holder: undefined,
    };
    expect(world.mirror.downloads).toMatchObject([
      { ...ranges, digest: first.digest, state: 'downloading', size: 2 * MIB },
      { ...ranges, digest: second.digest, state: 'queued', bytes: 0, size: 1_500 },
    ]);
    expect(world.mirror.queue).toMatchObject({
      running: 1,
      waiting: 2,
      requesters: [{ running: 1, waiting: 2 }],
    });
    expect(await world.sample('ranges_running')).toBe(3);
    await expectRight(reading.reader, first, [far]);
    await (await waiting).reader.close();
    await until(() => world.mirror.downloads.length === 0);
    expect(world.mirror.queue).toEqual({ running: 0, waiting: 0, requesters: [] });
    // The list goes on where it was when more of it is requested.
    const more = await open(world, first, [{ start: 0, end: MIB }]);
    expect(world.mirror.downloads).toMatchObject([{ digest: first.digest, size: 3 * MIB }]);
    await more.reader.close();
    await until(() => world.mirror.downloads.length === 0);
    expect(await world.sample('ranges_running')).toBe(0);
  });

  it('leaves no handle, no lease and no connection behind', async () => {
    const world = await startWorld();
    const blob = await layer(world, 4 * MIB, 'handles');
    await readRanges(world, blob, { start: MIB, end: MIB + 1000 });
    expect(await openIngests(world)).toHaveLength(1);
    await world.close();
    expect(await openIngests(world)).toHaveLength(0);
  });
});

describe('the size of a blob of which ranges are there', () => {
  it('is known without asking upstream, in each process and after a restart', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'sized');
    await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    upstream.requests.length = 0;
    const known = { size: blob.size, outcome: 'hit', upstreamMs: 0 };
    expect(await statOf(world, blob)).toMatchObject(known);
    await until(async () => (await savedIn(world)) === MIB);
    const other = await another({ folder: world.folder });
    expect(await statOf(other, blob)).toMatchObject(known);
    for (const one of [world, other]) await one.close();
    expect(await statOf(await another({ folder: world.folder }), blob)).toMatchObject(known);
    expect(upstream.requests).toEqual([]);
  });

  it('is looked for on disk once for all who ask for it at the same time, or a moment later', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'storm');
    await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    await world.close();
    const looked = vi.fn<(key: string) => void>();
    const later = await another({
      folder: world.folder,
      spool: spool =>
        replacing(spool, {
          savedParts: (key, epoch) => {
            looked(key);
            return spool.savedParts(key, epoch);
          },
        }),
    });
    const stats = await Promise.all(Array.from({ length: 50 }, () => statOf(later, blob)));
    stats.push(await statOf(later, blob));
    expect(new Set(stats.map(({ size }) => size))).toEqual(new Set([blob.size]));
    expect(looked).toHaveBeenCalledTimes(1);
  });

  it('is asked for if nothing came yet', async () => {
    const world = await startWorld();
    const blob = await layer(world, 4 * MIB, 'unsized');
    upstream.misbehave({ kind: 'blob', method: 'GET', status: 503 });
    await expect(open(world, blob, [{ start: 0, end: 100 }])).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await statOf(world, blob)).toMatchObject({ size: blob.size, outcome: 'miss' });
    expect(upstream.count('blob', { method: 'HEAD' })).toBe(1);
  });
});

describe('ranges of a blob of which nothing is known', () => {
  const NEAR = { start: 0, end: 2 };
  const FAR = { start: 3 * MIB, end: 3 * MIB + 200 * KIB };

  function strange(seed: string): Content {
    const blob = randomBlob(4 * MIB, seed);
    upstream.add('app', blob);
    return blob;
  }

  it('are requested at once, and tell its size and the right to it', async () => {
    const world = await startWorld();
    const blob = strange('by-digest');
    expect(await readRanges(world, blob, NEAR)).toBe('miss');
    expect(await statOf(world, blob)).toMatchObject({ size: blob.size, outcome: 'hit' });
    expect(await readRanges(world, blob, FAR)).toBe('miss');
    expect(await readRanges(world, blob, NEAR, FAR)).toBe('hit');
    expect(asked()).toEqual(['0-1', `${FAR.start}-${FAR.end - 1}`]);
    expect(upstream.count('blob', { method: 'HEAD' })).toBe(0);
    expect(await world.fetchedBytes()).toBe(2 + 200 * KIB);
  });

  it('are left out of a whole pull', async () => {
    const world = await startWorld();
    const blob = strange('left-out');
    await readRanges(world, blob, FAR);
    upstream.requests.length = 0;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(asked()).toEqual([`0-${FAR.start - 1}`, `${FAR.end}-`]);
    expect(await world.fetchedBytes()).toBe(blob.size);
    await until(() => world.mirror.runningFills === 0);
    expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
  });

  it('are one request for all who ask at the same time', async () => {
    const world = await startWorld();
    const blob = strange('crowd');
    upstream.misbehave({ kind: 'blob', delayMs: 50 });
    const opened = await Promise.all(Array.from({ length: 5 }, () => open(world, blob, [NEAR])));
    for (const { reader } of opened) await expectRight(reader, blob, [NEAR]);
    expect(asked()).toEqual(['0-1']);
  });

  it('are requested one after the other if the first is long', async () => {
    const world = await startWorld();
    const blob = strange('long');
    await readRanges(world, blob, FAR);
    const all = askedExtents();
    expect(sum(all)).toBe(new Extents(all).bytes);
    expect([...new Extents(all)]).toEqual([FAR]);
  });

  it('do not keep a wrong size for longer than until the next pull', async () => {
    const world = await startWorld();
    for (const start of [0, MIB]) {
      const blob = strange(`wrong-size-${start}`);
      const range = { start, end: start + 20 * KIB };
      const headers = { 'Content-Range': `bytes ${start}-${range.end - 1}/${5 * MIB}` };
      upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, headers });
      await readRanges(world, blob, range);
      expect(await statOf(world, blob)).toMatchObject({ size: 5 * MIB });
      await readRanges(world, blob, FAR).catch(() => {});
      await world.pull(blob.digest).catch(() => {});
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
      await until(() => world.mirror.runningFills === 0);
      expect(await statOf(world, blob)).toMatchObject({ size: blob.size });
    }
  });

  it('that begin after its end do not keep others from being requested', async () => {
    const world = await startWorld();
    const blob = strange('behind');
    const behind = open(world, blob, [{ start: 9 * MIB, end: 9 * MIB + 1 }]);
    await expect(behind).rejects.toMatchObject({ code: 'RANGE_INVALID' });
    expect(upstream.count('blob', { method: 'HEAD' })).toBe(1);
    await readRanges(world, blob, NEAR);
    expect(asked().slice(-1)).toEqual(['0-1']);
  });

  it('that begin after its end do not count as ignored if upstream sends the whole blob for them', async () => {
    const world = await startWorld();
    for (const seed of ['one', 'other']) {
      const blob = strange(`behind ${seed}`);
      const body = 'x'.repeat(blob.size);
      upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, status: 200, body });
      const { reader } = await open(world, blob, [{ start: 9 * MIB, end: 9 * MIB + 1 }]);
      await reader.close();
    }
    upstream.requests.length = 0;
    await readRanges(world, strange('within'), NEAR);
    expect(asked()).toEqual(['0-1']);
  });

  it('are the whole blob if upstream sends that', async () => {
    const world = await startWorld();
    const blob = strange('all');
    const body = 'x'.repeat(300 * KIB);
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, status: 200, body });
    const { reader } = await open(world, blob, [FAR]);
    await expectRight(reader, blob, [FAR]);
    expect(asked().slice(-1)).toEqual([undefined]);
  });

  it('fail behind the end of a download that is shorter than the manifest says', async () => {
    const world = await startWorld();
    const blob = randomBlob(MIB, 'shorter');
    upstream.add('app', imageOf([{ ...blob, size: MIB + 200 * KIB }]), 'shorter');
    upstream.add('app', blob);
    await world.manifest('shorter');
    const latch = new Latch();
    const headers = { 'Content-Length': null };
    const pause = { atByte: MIB / 2, until: latch.opened };
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, headers, pause });
    const { pulled } = await beginPull(world, blob);
    const beyond = { start: MIB + 100 * KIB, end: MIB + 101 * KIB };
    const { reader } = await open(world, blob, [beyond]);
    latch.open();
    await pulled.catch(() => {});
    expect(await reader.read(Buffer.alloc(KIB), beyond.start)).toBe(0);
    await reader.close();
  });

  it.each(['a manifest', 'HEAD'])('are those of a blob whose size %s tells if ranges do not', async where => {
    const world = await startWorld();
    const blob = where === 'HEAD' ? strange('no-size') : await layer(world, 4 * MIB, 'no-size');
    const range = { start: 3 * MIB, end: 3 * MIB + 20 * KIB };
    const headers = { 'Content-Range': `bytes ${range.start}-${range.end - 1}/*` };
    upstream.misbehave({ kind: 'blob', method: 'GET', headers });
    expect(await readRanges(world, blob, range)).toBe('miss');
    expect(await readRanges(world, blob, range)).toBe('hit');
    expect(askedExtents()).toEqual(where === 'HEAD' ? [range, range] : [range]);
    expect(asked()).toHaveLength(askedExtents().length);
  });
});

describe('a whole pull of a blob of which ranges are there', () => {
  it('requests only the rest, is verified, stored and linked', async () => {
    const world = await startWorld();
    const blob = await layer(world, 8 * MIB, 'rest');
    await readRanges(world, blob, { start: 2 * MIB, end: 3 * MIB }, { start: 7 * MIB, end: 8 * MIB });
    upstream.requests.length = 0;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(asked()).toEqual([`0-${2 * MIB - 1}`, `${3 * MIB}-${7 * MIB - 1}`]);
    expect(await world.fetchedBytes()).toBe(blob.size);
    await until(() => world.mirror.runningFills === 0);
    upstream.requests.length = 0;
    expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
    expect(upstream.requests).toEqual([]);
  });

  it('counts them in its progress from the beginning', async () => {
    const world = await startWorld(SLOW);
    const blob = await layer(world, 4 * MIB, 'progress');
    await readRanges(world, blob, { start: MIB, end: 3 * MIB });
    const { pulled } = await beginPull(world, blob);
    const [download] = world.mirror.downloads;
    expect(download).toMatchObject({ kind: 'whole', aheadBytes: 2 * MIB });
    expect(download?.bytes).toBeLessThan(MIB);
    await pulled;
  });

  it('is not split into a request before each of many small ones', async () => {
    const world = await startWorld();
    const blob = await layer(world, 17 * MIB, 'small-ones');
    const pieces = Array.from({ length: 100 }, (_, at) => {
      const start = (at + 1) * 100 * KIB;
      return { start, end: start + 17 * KIB };
    });
    await readRanges(world, blob, ...pieces);
    upstream.requests.length = 0;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(asked()).toEqual([undefined]);
  });

  it('requests nothing if all of them are', async () => {
    const world = await startWorld();
    const blob = await layer(world, 3 * MIB, 'all');
    await readRanges(world, blob, { start: 0, end: 2 * MIB });
    await readRanges(world, blob, { start: 2 * MIB, end: 3 * MIB });
    upstream.requests.length = 0;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    await until(() => world.mirror.runningFills === 0);
    expect(await world.pull(blob.digest)).toMatchObject({ outcome: 'hit' });
    expect(upstream.requests).toEqual([]);
  });
});

describe('a range ahead of a download in progress', () => {
  it('is requested at once, and the download takes it over', async () => {
    const world = await startWorld({ linkBytesPerS: 4 * MIB });
    const blob = await layer(world, 8 * MIB, 'ahead');
    const { pulled } = await beginPull(world, blob);
    const sentBefore = upstream.bytesSent;
    const wanted = [{ start: 6 * MIB, end: 6 * MIB + 100 }];
    const { reader } = await open(world, blob, wanted);
    await expectRight(reader, blob, wanted);
    expect(upstream.bytesSent - sentBefore).toBeLessThan(2 * MIB);
    expect(await pulled).toMatchObject(whole(blob));
  });

  it('ends its response where a large one begins, so that nothing is fetched twice', async () => {
    const world = await startWorld({ linkBytesPerS: 8 * MIB });
    const blob = await layer(world, 12 * MIB, 'break');
    const { pulled } = await beginPull(world, blob);
    await readRanges(world, blob, { start: 8 * MIB, end: 11 * MIB });
    expect(await pulled).toMatchObject(whole(blob));
    expect(asked()).toEqual([undefined, `${8 * MIB}-${11 * MIB - 1}`, `${11 * MIB}-`]);
    expect(await world.fetchedBytes()).toBeLessThan(blob.size + MIB / 2);
  });

  it('is requested behind what the download will have in a moment, though that goes on', async () => {
    const world = await startWorld();
    const blob = await layer(world, 24 * MIB, 'across');
    upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: 8 * MIB });
    const { pulled } = await beginPull(world, blob);
    await readRanges(world, blob, { start: 0, end: 20 * MIB });
    expect(await pulled).toMatchObject(whole(blob));
    // Before it, a busy machine may ask for what the download is late with.
    const range = asked().find(each => each?.endsWith(`-${20 * MIB - 1}`));
    expect(Number(range?.split('-')[0])).toBeLessThan(12 * MIB);
    expect(asked().at(-1)).toBe(`${20 * MIB}-`);
    expect(await world.fetchedBytes()).toBeLessThan(blob.size * 1.1);
  });

  it('is one of many small ones, before which it ends its response once they are more than that costs', async () => {
    const world = await startWorld({ linkBytesPerS: 8 * MIB });
    const blob = await layer(world, 16 * MIB, 'many-small');
    const pieces = Array.from({ length: 20 }, (_, at) => {
      const start = 10 * MIB + at * 250_000;
      return { start, end: start + 100_000 };
    });
    const { pulled } = await beginPull(world, blob);
    await readRanges(world, blob, ...pieces);
    expect(await pulled).toMatchObject(whole(blob));
    const gaps = pieces.map(({ end }, at) => `${end}-${pieces[at + 1] ? pieces[at + 1]!.start - 1 : ''}`);
    const rest = asked().filter(range => gaps.includes(range ?? ''));
    expect(rest).toEqual(gaps);
    expect(await world.fetchedBytes()).toBeLessThan(blob.size + MIB / 2);
  });

  it('is downloaded again if it is so small that to end the response would cost more', async () => {
    const world = await startWorld({ linkBytesPerS: 8 * MIB });
    const blob = await layer(world, 8 * MIB, 'small');
    const { pulled } = await beginPull(world, blob);
    const small = { start: 6 * MIB, end: 6 * MIB + 100_000 };
    await readRanges(world, blob, small);
    expect(await pulled).toMatchObject(whole(blob));
    expect(asked()).toEqual([undefined, `${small.start}-${small.end - 1}`]);
  });

  describe('that is still coming when the download reaches it', () => {
    const SIZE = 12 * MIB;
    const AHEAD = { start: 4 * MIB, end: 10 * MIB };

    /** A download, and then a client that reads a range ahead of it, at `rangeBytesPerS`. */
    async function beginBoth(seed: string, rangeBytesPerS: number) {
      const world = await startWorld();
      const blob = await layer(world, SIZE, seed);
      upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: 8 * MIB });
      const { pulled } = await beginPull(world, blob);
      upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, bytesPerS: rangeBytesPerS });
      const { reader } = await open(world, blob, [AHEAD]);
      const arrived = () => until(() => (world.mirror.downloads[0]?.bytes ?? SIZE) > AHEAD.start);
      return { world, blob, pulled, reader, arrived };
    }

    it('is waited for', async () => {
      const { world, blob, pulled, reader } = await beginBoth('waited-for', 4 * MIB);
      await Promise.all([expectRight(reader, blob, [AHEAD]), pulled]);
      expect(await pulled).toMatchObject(whole(blob));
      expect(asked()).toEqual([undefined, `${AHEAD.start}-${AHEAD.end - 1}`, `${AHEAD.end}-`]);
      expect(await world.fetchedBytes()).toBeLessThan(SIZE + MIB / 2);
    });

    it('is downloaded as far as it is missing when its client leaves', async () => {
      const { world, blob, pulled, reader, arrived } = await beginBoth('left', 4 * MIB);
      await arrived();
      await reader.close();
      expect(await pulled).toMatchObject(whole(blob));
      const rest = Number(asked()[2]?.replace('-', ''));
      expect(rest).toBeGreaterThan(AHEAD.start);
      expect(rest).toBeLessThan(AHEAD.end);
      expect(await world.fetchedBytes()).toBeLessThan(SIZE + MIB / 2);
    });

    it('is not waited for if it comes slowly', async () => {
      const { blob, pulled, reader } = await beginBoth('slow', MIB / 4);
      expect(await pulled).toMatchObject(whole(blob));
      await reader.close();
      expect(Number(asked()[2]?.replace('-', ''))).toBeLessThan(AHEAD.end);
    });

    it('is waited for by a download that begins with it', async () => {
      const world = await startWorld();
      const blob = await layer(world, SIZE, 'from-the-start');
      upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: 8 * MIB });
      const wanted = [{ start: 0, end: 4 * MIB }];
      const { reader } = await open(world, blob, wanted);
      const [pulled] = await Promise.all([world.pull(blob.digest), expectRight(reader, blob, wanted)]);
      expect(pulled).toMatchObject(whole(blob));
      expect(asked()).toEqual([`0-${4 * MIB - 1}`, `${4 * MIB}-`]);
    });
  });

  describe('that has to wait for its turn', () => {
    const SIZE = 12 * MIB;
    const AHEAD = { start: 4 * MIB, end: 10 * MIB };
    /** A download of another blob, which has a connection until it may go on. */
    async function beginOther(world: MirrorWorld) {
      const blob = await layer(world, MIB, 'other');
      const latch = new Latch();
      upstream.misbehave({
        kind: 'blob',
        reference: blob.digest,
        pause: { atByte: MIB / 2, until: latch.opened },
      });
      return { pulled: (await beginPull(world, blob)).pulled, goOn: () => latch.open() };
    }

    it('is not requested if the download has it by then, nor waited for by that', async () => {
      const world = await startWorld({ linkBytesPerS: 16 * MIB }, connections(1));
      const blob = await layer(world, SIZE, 'queued');
      const { pulled } = await beginPull(world, blob);
      await readRanges(world, blob, AHEAD);
      expect(await pulled).toMatchObject(whole(blob));
      expect(asked()).toEqual([undefined]);
      expect(await world.fetchedBytes()).toBe(SIZE);
    });

    it('is requested as far as the download will not have it in a moment', async () => {
      const world = await startWorld({}, connections(2));
      const blob = await layer(world, SIZE, 'overtaken');
      const other = await beginOther(world);
      const latch = new Latch();
      const pause = { atByte: 6 * MIB, until: latch.opened };
      upstream.misbehave({ kind: 'blob', times: 1, bytesPerS: 8 * MIB, pause });
      const { pulled } = await beginPull(world, blob);
      const reading = readRanges(world, blob, AHEAD);
      await until(() => world.mirror.downloads.some(({ bytes }) => bytes === 6 * MIB));
      other.goOn();
      await until(() => asked().length === 2);
      latch.open();
      await reading;
      expect(await pulled).toMatchObject(whole(blob));
      const [, range, rest] = asked();
      expect(Number(range?.split('-')[0])).toBeGreaterThan(6 * MIB);
      expect([range?.split('-')[1], rest]).toEqual([`${AHEAD.end - 1}`, `${AHEAD.end}-`]);
      await other.pulled;
    });

    it('is requested as far as the download of another process will not have it in a moment', async () => {
      const world = await startWorld({}, { isIndexOnDisk: true });
      const blob = await layer(world, SIZE, 'overtaken-elsewhere');
      const queuing = await another({ folder: world.folder, ...connections(1) });
      const other = await beginOther(queuing);
      const latch = new Latch();
      const pause = { atByte: 6 * MIB, until: latch.opened };
      upstream.misbehave({ kind: 'blob', times: 1, bytesPerS: 8 * MIB, pause });
      const { pulled } = await beginPull(world, blob);
      const reading = readRanges(queuing, blob, { start: 5 * MIB, end: AHEAD.end });
      await until(() => world.mirror.downloads[0]?.bytes === 6 * MIB);
      other.goOn();
      await until(() => askedExtents().some(({ end }) => end === AHEAD.end));
      latch.open();
      await reading;
      expect(await pulled).toMatchObject(whole(blob));
      const range = askedExtents().find(({ end }) => end === AHEAD.end);
      expect(range?.start).toBeGreaterThanOrEqual(6 * MIB);
      await other.pulled;
      const fetched = (await queuing.fetchedBytes()) + (await world.fetchedBytes());
      // The download goes on faster than before: it may pass the beginning of the range before it looks.
      expect(fetched).toBeLessThan(SIZE + MIB + MIB / 2);
    });

    it('is not requested if another process has stored the blob by then', async () => {
      const world = await startWorld({}, { isIndexOnDisk: true });
      const blob = await layer(world, SIZE, 'stored-meanwhile');
      // Responses begin without their first byte.
      const clock = new ManualClock().skipWaits(5_000);
      const queuing = await another({ folder: world.folder, clock, ...connections(1) });
      const other = await beginOther(queuing);
      const opened = await open(queuing, blob, [AHEAD]);
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
      await until(() => world.mirror.runningFills === 0);
      upstream.requests.length = 0;
      other.goOn();
      await expectRight(opened.reader, blob, [AHEAD]);
      expect(asked()).toEqual([]);
      await other.pulled;
    });
  });

  it('is not requested if the download will have it in a moment, or has it', async () => {
    const world = await startWorld({ linkBytesPerS: 4 * MIB });
    const blob = await layer(world, 4 * MIB, 'near');
    const { pulled } = await beginPull(world, blob, bytes => bytes > 2 * MIB);
    await readRanges(world, blob, { start: 0, end: 1000 });
    await readRanges(world, blob, { start: 2 * MIB, end: 2 * MIB + 1000 });
    expect(await pulled).toMatchObject(whole(blob));
    expect(asked()).toEqual([undefined]);
  });
});

describe('an upstream that answers ranges with', () => {
  const FAR = { start: 3 * MIB, end: 3 * MIB + 1000 };
  const RANGED = { kind: 'blob', method: 'GET', times: 1 } as const;

  it('the whole blob is asked for that, and after two such blobs in a row for no range of another', async () => {
    const world = await startWorld({ ranges: false });
    const blob = await layer(world, 4 * MIB, 'ignored');
    const { reader } = await open(world, blob, [FAR]);
    await expectRight(reader, blob, [FAR]);
    expect(asked()).toEqual([`${FAR.start}-${FAR.end - 1}`, undefined]);
    await until(() => world.mirror.runningFills === 0);
    for (const [seed, ranges] of [
      ['another', [`${FAR.start}-${FAR.end - 1}`]],
      ['third', []],
    ] as const) {
      const other = await layer(world, 4 * MIB, seed);
      upstream.requests.length = 0;
      await (await open(world, other, [FAR])).reader.close();
      expect(asked()).toEqual([...ranges, undefined]);
    }
  });

  it('the whole of one odd blob is still asked for ranges of others', async () => {
    const world = await startWorld();
    for (const seed of ['odd-1', 'even', 'odd-2', 'other']) {
      const blob = await layer(world, 4 * MIB, seed);
      if (seed.startsWith('odd')) upstream.misbehave({ ...RANGED, status: 200, body: 'x'.repeat(300 * KIB) });
      upstream.requests.length = 0;
      await (await open(world, blob, [FAR])).reader.close();
      expect(asked()[0]).toBe(`${FAR.start}-${FAR.end - 1}`);
    }
  });

  it('the whole blob is asked for a range once, however many clients want it', async () => {
    const world = await startWorld({ ranges: false });
    const blob = await layer(world, 4 * MIB, 'crowd');
    const opened = await Promise.all(Array.from({ length: 8 }, () => open(world, blob, [FAR])));
    for (const { reader } of opened) await expectRight(reader, blob, [FAR]);
    expect(asked()).toEqual([`${FAR.start}-${FAR.end - 1}`, undefined]);
  });

  const wrongAnswers = {
    'another range': { headers: { 'Content-Range': `bytes 0-999/${4 * MIB}` }, corruptByte: 10 },
    'a longer size of the blob': {
      headers: { 'Content-Range': `bytes ${FAR.start}-${FAR.end - 1}/${5 * MIB}` },
    },
    'a size that its range exceeds': {
      headers: { 'Content-Range': `bytes ${FAR.start}-${FAR.end - 1}/100` },
    },
    'more than the range that it names': {
      headers: { 'Content-Range': `bytes ${FAR.start}-${FAR.start + 499}/${4 * MIB}` },
      corruptByte: 600,
    },
    'several parts': {
      headers: { 'Content-Range': null, 'Content-Type': 'multipart/byteranges; boundary=x' },
    },
    'no Content-Range': { headers: { 'Content-Range': null } },
    '416': { status: 416 },
    'a web page': { headers: { 'Content-Type': 'text/html' } },
    'compressed bytes': { headers: { 'Content-Encoding': 'gzip' } },
    'fewer bytes than it announces': { contentLength: 2_000 },
    'more bytes than it announces': { contentLength: 500 },
  } as const;
  for (const [what, wrong] of Object.entries(wrongAnswers)) {
    it(`${what} never has a wrong byte kept`, async () => {
      const world = await startWorld();
      const blob = await layer(world, 4 * MIB, 'wrong');
      upstream.misbehave({ ...RANGED, ...wrong });
      const { reader } = await open(world, blob, [FAR]);
      await expectRight(reader, blob, [FAR]);
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    });
  }

  it('another range, after the right ones, is asked for the whole blob', async () => {
    const world = await startWorld();
    const blob = await layer(world, 4 * MIB, 'later');
    const wanted = [{ start: MIB, end: 2 * MIB }, FAR];
    const headers = { 'Content-Range': `bytes 1-1000/${blob.size}` };
    upstream.misbehave({ kind: 'blob', method: 'GET', skip: 1, headers });
    const { reader } = await open(world, blob, wanted);
    await expectRight(reader, blob, wanted);
    expect(asked().filter(range => range === undefined)).toHaveLength(1);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  /** The next response has the first `bytes` of the wanted ones. */
  const capAt = (bytes: number, { start }: Extent, size: number): void => {
    const headers = { 'Content-Range': `bytes ${start}-${start + bytes - 1}/${size}` };
    upstream.misbehave({ ...RANGED, headers, contentLength: bytes, cutAtByte: bytes });
  };

  it('less than was asked for is asked for the rest', async () => {
    const world = await startWorld({}, { clock: new ManualClock() });
    const blob = await layer(world, 4 * MIB, 'capped');
    const wanted = { start: MIB, end: 2 * MIB };
    capAt(64 * KIB, wanted, blob.size);
    await readRanges(world, blob, wanted);
    expect(asked()).toEqual([`${MIB}-${2 * MIB - 1}`, `${MIB + 64 * KIB}-${2 * MIB - 1}`]);
  });

  it('next to nothing of what was asked for is asked for the rest after a pause', async () => {
    const clock = new ManualClock();
    const world = await startWorld({}, { clock });
    const blob = await layer(world, 4 * MIB, 'drops');
    capAt(500, FAR, blob.size);
    const reading = readRanges(world, blob, FAR);
    await clock.timer(100);
    expect(asked()).toEqual([`${FAR.start}-${FAR.end - 1}`]);
    await clock.advance(100);
    await reading;
    expect(asked()).toEqual([`${FAR.start}-${FAR.end - 1}`, `${FAR.start + 500}-${FAR.end - 1}`]);
  });

  it('an end in the middle is asked for what is missing', async () => {
    const world = await startWorld();
    const blob = await layer(world, 4 * MIB, 'cut');
    upstream.misbehave({ ...RANGED, cutAtByte: 64 * KIB });
    const wanted = { start: MIB, end: 2 * MIB };
    await readRanges(world, blob, wanted);
    const [, rest] = askedExtents();
    expect(asked()).toHaveLength(2);
    expect(rest?.start).toBeGreaterThan(MIB + 32 * KIB);
    expect(rest?.start).toBeLessThanOrEqual(MIB + 64 * KIB);
  });

  it('wrong bytes has them discarded by the whole pull that finds that out, and the next one succeeds', async () => {
    const world = await startWorld();
    const blob = await layer(world, 4 * MIB, 'lies');
    upstream.misbehave({ ...RANGED, corruptByte: 10 });
    const { reader } = await open(world, blob, [{ start: FAR.start, end: FAR.start + 100 * KIB }]);
    await reader.read(Buffer.alloc(1000), FAR.start);
    await expect(world.pull(blob.digest)).rejects.toThrow('does not match');
    await expect(reader.read(Buffer.alloc(1000), FAR.start)).rejects.toThrow('does not match');
    await reader.close();
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  it('an error is answered as it is, and nothing is kept', async () => {
    for (const [status, code] of [
      [404, 'BLOB_UNKNOWN'],
      [429, 'TOOMANYREQUESTS'],
      [503, 'UNAVAILABLE'],
    ] as const) {
      const world = await startWorld();
      const blob = await layer(world, 4 * MIB, `error-${status}`);
      upstream.misbehave({ kind: 'blob', method: 'GET', status });
      await expect(open(world, blob, [FAR])).rejects.toMatchObject({ code });
      expect(asked()).toHaveLength(1);
      await world.close();
      expect(await readdir(join(world.folder, 'ingest'))).toEqual([]);
      await world.remove();
      await upstream.stop();
    }
    await startWorld();
  });
});

describe('who may have ranges that are there', () => {
  const PRIVATE = repositoryOf('private');
  const FAR = [{ start: 2 * MIB, end: 2 * MIB + 50_000 }];
  const blob = randomBlob(4 * MIB, 'secret');
  const users = {
    ann: { password: 'right', repositories: ['private'] },
    bob: { password: 'right', repositories: ['private'] },
    eve: { password: 'right', repositories: [] as string[] },
  };

  async function startPrivate(): Promise<MirrorWorld> {
    const world = await startWorld({ auth: { scheme: 'basic', users } });
    upstream.add('private', imageOf([blob]), '1');
    return world;
  }

  const rightOf = (world: MirrorWorld, name: string) =>
    world.right(PRIVATE, [nameCredential('key', name, 'right')], name);

  async function openAs(world: MirrorWorld, name: string, wanted: readonly Extent[] = FAR) {
    return world.mirror.openBlob(PRIVATE, blob.digest, await rightOf(world, name), wantOf(wanted));
  }

  async function statAs(world: MirrorWorld, name: string) {
    return world.mirror.statBlob(PRIVATE, blob.digest, await rightOf(world, name));
  }

  const readAs = async (world: MirrorWorld, name: string): Promise<string> => {
    const { reader, outcome } = await openAs(world, name);
    await expectRight(reader, blob, FAR);
    return outcome;
  };

  it('is everybody with a proved right to the repository', async () => {
    const world = await startPrivate();
    for (const name of ['ann', 'bob']) {
      await world.mirror.manifest(PRIVATE, '1', await rightOf(world, name), ANY_MANIFEST);
    }
    expect(await readAs(world, 'ann')).toBe('miss');
    expect(await readAs(world, 'bob')).toBe('hit');
    expect(askedExtents()).toEqual(FAR);
  });

  it('without one, only who gave the credentials with which they were requested', async () => {
    const world = await startPrivate();
    expect(await readAs(world, 'ann')).toBe('miss');
    expect(await readAs(world, 'ann')).toBe('hit');
    expect(await readAs(world, 'bob')).toBe('miss');
    expect(await readAs(world, 'bob')).toBe('hit');
    expect(upstream.requests.filter(({ status }) => status === 206)).toHaveLength(2);
    expect(upstream.count('blob', { method: 'HEAD' })).toBe(0);
  });

  it('is nobody else, even if upstream sends others the same range: what it sent to one may be wrong', async () => {
    const world = await startPrivate();
    const end = upstream.misbehave({ kind: 'blob', method: 'GET', corruptByte: 10 });
    const { reader } = await openAs(world, 'ann');
    const bytes = Buffer.alloc(11);
    await reader.read(bytes, FAR[0]?.start ?? 0);
    await reader.close();
    end();
    expect(bytes.equals(bytesOf(blob).subarray(2 * MIB, 2 * MIB + 11))).toBe(false);
    expect(await readAs(world, 'bob')).toBe('miss');
  });

  it('is nobody whose right upstream has ended', async () => {
    const world = await startPrivate();
    await readAs(world, 'ann');
    const end = upstream.misbehave({ kind: 'blob', status: 403 });
    const near = openAs(world, 'ann', [{ start: 0, end: 100 }]);
    await expect(near).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    await expect(openAs(world, 'ann')).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    await expect(statAs(world, 'ann')).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    end();
  });

  it.each(['before', 'while'])(
    'is nobody to whom upstream sent some before others considered this process dead, which is found %s the index is asked',
    async when => {
      const world = await startPrivate();
      await readAs(world, 'ann');
      const { presence } = world.metadata;
      // Others note no ends for it. Another Presence begins only a while after this one is known to be over.
      if (when === 'before') presence.isOver = true;
      const ask = world.metadata.hasEndedGrant.bind(world.metadata);
      vi.spyOn(world.metadata, 'hasEndedGrant').mockImplementation(async (...given) => {
        const hasEnded = await ask(...given);
        presence.isOver = true;
        return hasEnded;
      });
      const end = upstream.misbehave({ kind: 'blob', status: 403 });
      await expect(openAs(world, 'ann')).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
      end();
    },
  );

  it('is nobody for longer than a proof is valid, or after Secrets have changed', async () => {
    const world = await startPrivate();
    await readAs(world, 'ann');
    world.nowMs += 25 * 3_600_000;
    upstream.requests.length = 0;
    await statAs(world, 'ann');
    expect(upstream.requests.filter(({ status }) => status === 200)).toHaveLength(1);
    await readAs(world, 'ann');
    await world.mirror.secretsChanged();
    upstream.requests.length = 0;
    await statAs(world, 'ann');
    expect(upstream.requests.filter(({ status }) => status === 200)).toHaveLength(1);
  });

  it('do not have the blob itself, which others have made to be stored, unless upstream shows that it has it', async () => {
    const world = await startWorld();
    const shared = await layer(world, 4 * MIB, 'whole-elsewhere');
    upstream.add('evil', shared);
    const evil = repositoryOf('evil');
    // It makes up bytes, and tells the right size, for a digest that it does not have.
    upstream.misbehave({
      kind: 'blob',
      repository: 'evil',
      status: 206,
      headers: { 'Content-Range': `bytes ${2 * MIB}-${2 * MIB + 49_999}/${shared.size}` },
      body: 'x'.repeat(50_000),
    });
    const { reader } = await open(world, shared, FAR, evil);
    await reader.close();
    await world.pull(shared.digest);
    await until(() => world.mirror.runningFills === 0);
    await expect(open(world, shared, FAR, evil)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    await expect(world.pull(shared.digest, evil)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
  });

  it('is nobody whom upstream refuses', async () => {
    const world = await startPrivate();
    await readAs(world, 'ann');
    await expect(openAs(world, 'eve')).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    await expect(statAs(world, 'eve')).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    expect(await readAs(world, 'ann')).toBe('hit');
  });

  it('is nobody whom upstream refuses, who does not learn either whether it is stored, or its size', async () => {
    const world = await startPrivate();
    const behindEnd = [{ start: blob.size, end: blob.size + 1 }];
    const refusals = [];
    for (const isStored of [false, true]) {
      if (isStored) {
        const { reader } = await world.mirror.openBlob(PRIVATE, blob.digest, await rightOf(world, 'ann'));
        await expectRight(reader, blob, [{ start: 0, end: blob.size }]);
        await until(() => world.mirror.runningFills === 0);
      }
      refusals.push(await openAs(world, 'eve', behindEnd).catch((error: unknown) => error));
    }
    expect(refusals).toMatchObject([{ code: 'BLOB_UNKNOWN' }, { code: 'BLOB_UNKNOWN' }]);
  });

  it('is nobody in another repository', async () => {
    const world = await startWorld();
    const shared = await layer(world, 4 * MIB, 'in-two');
    await layer(world, 4 * MIB, 'in-two', 'other');
    await readRanges(world, shared, ...FAR);
    const { reader, outcome } = await open(world, shared, FAR, repositoryOf('other'));
    await expectRight(reader, shared, FAR);
    expect(outcome).toBe('miss');
    upstream.remove('other', shared.digest);
    const right = await world.right(repositoryOf('other'));
    const opening = world.mirror.openBlob(
      repositoryOf('other'),
      shared.digest,
      right,
      wantOf([{ start: 0, end: 100 }]),
    );
    await expect(opening).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
  });
});

describe('the rest of a blob of which ranges were read', () => {
  const QUARTER = { start: MIB, end: 2 * MIB };

  it('is not downloaded by default', async () => {
    const world = await startWorld();
    const blob = await layer(world, 4 * MIB, 'never');
    await readRanges(world, blob, QUARTER);
    expect(world.mirror.downloads).toEqual([]);
  });

  it('is downloaded at once if that is configured, and asks for no byte twice; the log says so', async () => {
    const told: string[] = [];
    const log: Log = { ...silentLog, info: (_, message) => told.push(message), child: () => log };
    const world = await startWorld({}, { completeRanged: 'now', log });
    const blob = await layer(world, 4 * MIB, 'now');
    await readRanges(world, blob, QUARTER);
    await until(async () => (await world.metadata.statBlob(blob.digest)) !== undefined);
    expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
    await until(() => world.mirror.runningFills === 0);
    expect(told.filter(message => message.startsWith('the rest of a layer'))).toEqual([
      'the rest of a layer is being downloaded (pulls.completeRanged)',
      'the rest of a layer is stored',
    ]);
  });

  it('is downloaded some time after the last read, if a quarter was read', async () => {
    const world = await startWorld({}, { completeRanged: 20 });
    const [read, looked] = [await layer(world, 4 * MIB, 'read'), await layer(world, 4 * MIB, 'looked')];
    await readRanges(world, looked, { start: MIB, end: MIB + 1000 });
    await readRanges(world, read, QUARTER);
    await until(async () => (await world.metadata.statBlob(read.digest)) !== undefined);
    await until(() => world.mirror.runningFills === 0);
    expect(await world.metadata.statBlob(looked.digest)).toBeUndefined();
    expect(await world.fetchedBytes()).toBe(read.size + 1000);
  });
});

describe('ranges for which there is no room', () => {
  const full = Object.assign(new Error('disk full'), { code: 'ENOSPC' });
  const noParts = (spool: Spool): Spool => replacing(spool, { parts: () => Promise.reject(full) });
  const apart = [
    { start: 3 * MIB, end: 4 * MIB },
    { start: 7 * MIB, end: 7 * MIB + 100 },
  ];

  it('are the only ones requested from upstream, and are passed on without being kept', async () => {
    const world = await startWorld({}, { spool: noParts });
    const blob = await layer(world, 8 * MIB, 'no-parts');
    const { reader, outcome, stored } = await open(world, blob, apart);
    expect([outcome, stored]).toEqual(['miss', false]);
    await expectRight(reader, blob, apart);
    expect(asked()).toEqual(apart.map(({ start, end }) => `${start}-${end - 1}`));
    expect([world.mirror.runningFills, world.mirror.downloads]).toEqual([0, []]);
    expect(world.mirror.problems).toMatchObject([expect.stringMatching('not stored')]);
  });

  it('are read from the whole blob once upstream answers one with another', async () => {
    const world = await startWorld({}, { spool: noParts });
    const blob = await layer(world, 8 * MIB, 'later');
    const headers = { 'Content-Range': `bytes 1-1000/${blob.size}` };
    upstream.misbehave({ kind: 'blob', method: 'GET', skip: 1, headers });
    const { reader } = await open(world, blob, apart);
    await expectRight(reader, blob, apart);
    expect(asked().at(-1)).toBeUndefined();
    await until(() => world.mirror.downloads.length === 0);
  });

  it('are logged once for each blob', async () => {
    const told: string[] = [];
    const log: Log = {
      ...silentLog,
      warn: (_, message) => void told.push(message),
      child: () => log,
    };
    const world = await startWorld({}, { spool: noParts, log });
    const blobs = [await layer(world, 4 * MIB, 'first'), await layer(world, 4 * MIB, 'second')];
    for (const blob of [...blobs, ...blobs]) await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    expect(told.filter(message => message.includes('cannot be kept'))).toHaveLength(2);
  });

  it('are passed on, too, if the index accepts no Lease', async () => {
    const world = await startWorld();
    const blob = await layer(world, 8 * MIB, 'no-lease');
    vi.spyOn(world.metadata, 'acquireLease').mockRejectedValue(full);
    await readRanges(world, blob, { start: 5 * MIB, end: 6 * MIB });
    expect(asked()).toEqual([`${5 * MIB}-${6 * MIB - 1}`]);
  });

  it('come from upstream from where the room ended', async () => {
    const world = await startWorld({}, { maxBytes: MIB });
    const blob = await layer(world, 16 * MIB, 'some-room');
    const wanted = [{ start: 8 * MIB, end: 11 * MIB }];
    const { reader, outcome, stored } = await open(world, blob, wanted);
    await expectRight(reader, blob, wanted);
    expect([outcome, stored]).toEqual(['miss', false]);
    expect(asked().length).toBe(2);
    expect(askedExtents().length).toBe(2);
    expect(new Extents(wanted).addAll(askedExtents())).toEqual(new Extents(wanted));
    expect(await world.fetchedBytes()).toBeLessThan(2 * sum(wanted));
    expect(world.mirror.problems).toEqual([]);
  });

  it('are said to be stored only if the download that brings them is', async () => {
    const clock = new ManualClock();
    const world = await startWorld({}, { clock });
    const wanted = [{ start: 256 * KIB, end: 300 * KIB }];
    const room = vi.spyOn(world.spool.space, 'mayAdmit');
    for (const roomBytes of [8 * MIB, MIB]) {
      const blob = await layer(world, 4 * MIB, `room-${roomBytes}`);
      const latch = new Latch();
      upstream.misbehave({
        kind: 'blob',
        method: 'GET',
        times: 1,
        pause: { atByte: 200 * KIB, until: latch.opened },
      });
      const { pulled } = await beginPull(world, blob);
      await until(() => !clock.has(5_000));
      room.mockImplementation(async bytes => bytes <= roomBytes);
      const opening = open(world, blob, wanted);
      // It does not wait longer for its first byte.
      await clock.timer(5_000);
      await clock.advance(5_000);
      const { reader, outcome, stored } = await opening;
      latch.open();
      await expectRight(reader, blob, wanted);
      expect([outcome, stored]).toEqual(['joined', roomBytes > blob.size]);
      await pulled;
    }
  });

  it('come no faster than their client reads, and end when it leaves', async () => {
    const world = await startWorld({}, { spool: noParts });
    const blob = await layer(world, 64 * MIB, 'slow-client');
    const { reader } = await open(world, blob, [{ start: MIB, end: 63 * MIB }]);
    await reader.read(Buffer.alloc(1), MIB);
    await untilNothingIsSent();
    expect(await world.fetchedBytes()).toBeLessThan(2 * MIB);
    expect(world.mirror.downloads).toMatchObject([{ kind: 'streamed', size: 62 * MIB, readers: 1 }]);
    await reader.close();
    await until(() => world.mirror.downloads.length === 0 && world.mirror.queue.running === 0);
  });

  it('are read from the whole blob if upstream ignores ranges', async () => {
    const world = await startWorld({ ranges: false }, { spool: noParts });
    const blob = await layer(world, 4 * MIB, 'no-ranges');
    expect(await readRanges(world, blob, { start: MIB, end: 2 * MIB })).toBe('miss');
  });

  it('are refused with the status of upstream', async () => {
    const world = await startWorld({}, { spool: noParts });
    const blob = await layer(world, 4 * MIB, 'refused');
    upstream.misbehave({ kind: 'blob', method: 'GET', status: 404 });
    const opened = open(world, blob, [{ start: MIB, end: 2 * MIB }]);
    await expect(opened).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    expect(world.mirror.downloads).toEqual([]);
  });
});

describe('ranges on disk', () => {
  it('are there after a restart', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'restart');
    await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    await world.close();
    const next = await another({ folder: world.folder });
    upstream.requests.length = 0;
    expect(await readRanges(next, blob, { start: MIB, end: 2 * MIB })).toBe('hit');
    expect(upstream.requests).toEqual([]);
    expect(await next.pull(blob.digest)).toMatchObject(whole(blob));
    expect(asked()).toEqual([`0-${MIB - 1}`, `${2 * MIB}-`]);
  });

  it('are saved before many more of them may come', async () => {
    const saving = new Latch();
    const slow = (parts: BlobParts): BlobParts =>
      replacing(parts, {
        save: async () => {
          await saving.opened;
          await parts.save();
        },
      });
    const world = await startWorld(
      {},
      { spool: spool => replacing(spool, { parts: async (...args) => slow(await spool.parts(...args)) }) },
    );
    const blob = await layer(world, 64 * MIB, 'unsaved');
    const wanted = { start: 0, end: 48 * MIB };
    const reading = readRanges(world, blob, wanted);
    await until(async () => (await world.fetchedBytes()) > MAX_UNSAVED_BYTES - 2 * MIB);
    await untilNothingIsSent();
    expect(await world.fetchedBytes()).toBeLessThan(MAX_UNSAVED_BYTES + 2 * MIB);
    saving.open();
    expect(await reading).toBe('miss');
    await until(async () => (await savedIn(world)) === sum([wanted]));
  });

  it('that cannot be read are downloaded again', async () => {
    const unreadable: Error[] = [];
    const failing = (parts: BlobParts): BlobParts =>
      replacing(parts, {
        read: async (buffer, position) => {
          const [failure] = unreadable;
          if (failure !== undefined) throw failure;
          return parts.read(buffer, position);
        },
      });
    const world = await startWorld(
      {},
      { spool: spool => replacing(spool, { parts: async (...args) => failing(await spool.parts(...args)) }) },
    );
    const [pulled, read] = [await layer(world, 4 * MIB, 'pulled'), await layer(world, 4 * MIB, 'read')];
    for (const blob of [pulled, read]) await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    unreadable.push(Object.assign(new Error('unreadable'), { code: 'EIO' }));
    expect(await world.pull(pulled.digest)).toMatchObject(whole(pulled));
    await readRanges(world, read, { start: MIB, end: 2 * MIB });
  });

  it('count against the limit of the store; beyond it, clients get theirs all the same', async () => {
    const world = await startWorld({}, { maxBytes: 2 * MIB });
    const blob = await layer(world, 4 * MIB, 'limited');
    await readRanges(world, blob, { start: 0, end: MIB });
    expect(world.spool.unfinishedBytes).toBe(MIB);
    await readRanges(world, blob, { start: 2 * MIB, end: 3.5 * MIB });
    expect(world.spool.unfinishedBytes).toBeLessThanOrEqual(2 * MIB);
  });

  it('are listed, with the readers of those that are in use, and after a restart still with repository and size', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'listed');
    const wanted = [{ start: MIB, end: 2 * MIB }];
    const { reader } = await open(world, blob, wanted);
    await reader.read(Buffer.alloc(10), MIB);
    const inUse = { digest: blob.digest, repository: 'up.example/app', size: blob.size, readers: 1 };
    expect(await world.mirror.partialBlobs()).toMatchObject([inUse]);
    await expectRight(reader, blob, wanted);
    await world.close();
    const next = await another({ folder: world.folder });
    const idle = { ...inUse, kind: 'ranges', readers: 0, isOpen: false };
    const [state, ...others] = await next.mirror.partialBlobs();
    expect([state, others]).toMatchObject([idle, []]);
    expect(state?.bytes).toBeGreaterThanOrEqual(MIB);
  });

  it('are listed with how many bytes are there, not with the blocks of the disk that they take', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'counted');
    for (const start of [MIB, 2 * MIB, 3 * MIB]) await readRanges(world, blob, { start, end: start + 10 });
    expect(await world.mirror.partialBlobs()).toMatchObject([{ isOpen: true, bytes: 30 }]);
    await world.close();
    const next = await another({ folder: world.folder });
    expect(await next.mirror.partialBlobs()).toMatchObject([{ isOpen: false, bytes: 30 }]);
  });

  it('are not listed as those of another repository that names the blob, too', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'shared');
    await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    upstream.add('newer', imageOf([blob]), 'shared');
    await world.manifest('shared', repositoryOf('newer'));
    await world.close();
    const next = await another({ folder: world.folder });
    expect(await next.mirror.partialBlobs()).toMatchObject([{ repository: `${UPSTREAM}/app` }]);
  });

  it('are listed with a download that was interrupted, which goes on when it is wanted', async () => {
    const world = await startWorld(SLOW, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'interrupted');
    const { pulled } = await beginPull(world, blob, bytes => bytes > MIB);
    const ended = pulled.catch(() => {});
    expect(await world.mirror.partialBlobs()).toEqual([]);
    await world.mirror.close(0);
    await ended;
    await world.close();
    const next = await another({ folder: world.folder });
    const [state, ...others] = await next.mirror.partialBlobs();
    const interrupted = {
      kind: 'download',
      digest: blob.digest,
      repository: `${UPSTREAM}/app`,
      size: blob.size,
    };
    expect([state, others]).toMatchObject([interrupted, []]);
    expect(state?.bytes).toBeGreaterThan(0);
    expect(await next.pull(blob.digest)).toMatchObject(whole(blob));
    await until(() => next.mirror.runningFills === 0);
    expect(await next.mirror.partialBlobs()).toEqual([]);
  });

  it('are removed when the blob is stored', async () => {
    const world = await startWorld();
    const blob = await layer(world, 4 * MIB, 'removed');
    await readRanges(world, blob, { start: MIB, end: 2 * MIB });
    await world.pull(blob.digest);
    await until(() => world.mirror.runningFills === 0);
    await until(async () => (await readdir(join(world.folder, 'ingest'))).length === 0);
    expect(await openIngests(world)).toEqual([]);
    expect(world.spool.unfinishedBytes).toBe(0);
  });
});

describe('two processes on one store', () => {
  const HALVES = [
    { start: MIB, end: 2 * MIB },
    { start: 3 * MIB, end: 3.5 * MIB },
  ] as const;

  it('each have what the other has saved, and a whole pull takes both', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'both');
    const other = await another({ folder: world.folder });
    await readRanges(world, blob, HALVES[0]);
    await until(async () => (await savedIn(world)) === MIB);
    expect(await readRanges(other, blob, HALVES[0])).toBe('hit');
    await readRanges(other, blob, HALVES[1]);
    expect(askedExtents()).toEqual(HALVES);
    await until(async () => (await savedIn(world)) === 1.5 * MIB);
    // They look no more than once a second.
    const now = performance.now.bind(performance);
    vi.spyOn(performance, 'now').mockImplementation(() => now() + 2_000);
    expect(await readRanges(world, blob, HALVES[1])).toBe('hit');
    upstream.requests.length = 0;
    expect(await other.pull(blob.digest)).toMatchObject(whole(blob));
    expect(asked()).toEqual([`0-${MIB - 1}`, `${2 * MIB}-${3 * MIB - 1}`, `${3.5 * MIB}-`]);
    for (const one of [world, other]) await one.close();
    expect(await openIngests(world)).toEqual([]);
  });

  it('request once what both want at the same time', async () => {
    const world = await startWorld(SLOW, { isIndexOnDisk: true });
    const blob = await layer(world, 16 * MIB, 'race');
    const other = await another({ folder: world.folder });
    const wanted = (at: number): Extent => ({ start: at * MIB, end: at * MIB + 700 * KIB });
    for (let at = 0; at < 16; at += 1) {
      await Promise.all([world, other, world, other].map(one => readRanges(one, blob, wanted(at))));
    }
    expect(askedExtents()).toEqual(Array.from({ length: 16 }, (_, at) => wanted(at)));
  });

  it('request none of the bytes of ranges that overlap twice', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 16 * MIB, 'overlaps');
    const other = await another({ folder: world.folder });
    const chance = new Chance(1);
    for (let round = 0; round < 12; round += 1) {
      await Promise.all(
        [world, other, world, other].map(async one => {
          const start = chance.below(15 * MIB);
          await readRanges(one, blob, { start, end: start + 20 * KIB + chance.below(MIB) });
        }),
      );
    }
    const all = askedExtents();
    expect(sum(all)).toBe(new Extents(all).bytes);
    expect((await world.fetchedBytes()) + (await other.fetchedBytes())).toBe(sum(all));
  });

  it('have at once what the other has just received: its size, and for a whole pull', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'just-received');
    const other = await another({ folder: world.folder });
    await readRanges(world, blob, HALVES[0]);
    upstream.requests.length = 0;
    expect(await statOf(other, blob)).toMatchObject({ size: blob.size, outcome: 'hit' });
    expect(await other.pull(blob.digest)).toMatchObject(whole(blob));
    expect(upstream.requests.filter(({ method }) => method === 'HEAD')).toEqual([]);
    expect(asked()).toEqual([`0-${MIB - 1}`, `${2 * MIB}-`]);
  });

  it('read on when the client leaves for whom the other requests it', async () => {
    const world = await startWorld(SLOW, { isIndexOnDisk: true });
    const blob = await layer(world, 16 * MIB, 'leaver');
    const other = await another({ folder: world.folder });
    const wanted = { start: MIB, end: 9 * MIB };
    const { reader } = await open(world, blob, [wanted]);
    await reader.read(Buffer.alloc(1), MIB);
    const joined = await open(other, blob, [wanted]);
    expect(joined.outcome).toBe('joined');
    await joined.reader.read(Buffer.alloc(1), MIB);
    await reader.close();
    await expectRight(joined.reader, blob, [wanted]);
    const fetched = (await world.fetchedBytes()) + (await other.fetchedBytes());
    expect(fetched).toBe(wanted.end - wanted.start);
  });

  it('hold nothing that they could not remove', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'unremovable');
    const other = await another({ folder: world.folder });
    await readRanges(world, blob, HALVES[0]);
    await readRanges(other, blob, HALVES[1]);
    for (const one of [world, other]) await one.close();
    const ofOther = partsKey(repositoryText(APP), blob.digest, 1);
    const failures: Error[] = [];
    const last = await another({
      folder: world.folder,
      spool: spool =>
        replacing(spool, {
          parts: async (lease, size) => {
            if (lease.key !== ofOther) return spool.parts(lease, size);
            failures.push(Object.assign(new Error('unreadable'), { code: 'EIO' }));
            throw failures.at(-1);
          },
        }),
    });
    expect(await last.pull(blob.digest)).toMatchObject(whole(blob));
    await until(async () => failures.length > 0 && (await last.metadata.readLease(ofOther)) === undefined);
  });

  it('ask upstream themselves for what the other is refused', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'refused');
    const other = await another({ folder: world.folder });
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, delayMs: 200, status: 503 });
    const first = open(world, blob, [HALVES[0]]);
    await until(() => asked().length === 1);
    const second = readRanges(other, blob, HALVES[0]);
    await expect(first).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await second;
    expect(askedExtents()).toEqual([HALVES[0], HALVES[0]]);
  });

  it('take over what one left that has ended', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'left');
    const other = await another({ folder: world.folder });
    await readRanges(world, blob, HALVES[0]);
    await world.close();
    expect(await readRanges(other, blob, HALVES[0])).toBe('hit');
    expect(askedExtents()).toEqual([HALVES[0]]);
  });

  describe('of which one downloads a blob', () => {
    const SIZE = 12 * MIB;

    async function beginInOne(seed: string) {
      const world = await startWorld({ linkBytesPerS: 8 * MIB }, { isIndexOnDisk: true });
      const blob = await layer(world, SIZE, seed);
      const other = await another({ folder: world.folder });
      const { pulled } = await beginPull(world, blob);
      await until(() => (world.mirror.downloads[0]?.bytes ?? SIZE) > 2 * MIB);
      return { world, other, blob, pulled };
    }

    it('read what is there, and what comes in a moment, from it in the other', async () => {
      const { world, other, blob, pulled } = await beginInOne('followed');
      const wanted = { start: MIB, end: 2 * MIB + 200_000 };
      expect(await readRanges(other, blob, wanted)).toMatch(/joined|hit/);
      expect(await readRanges(other, blob, { start: 0, end: 100_000 })).toBe('hit');
      expect(await pulled).toMatchObject(whole(blob));
      expect(await other.fetchedBytes()).toBe(0);
      expect(await world.fetchedBytes()).toBe(SIZE);
      // Upstream proves to the other that the repository has the blob: once before it is verified, and once after.
      expect(sum(askedExtents())).toBeLessThanOrEqual(24 * KIB);
    });

    it('leave it alone when their reader leaves', async () => {
      const { world, other, blob, pulled } = await beginInOne('left-alone');
      const wanted = [{ start: MIB, end: 2 * MIB + 200_000 }];
      const { reader } = await open(other, blob, wanted);
      await reader.read(Buffer.alloc(1), MIB);
      await reader.close();
      await other.close();
      expect(await pulled).toMatchObject(whole(blob));
      expect(await world.fetchedBytes()).toBe(SIZE);
    });

    it('read the end when it is verified', async () => {
      const { world, other, blob, pulled } = await beginInOne('followed-to-the-end');
      await until(() => (world.mirror.downloads[0]?.bytes ?? SIZE) > SIZE - MIB);
      await readRanges(other, blob, { start: SIZE - MIB, end: SIZE });
      expect(await pulled).toMatchObject(whole(blob));
      expect(await other.fetchedBytes()).toBe(0);
    });

    it('request at once what is far from it', async () => {
      const { other, blob, pulled } = await beginInOne('far-from-it');
      const far = { start: SIZE - MIB, end: SIZE - MIB / 2 };
      expect(await readRanges(other, blob, far)).toBe('miss');
      expect(askedExtents()).toEqual([far]);
      await pulled;
    });

    it('leave no file open if the index cannot be asked whether a right has ended', async () => {
      const { world, other, blob, pulled } = await beginInOne('unknown-end');
      const wanted = [{ start: MIB, end: 2 * MIB }];
      const asking = vi.spyOn(other.metadata, 'hasEndedGrant').mockRejectedValue(new Error('index locked'));
      const right = { ...(await other.right()), proved: false, provedIfUnreachable: false };
      const { reader } = await other.mirror.openBlob(APP, blob.digest, right, wantOf(wanted));
      await expectRight(reader, blob, wanted);
      expect(asking).toHaveBeenCalled();
      expect(await pulled).toMatchObject(whole(blob));
      for (const one of [world, other]) await one.close();
      expect(await openIngests(world)).toEqual([]);
    });

    describe('and the other a range far ahead of it', () => {
      const AHEAD = { start: 6 * MIB, end: 10 * MIB };

      async function beginBoth(seed: string, rangeBytesPerS: number) {
        const world = await startWorld({}, { isIndexOnDisk: true });
        const blob = await layer(world, SIZE, seed);
        const other = await another({ folder: world.folder });
        upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: 8 * MIB });
        const { pulled } = await beginPull(world, blob);
        await until(() => (world.mirror.downloads[0]?.bytes ?? 0) > MIB);
        upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, bytesPerS: rangeBytesPerS });
        const { reader } = await open(other, blob, [AHEAD]);
        const fetched = async () => (await world.fetchedBytes()) + (await other.fetchedBytes());
        return { world, other, blob, pulled, reader, fetched };
      }

      it('leave that out of the download', async () => {
        const { blob, pulled, reader, fetched } = await beginBoth('left-out', 64 * MIB);
        await expectRight(reader, blob, [AHEAD]);
        expect(await pulled).toMatchObject(whole(blob));
        expect(asked()).toEqual([undefined, `${AHEAD.start}-${AHEAD.end - 1}`, `${AHEAD.end}-`]);
        expect(await fetched()).toBe(SIZE);
      });

      it('wait for it there while it comes', async () => {
        const { blob, pulled, reader, fetched } = await beginBoth('comes', 4 * MIB);
        await Promise.all([expectRight(reader, blob, [AHEAD]), pulled]);
        expect(await pulled).toMatchObject(whole(blob));
        expect(asked()).toEqual([undefined, `${AHEAD.start}-${AHEAD.end - 1}`, `${AHEAD.end}-`]);
        expect(await fetched()).toBe(SIZE);
      });

      it('do not wait for it if it comes slowly', async () => {
        const { world, other, blob, pulled, reader } = await beginBoth('comes-slowly', MIB / 4);
        expect(await pulled).toMatchObject(whole(blob));
        expect(Number(asked()[2]?.replace('-', ''))).toBeLessThan(AHEAD.end);
        await reader.close();
        for (const one of [world, other]) await one.close();
        expect(await openIngests(world)).toEqual([]);
        expect(await readdir(join(world.folder, 'ingest'))).toEqual([]);
      });

      it('download the rest when its client leaves', async () => {
        const { world, blob, pulled, reader, fetched } = await beginBoth('its-client-leaves', 4 * MIB);
        await until(() => (world.mirror.downloads[0]?.bytes ?? 0) > AHEAD.start);
        await reader.close();
        expect(await pulled).toMatchObject(whole(blob));
        expect(Number(asked()[2]?.replace('-', ''))).toBeLessThan(AHEAD.end);
        expect(await fetched()).toBe(SIZE);
      });
    });

    for (const [what, becomes] of [
      ['ends', 'broken'],
      ['pauses', 'complete'],
    ] as const) {
      it(`request the rest when that process ${what}`, async () => {
        const world = await startWorld({}, { isIndexOnDisk: true });
        const blob = await layer(world, SIZE, what);
        const other = await another({ folder: world.folder });
        let goOn: (() => void) | undefined;
        const goingOn = new Promise<void>(resolve => (goOn = resolve));
        upstream.misbehave({ kind: 'blob', times: 1, pause: { atByte: 3 * MIB, until: goingOn } });
        const { pulled } = await beginPull(world, blob, bytes => bytes >= 3 * MIB);
        const ended = pulled.then(
          () => 'complete',
          () => 'broken',
        );
        await until(() => world.mirror.downloads[0]?.bytes === 3 * MIB);
        const [here, next] = [
          { start: MIB, end: 3 * MIB },
          { start: 3 * MIB, end: 3 * MIB + 100_000 },
        ];
        const { reader } = await open(other, blob, [here, next]);
        await readRight(reader, blob, here);
        if (what === 'ends') await world.close();
        await expectRight(reader, blob, [next]);
        expect(await other.fetchedBytes()).toBe(100_000);
        expect(other.mirror.runningFills).toBe(0);
        goOn?.();
        expect(await ended).toBe(becomes);
        for (const one of [world, other]) await one.close();
        expect(await openIngests(world)).toEqual([]);
      });
    }

    it('read none of it for another repository, which only names the blob', async () => {
      const { other, blob, pulled } = await beginInOne('named');
      await layer(other, SIZE, 'named', 'evil');
      upstream.remove('evil', blob.digest);
      const wanted = { start: MIB, end: 2 * MIB };
      await readRanges(other, blob, wanted);
      const opening = open(other, blob, [wanted], repositoryOf('evil'));
      await expect(opening).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
      await pulled;
    });
  });

  it('keep nothing of a blob that the other has stored', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'stored');
    const other = await another({ folder: world.folder });
    await readRanges(other, blob, HALVES[0]);
    await world.pull(blob.digest);
    await until(() => world.mirror.runningFills === 0);
    await other.close();
    expect(await readdir(join(world.folder, 'ingest'))).toEqual([]);
  });

  it('request again what another has removed while it was being read', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'gone');
    const other = await another({ folder: world.folder });
    await readRanges(world, blob, HALVES[0]);
    await until(async () => (await savedIn(world)) === MIB);
    const { reader, outcome } = await open(other, blob, [HALVES[0]]);
    expect(outcome).toBe('hit');
    for await (const { name } of world.spool.list()) await rm(join(world.folder, 'ingest', name));
    const now = performance.now.bind(performance);
    vi.spyOn(performance, 'now').mockImplementation(() => now() + 2_000);
    await readRanges(other, blob, HALVES[1]);
    await expectRight(reader, blob, [HALVES[0]]);
    expect(askedExtents()).toEqual([HALVES[0], HALVES[1], HALVES[0]]);
  });

  it('read nothing of each other any more once it was found to be wrong', async () => {
    const world = await startWorld({}, { isIndexOnDisk: true });
    const blob = await layer(world, 4 * MIB, 'wrong');
    const other = await another({ folder: world.folder });
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, corruptByte: 10 });
    const { reader } = await open(world, blob, [HALVES[0]]);
    await reader.read(Buffer.alloc(1000), HALVES[0].start);
    await until(async () => (await savedIn(world)) === MIB);
    await (await open(other, blob, [HALVES[0]])).reader.close();
    await expect(other.pull(blob.digest)).rejects.toThrow('does not match');
    expect(await other.pull(blob.digest)).toMatchObject(whole(blob));
    await reader.close();
  });
});
