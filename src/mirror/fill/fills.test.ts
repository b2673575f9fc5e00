import { createHash } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { rename, rm, truncate, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { tracesOn } from '../../../test/support/signal-traces.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../../../test/support/content.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../../../test/support/fake-upstream.ts';
import { Latch } from '../../../test/support/latch.ts';
import {
  APP,
  isDownload,
  MirrorWorld,
  type MirrorWorldOptions,
  readAll,
  repositoryOf,
  whole,
} from '../../../test/support/mirror-world.ts';
import { Bucket, ObjectBlobStore } from '../../blobs/object-blob-store.fixture.ts';
import type { Spool } from '../../blobs/spool.ts';
import { HOLD_BACK_BYTES } from '../../lib/blob-reader.ts';
import { type Log, silentLog } from '../../lib/log.ts';
import { steadyLease } from '../../lib/lease.suite.ts';
import { type Lease, LeaseLost } from '../../lib/lease.ts';
import { ManualClock } from '../../lib/manual-clock.fixture.ts';
import { UpstreamRequests } from '../upstream-requests.ts';
import { IndexLost } from '../../metadata/index-lost.ts';
import { stopCollecting } from '../../metadata/store-identity.ts';
import { Connection } from '../../metadata/sqlite/connection.ts';
import { type Digest, digestHex } from '../../oci/digest.ts';
import { repositoryText } from '../../oci/repository.ts';

const MIB = 1024 * 1024;
/** How many downloads there may be. */
const MAX_RUNS = 4_096;
/** No pause between two attempts is longer. */
const MAX_BACKOFF_MS = 2_000;
let upstream: FakeUpstream;
let worlds: MirrorWorld[] = [];

async function start(fake: FakeUpstreamOptions = {}, options: MirrorWorldOptions = {}): Promise<MirrorWorld> {
  upstream = await FakeUpstream.start(fake);
  return another({ isIndexOnDisk: true, clock: new ManualClock().skipWaits(MAX_BACKOFF_MS), ...options });
}

async function another(options: MirrorWorldOptions = {}): Promise<MirrorWorld> {
  const world = await MirrorWorld.open(upstream, options);
  worlds.push(world);
  return world;
}

function added(size: number, seed: string, repository = 'app'): Content {
  const blob = randomBlob(size, seed);
  upstream.add(repository, blob);
  return blob;
}

const blobRequests = (method: 'GET' | 'HEAD' = 'GET') => upstream.count('blob', { method });
/** Without those that only show some of what is held. */
const downloads = () => upstream.requests.filter(request => request.kind === 'blob' && isDownload(request));
const held = async (world: MirrorWorld, blob: Content) =>
  (await world.metadata.statBlob(blob.digest)) !== undefined;

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(5);
}

/** After a verified Fill its commit goes on behind the readers. */
const idle = (world: MirrorWorld) => until(() => world.mirror.runningFills === 0);

/** Has the process stand still at its next look, until `wake`. */
async function standStill(world: MirrorWorld): Promise<() => void> {
  const state = { isStill: false, wake: () => {} };
  const waking = new Promise<void>(resolve => {
    state.wake = resolve;
  });
  const statBlob = world.metadata.statBlob.bind(world.metadata);
  vi.spyOn(world.metadata, 'statBlob').mockImplementation(async digest => {
    state.isStill = true;
    await waking;
    return statBlob(digest);
  });
  await until(() => state.isStill);
  return state.wake;
}

afterEach(async () => {
  for (const world of worlds) await world.remove();
  worlds = [];
  await upstream.stop();
});

/** Sends spaces for as long as anybody takes them, and never says how many. */
const ENDLESS = {
  kind: 'blob',
  method: 'GET',
  spaces: 400 * MIB,
  headers: { 'Content-Length': null },
} as const;

/** Sends so much of a blob, and then nothing more. */
const HALFWAY = { kind: 'blob', method: 'GET', hangAtByte: 2 * MIB } as const;

/** What the downloads under way have on disk, and those that ended have left there. */
async function ingestBytes(world: MirrorWorld): Promise<number> {
  let bytes = 0;
  for await (const { size } of world.spool.list()) bytes += size;
  return bytes;
}

it('a blob takes one durable commit, that of the blob with its Link', async () => {
  const world = await start();
  // The first of the repository also records the right to it.
  await world.pull(added(1_000, 'first').digest);
  await idle(world);
  const second = added(MIB, 'second');
  const commits = vi.spyOn(Connection.prototype, 'syncsCommits', 'set');
  await world.pull(second.digest);
  await idle(world);
  const synced = commits.mock.calls.filter(([isSynced]) => isSynced);
  commits.mockRestore();
  expect(synced.length).toBe(1);
});

it('downloads leave nothing on the signal that ends all of them', async () => {
  const closing = vi.spyOn(UpstreamRequests.prototype, 'closing', 'get');
  const world = await start();
  const blob = added(3 * MIB, 'once');
  upstream.misbehave({ kind: 'blob', cutAtByte: MIB, times: 1 });
  expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  await idle(world);
  const signals = closing.mock.results.map(({ value }) => value);
  closing.mockRestore();
  expect(signals.length).toBeGreaterThan(0);
  for (const signal of signals) expect(tracesOn(signal)).toBe(0);
});

it('of more downloads than there may be, the oldest that nobody waits for is given up, or else the newest', async () => {
  const clock = new ManualClock();
  const limits = { maxConnections: 1, serializeImagePulls: false, maxParallelImagePulls: undefined };
  const world = await start({}, { isIndexOnDisk: false, clock, limits });
  upstream.misbehave({ kind: 'blob', hang: true });
  const right = await world.right();
  const failures = new Map<number, unknown>();
  const ask = async (from: number, to: number): Promise<void> => {
    for (let at = from; at < to; at += 1) {
      const { digest } = randomBlob(32, `${at}`);
      world.mirror.openBlob(APP, digest, right).catch((error: unknown) => failures.set(at, error));
    }
    await until(() => world.mirror.runningFills === MAX_RUNS);
  };
  await ask(0, MAX_RUNS);
  expect(failures.size).toBe(0);
  await ask(MAX_RUNS, MAX_RUNS + 3);
  await until(() => failures.size === 3);
  expect([...failures]).toEqual(
    [0, 1, 2].map(more => [MAX_RUNS + more, expect.objectContaining({ code: 'UNAVAILABLE' })]),
  );
  // No client waits longer.
  await clock.advance(20_000);
  await until(() => failures.size === MAX_RUNS + 3);
  await ask(2 * MAX_RUNS, 2 * MAX_RUNS + 3);
  expect(world.mirror.queue.waiting).toBe(MAX_RUNS - 1);
  expect(failures.size).toBe(MAX_RUNS + 3);
});

describe('an upstream that sends more than declared', () => {
  it('is cut off at the size in a stored manifest, and nothing is kept', async () => {
    const world = await start();
    for (const size of [1_000, MIB]) {
      const layer = randomBlob(size, `named ${size}`);
      upstream.add('app', imageOf([layer]), `of-${size}`);
      await world.manifest(`of-${size}`);
      const behave = upstream.misbehave(ENDLESS);
      const sentBefore = upstream.bytesSent;
      await expect(world.pull(layer.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      await idle(world);
      expect(upstream.bytesSent - sentBefore).toBeLessThan(32 * MIB);
      expect(await ingestBytes(world)).toBe(0);
      behave();
      expect(await world.pull(layer.digest)).toMatchObject(whole(layer));
    }
  });

  it('is cut off after all clients have left', async () => {
    const limits = { maxConnections: 1, serializeImagePulls: false, maxParallelImagePulls: undefined };
    const world = await start({ linkBytesPerS: 16 * MIB }, { limits });
    const layer = randomBlob(MIB, 'left');
    upstream.add('app', imageOf([layer]), '1.0');
    await world.manifest('1.0');
    const first = world.pull(added(4 * MIB, 'before it').digest);
    await until(() => upstream.bytesSent > MIB);
    upstream.misbehave(ENDLESS);
    const { reader } = await world.open(layer.digest);
    await reader.close();
    await first;
    await idle(world);
    expect(upstream.bytesSent).toBeLessThan(32 * MIB);
    expect(await ingestBytes(world)).toBe(0);
  });

  it('is avoided in favour of a mirror that has the declared size', async () => {
    const mirror = await FakeUpstream.start();
    try {
      const world = await start({}, { upstream: { mirrors: [{ url: mirror.url }] } });
      const layer = randomBlob(1_000, 'mirrored');
      const image = imageOf([layer]);
      upstream.add('app', image, '1.0');
      mirror.add('app', image);
      await world.manifest('1.0');
      upstream.misbehave(ENDLESS);
      await expect(world.pull(layer.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      expect(await world.pull(layer.digest)).toMatchObject(whole(layer));
      expect(mirror.count('blob', { method: 'GET' })).toBe(1);
    } finally {
      await mirror.stop();
    }
  });

  it('is refused before its body if it announces another size than all clients know', async () => {
    const world = await start();
    const layer = randomBlob(MIB, 'announced');
    upstream.add('app', imageOf([layer]), '1.0');
    await world.manifest('1.0');
    upstream.misbehave({ kind: 'blob', method: 'GET', spaces: 400 * MIB });
    await expect(world.pull(layer.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    await idle(world);
    expect(upstream.bytesSent).toBeLessThan(32 * MIB);
    expect(await ingestBytes(world)).toBe(0);
  });

  it('is cut off if nobody has waited for a minute and the size is unknown', async () => {
    const clock = new ManualClock();
    const world = await start({}, { clock });
    const blob = added(MIB, 'unnamed and unread');
    upstream.misbehave({ ...ENDLESS, bytesPerS: 8 * MIB });
    const opened = world.open(blob.digest);
    opened.catch(() => {});
    await until(() => upstream.bytesSent > 0);
    await clock.pass(20_000);
    await expect(opened).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    clock.skip(61_000);
    await idle(world);
    expect(upstream.bytesSent).toBeLessThan(400 * MIB);
    expect(await ingestBytes(world)).toBe(0);
  });

  it('gets no more than a share of the store for blobs of unknown size, until their files are removed', async () => {
    const world = await start({}, { maxBytes: 64 * MIB });
    const files = new EventEmitter();
    const mayGo = once(files, 'mayGo');
    const makeIngest = world.spool.ingest.bind(world.spool);
    vi.spyOn(world.spool, 'ingest').mockImplementation(async (lease, options) => {
      const ingest = await makeIngest(lease, options);
      const abort = ingest.abort.bind(ingest);
      vi.spyOn(ingest, 'abort').mockImplementation(() => mayGo.then(abort));
      return ingest;
    });
    const blobs = ['a', 'b', 'c'].map(seed => added(MIB, `unnamed ${seed}`));
    upstream.misbehave(ENDLESS);
    upstream.misbehave({ kind: 'blob', method: 'HEAD', headers: ENDLESS.headers });
    for (const { digest } of blobs) {
      await expect(world.pull(digest)).rejects.toMatchObject({ code: 'INSUFFICIENT_STORAGE' });
    }
    const mostBytes = await ingestBytes(world);
    expect(mostBytes).toBeGreaterThan(0);
    expect(mostBytes).toBeLessThanOrEqual(16 * MIB);
    files.emit('mayGo');
    await idle(world);
    expect(await ingestBytes(world)).toBe(0);
  });

  it('is refused as wrong if it is endless, and HEAD tells the size of a blob for which there is no room', async () => {
    const world = await start({}, { maxBytes: 16 * MIB });
    const blob = added(MIB, 'other size by HEAD');
    upstream.misbehave(ENDLESS);
    await expect(world.open(blob.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    await idle(world);
    expect(await ingestBytes(world)).toBe(0);
  });

  it('is streamed to its reader alone if the blob is larger than the whole store', async () => {
    const world = await start({}, { maxBytes: MIB });
    const blob = added(3 * MIB, 'larger than the store');
    upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: 4 * MIB });
    const pulled = world.pull(blob.digest);
    // Besides the Fill, which ends when it finds no room.
    const streamed = () => world.mirror.downloads.filter(({ kind }) => kind === 'streamed');
    await until(() => (streamed()[0]?.bytes ?? 0) > 0);
    expect(streamed()).toMatchObject([
      {
        repository: expect.stringMatching(/.app$/),
        digest: blob.digest,
        state: 'downloading',
        size: blob.size,
        readers: 1,
        requesters: ['anonymous'],
        startedAtMs: world.nowMs,
      },
    ]);
    expect(world.mirror.queue.running).toBe(world.mirror.downloads.length);
    expect(await pulled).toMatchObject(whole(blob));
    await idle(world);
    expect(world.mirror.downloads).toEqual([]);
    expect([await held(world, blob), await ingestBytes(world)]).toEqual([false, 0]);
  });

  it('is not kept beside stored blobs that may not be evicted, since the index may be incomplete', async () => {
    const world = await start({}, { maxBytes: 4 * MIB });
    const [first, second] = [added(3 * MIB, 'first'), added(3 * MIB, 'second')];
    await stopCollecting(world.metadata, 'the index is new');
    expect(await world.pull(first.digest)).toMatchObject(whole(first));
    await idle(world);
    const now = performance.now.bind(performance);
    vi.spyOn(performance, 'now').mockImplementation(() => now() + 5_000);
    expect(await world.pull(second.digest)).toMatchObject(whole(second));
    await idle(world);
    expect([await held(world, first), await held(world, second)]).toEqual([true, false]);
  });
});

describe('a blob that is removed while it is being stored', () => {
  it('is not said to be stored, though its readers have all of it', async () => {
    const world = await start();
    const blob = added(1000, 'removed');
    const put = world.blobs.put.bind(world.blobs);
    vi.spyOn(world.blobs, 'put').mockImplementationOnce(async (digest, ingest) => {
      const stored = await put(digest, ingest);
      const hex = digestHex(digest);
      await rm(join(world.folder, 'blobs', 'sha256', hex.slice(0, 2), hex));
      return stored;
    });
    const { reader, unstored } = await world.open(blob.digest);
    expect(await readAll(reader)).toMatchObject(whole(blob));
    expect(await unstored).toMatchObject({ message: 'the blob was removed while it was being stored' });
    await idle(world);
    expect([await held(world, blob), world.mirror.problems]).toEqual([false, []]);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    await idle(world);
    expect([await held(world, blob), world.mirror.problems]).toEqual([true, []]);
  });
});

describe('a blob for which there is no room', () => {
  const UNNAMED = { kind: 'blob', headers: { 'Content-Length': null } } as const;

  it.each(['a manifest', 'HEAD'])(
    'is passed on if upstream sends it without its size, but %s has that',
    async where => {
      const world = await start({}, { maxBytes: MIB });
      const layer = added(3 * MIB, 'unannounced');
      upstream.add('app', imageOf([layer]), '1');
      if (where === 'a manifest') await world.manifest('1');
      upstream.misbehave({ ...UNNAMED, method: 'GET' });
      expect(await world.pull(layer.digest)).toMatchObject(whole(layer));
      expect(blobRequests('HEAD')).toBe(where === 'HEAD' ? 1 : 0);
    },
  );

  it('is refused with the reason if its size cannot be found out', async () => {
    const world = await start({}, { maxBytes: MIB });
    const blob = added(3 * MIB, 'no size at all');
    upstream.misbehave(UNNAMED);
    await expect(world.open(blob.digest)).rejects.toMatchObject({
      code: 'INSUFFICIENT_STORAGE',
      message: expect.stringContaining('upstream did not report its size'),
    });
  });

  it.each(['bytes 0-99/*', 'bytes */*', 'nonsense'])(
    'is refused because of upstream if that answers everything with the range %s',
    async range => {
      const upstreamSays = { status: 206, body: 'x'.repeat(100), headers: { 'Content-Range': range } };
      const world = await start({}, { maxBytes: 300 });
      const [named, unnamed] = [added(3 * MIB, 'named'), added(3 * MIB, 'unnamed')];
      upstream.add('app', imageOf([named]), '1');
      await world.manifest('1');
      upstream.misbehave({ kind: 'blob', ...upstreamSays });
      for (const { digest } of [named, unnamed])
        await expect(world.open(digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    },
  );

  it('fails for its reader if upstream stops answering in the middle, and says how', async () => {
    const clock = new ManualClock().skipWaits(2_000);
    const world = await start({}, { maxBytes: MIB, clock });
    const blob = added(3 * MIB, 'other ranges');
    const headers = { 'Content-Range': `bytes 1-100/${blob.size}` };
    upstream.misbehave({ kind: 'blob', method: 'GET', status: 206, body: 'x'.repeat(100), headers });
    // The Fill ends at once, and its reader is sent the beginning.
    upstream.misbehave({ kind: 'blob', method: 'GET', cutAtByte: 2 * MIB, times: 2 });
    await expect(world.pull(blob.digest)).rejects.toMatchObject({
      code: 'UPSTREAM_INVALID',
      cause: { message: expect.stringContaining('different range') },
    });
  });
});

describe('a Fill', () => {
  it('gives 20 concurrent clients the bytes of one GET, and later ones the stored blob', async () => {
    const world = await start();
    const blob = added(3 * MIB + 17, 'a');
    const pulled = await Promise.all(Array.from({ length: 20 }, () => world.pull(blob.digest)));
    for (const each of pulled) expect(each).toMatchObject(whole(blob));
    expect(pulled.map(({ outcome }) => outcome).sort()).toEqual([
      ...Array<string>(19).fill('joined'),
      'miss',
    ]);
    expect([blobRequests('GET'), blobRequests('HEAD')]).toEqual([1, 0]);
    await idle(world);
    expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
    expect(upstream.requests.length).toBe(1);
  });

  it('downloads a stored blob again if its file is lost or truncated', async () => {
    const world = await start();
    const blob = added(MIB, 'lost');
    const hex = digestHex(blob.digest);
    const path = join(world.folder, 'blobs', 'sha256', hex.slice(0, 2), hex);
    for (const lose of [() => truncate(path, MIB / 2), () => rm(path)]) {
      await world.pull(blob.digest);
      await idle(world);
      await lose();
      expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'miss' });
      await idle(world);
    }
    expect(blobRequests('GET')).toBe(3);
  });

  it('does not change a blob whose file is lost for a client without a right to it', async () => {
    const world = await start();
    const blob = added(MIB, 'lost for a moment');
    const hosted = { upstream: '', name: 'team/app' };
    await world.pull(blob.digest);
    await idle(world);
    await world.metadata.linkBlob(hosted, blob.digest, blob.size);
    const hex = digestHex(blob.digest);
    const path = join(world.folder, 'blobs', 'sha256', hex.slice(0, 2), hex);
    const aside = `${path}.aside`;
    const row = { size: blob.size };
    await rename(path, aside);
    for (const damage of [async () => {}, () => writeFile(path, 'a part of it')]) {
      await damage();
      await expect(world.pull(blob.digest, repositoryOf('other'))).rejects.toMatchObject({
        code: 'BLOB_UNKNOWN',
      });
      await idle(world);
      expect(await world.metadata.statBlob(blob.digest)).toEqual(row);
    }
    await rename(aside, path);
    const noteUse = vi.spyOn(world.metadata, 'noteUse');
    await expect(world.pull(blob.digest, repositoryOf('other'))).rejects.toMatchObject({
      code: 'BLOB_UNKNOWN',
    });
    expect(noteUse).not.toHaveBeenCalled();
    expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
  });

  it('downloads a lost file once, for two processes at once, and keeps its row', async () => {
    const world = await start();
    const blob = added(MIB, 'lost for two');
    await world.pull(blob.digest);
    await idle(world);
    const hex = digestHex(blob.digest);
    await rm(join(world.folder, 'blobs', 'sha256', hex.slice(0, 2), hex));
    const twin = await another({ folder: world.folder });
    const removeBlob = vi.spyOn(world.metadata, 'removeBlob');
    const pulls = await Promise.all([world.pull(blob.digest), twin.pull(blob.digest)]);
    for (const pulled of pulls) expect(pulled).toMatchObject(whole(blob));
    await Promise.all([idle(world), idle(twin)]);
    expect(downloads()).toHaveLength(2);
    expect(removeBlob).not.toHaveBeenCalled();
    expect(await twin.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
  });

  it('gives a joining client the first bytes long before the end', async () => {
    const world = await start();
    const blob = added(4 * MIB, 'live');
    const latch = new Latch();
    upstream.misbehave({ kind: 'blob', pause: { atByte: MIB, until: latch.opened } });
    const first = world.pull(blob.digest);
    await until(() => upstream.bytesSent > MIB / 2);
    let sentAtFirstByte = Number.POSITIVE_INFINITY;
    const { reader } = await world.open(blob.digest);
    const joined = await readAll(reader, () => {
      sentAtFirstByte = Math.min(sentAtFirstByte, upstream.bytesSent);
      latch.open();
    });
    expect(joined).toEqual(whole(blob));
    expect(sentAtFirstByte).toBeLessThan(blob.size / 2);
    expect(await first).toMatchObject(whole(blob));
  });

  it('continues when all clients leave, and is stored', async () => {
    const world = await start({ linkBytesPerS: 8 * MIB });
    const blob = added(3 * MIB, 'leave');
    const { reader } = await world.open(blob.digest);
    await readAll(reader, () => false);
    await idle(world);
    expect(await held(world, blob)).toBe(true);
    expect(blobRequests()).toBe(1);
  });

  it('holds the end back until the digest is verified', async () => {
    const world = await start();
    const blob = added(2 * MIB, 'hold');
    upstream.misbehave({ kind: 'blob', method: 'GET', hangAtByte: blob.size - 1 });
    const { reader } = await world.open(blob.digest);
    let bytes = 0;
    await readAll(reader, now => {
      bytes = now;
      return now < blob.size - HOLD_BACK_BYTES;
    });
    expect(bytes).toBe(blob.size - HOLD_BACK_BYTES);
  });

  it('with wrong bytes is complete for nobody, leaves nothing behind, and the next one succeeds', async () => {
    const world = await start();
    for (const size of [100, 2 * MIB]) {
      const blob = added(size, `wrong ${size}`);
      const behave = upstream.misbehave({ kind: 'blob', corruptByte: size - 1 });
      const results = await Promise.allSettled(Array.from({ length: 5 }, () => world.pull(blob.digest)));
      expect(results.map(({ status }) => status)).toEqual(Array(5).fill('rejected'));
      expect(await held(world, blob)).toBe(false);
      expect(await world.blobs.stat(blob.digest)).toBeUndefined();
      expect(world.mirror.upstreamState(APP.upstream).failure).toMatchObject({
        repository: repositoryText(APP),
        reason: expect.stringContaining(`blobs/${blob.digest}: the content does not match the digest`),
      });
      behave();
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    }
  });

  it("that loses its Lease while it is hashed does not complete wrong bytes with another process's right ones", async () => {
    const world = await start();
    const twin = await another({ folder: world.folder });
    const blob = added(2 * MIB, 'lost while hashed');
    const behave = upstream.misbehave({ kind: 'blob', corruptByte: 10 });
    let readBytes = 0;
    const makeIngest = world.spool.ingest.bind(world.spool);
    vi.spyOn(world.spool, 'ingest').mockImplementationOnce(async (lease, options) => {
      const ingest = await makeIngest(lease, options);
      vi.spyOn(ingest, 'hash').mockImplementationOnce(async () => {
        await until(() => readBytes === blob.size - HOLD_BACK_BYTES);
        behave();
        await world.metadata.release(lease);
        expect(await twin.pull(blob.digest)).toMatchObject(whole(blob));
        await idle(twin);
        throw new LeaseLost(lease.key);
      });
      return ingest;
    });
    const { reader } = await world.open(blob.digest);
    const reading = readAll(reader, bytes => {
      readBytes = bytes;
    });
    await expect(reading).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  describe('that follows another process and is suspended', () => {
    const GIVEN_BYTES = MIB;

    /** The Lease of a blob whose file is lost, with an ingest of wrong bytes. */
    async function wrongIngest(world: MirrorWorld) {
      const blob = randomBlob(2 * MIB, 'read along');
      upstream.add('app', imageOf([blob]), '1.0');
      await world.manifest('1.0');
      await world.pull(blob.digest);
      await idle(world);
      const hex = digestHex(blob.digest);
      await rm(join(world.folder, 'blobs', 'sha256', hex.slice(0, 2), hex));
      const upstreamKey = createHash('sha256').update(APP.upstream).digest('hex').slice(0, 16);
      const lease = await world.metadata.acquireLease(`fill-${upstreamKey}-sha256-${hex}`);
      if (lease === undefined) throw new Error('it has the Lease already');
      const left = await world.spool.ingest(lease);
      await left.write([bytesOf(blob).subarray(0, GIVEN_BYTES).fill('?', 10)]);
      const leave = async () => {
        await left.suspend();
        await left.close();
        await world.metadata.setAside(lease);
      };
      return { blob, leave };
    }

    /**
     * A process goes on from wrong bytes, which readers of another one have, and that one stands still from then on. `before`
     * comes before the first one takes them away.
     */
    async function readingWrong(before: (lease: Lease, world: MirrorWorld) => Promise<void> | void) {
      const world = await start();
      const twin = await another({ folder: world.folder });
      const { blob, leave } = await wrongIngest(world);
      await leave();
      const state = { isLeading: false, readBytes: 0, wake: () => {} };
      const makeIngest = world.spool.ingest.bind(world.spool);
      vi.spyOn(world.spool, 'ingest').mockImplementationOnce(async (leased, options) => {
        state.isLeading = true;
        const ingest = await makeIngest(leased, options);
        const empty = ingest.truncate.bind(ingest);
        vi.spyOn(ingest, 'truncate').mockImplementationOnce(async size => {
          await until(() => state.readBytes === GIVEN_BYTES);
          state.wake = await standStill(twin);
          await before(leased, world);
          await empty(size);
        });
        return ingest;
      });
      const leading = world.pull(blob.digest);
      await until(() => state.isLeading);
      const { reader } = await twin.open(blob.digest);
      const reading = readAll(reader, bytes => {
        state.readBytes = bytes;
      });
      reading.catch(() => {});
      return { world, blob, leading, reading, wake: () => state.wake() };
    }

    it('sends no more to readers that have bytes of a download that was begun anew', async () => {
      const { world, blob, leading, reading, wake } = await readingWrong(() => {});
      expect(await leading).toMatchObject(whole(blob));
      await idle(world);
      wake();
      await expect(reading).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    });

    it('sends no more to readers that have bytes which were truncated and downloaded again', async () => {
      const world = await start();
      const [writer, twin] = [
        await another({ folder: world.folder }),
        await another({ folder: world.folder }),
      ];
      const { blob, leave } = await wrongIngest(writer);
      const readings = await Promise.all(
        [world, twin].map(async each => {
          const { reader } = await each.open(blob.digest);
          const state = { readBytes: 0, whole: Promise.resolve<unknown>(undefined) };
          state.whole = readAll(reader, bytes => {
            state.readBytes = bytes;
          });
          state.whole.catch(() => {});
          return state;
        }),
      );
      await until(() => readings.every(({ readBytes }) => readBytes === GIVEN_BYTES));
      const wake = await standStill(twin);
      await leave();
      await expect(readings[0]?.whole).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
      await idle(world);
      wake();
      await expect(readings[1]?.whole).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    });

    it('sends no more to readers that have bytes which a third process found wrong', async () => {
      const { blob, leading, reading, wake } = await readingWrong(async (lease, world) => {
        const third = await another({ folder: world.folder });
        await world.metadata.release(lease);
        expect(await third.pull(blob.digest)).toMatchObject(whole(blob));
        await idle(third);
        wake();
        await expect(reading).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      });
      expect(await leading).toMatchObject(whole(blob));
    });
  });

  it('of an empty blob is an empty body', async () => {
    const world = await start();
    const blob = added(0, 'empty');
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  it('of a blob of unknown size is served', async () => {
    const world = await start();
    const blob = added(300_000, 'chunked');
    upstream.misbehave({ kind: 'blob', headers: { 'Content-Length': null } });
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  it('with wrong bytes of `url` is downloaded from it again by a requester whose right no mirror can prove', async () => {
    const mirror = await FakeUpstream.start();
    try {
      const world = await start({}, { upstream: { mirrors: [{ url: mirror.url }] } });
      const blob = added(1_000, 'wrong once');
      mirror.add('app', blob);
      upstream.misbehave({ kind: 'blob', corruptByte: 7, times: 1 });
      await expect(world.pull(blob.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      await idle(world);
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    } finally {
      await mirror.stop();
    }
  });
});

describe('an interrupted download', () => {
  it('continues with one Range at the byte reached, unnoticed by clients', async () => {
    const world = await start();
    const blob = added(4 * MIB, 'cut');
    upstream.misbehave({ kind: 'blob', times: 1, cutAtByte: 2 * MIB });
    const pulled = await Promise.all(Array.from({ length: 5 }, () => world.pull(blob.digest)));
    for (const each of pulled) expect(each).toMatchObject(whole(blob));
    expect(upstream.requests.map(({ headers }) => headers.range)).toEqual([undefined, `bytes=${2 * MIB}-`]);
    expect(upstream.requests[1]?.headers['if-range']).toBe(`"${blob.digest}"`);
  });

  it('is skipped up to the known bytes if the server ignores ranges', async () => {
    const world = await start({ ranges: false });
    const blob = added(2 * MIB, 'no ranges');
    upstream.misbehave({ kind: 'blob', times: 1, cutAtByte: MIB });
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(blobRequests()).toBe(2);
  });

  it('is skipped up to the known bytes if the server answers with other ranges', async () => {
    const world = await start({}, { clock: new ManualClock().skipWaits(2_000) });
    const blob = added(2 * MIB, 'other ranges');
    const headers = { 'Content-Range': `bytes 1-1000/${blob.size}` };
    upstream.misbehave({ kind: 'blob', headers });
    upstream.misbehave({ kind: 'blob', cutAtByte: 1_000_000, times: 1 });
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(upstream.requests.at(-1)?.headers.range).toBeUndefined();
  });

  it('that fails finally fails all readers, stores no blob, and is resumed by the next one', async () => {
    const world = await start();
    const blob = added(4 * MIB, 'gone');
    upstream.misbehave({ kind: 'blob', method: 'GET', reset: true });
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, cutAtByte: 3 * MIB });
    const results = await Promise.allSettled(Array.from({ length: 5 }, () => world.pull(blob.digest)));
    expect(results.map(({ status }) => status)).toEqual(Array(5).fill('rejected'));
    await idle(world);
    expect(await held(world, blob)).toBe(false);
    upstream.behave();
    upstream.requests.length = 0;
    world.nowMs += 60_000;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(downloads().map(({ headers }) => headers.range)).toEqual([`bytes=${3 * MIB - 4096}-`]);
  }, 20_000);

  it('that fails is logged with what upstream did, and without a stack', async () => {
    const told: object[] = [];
    const warn: Log['warn'] = (fields, message) => void told.push({ ...fields, message });
    const log: Log = { ...silentLog, warn, child: () => log };
    const world = await start({}, { log });
    const behave = upstream.misbehave({ kind: 'blob', corruptByte: 10 });
    await expect(world.pull(added(1_000, 'wrong').digest)).rejects.toMatchObject({
      code: 'UPSTREAM_INVALID',
    });
    await idle(world);
    behave();
    upstream.misbehave({ kind: 'blob', status: 503 });
    await expect(world.pull(added(1_000, 'away').digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await idle(world);
    expect(told).toEqual([
      {
        reason: expect.stringContaining('does not match'),
        downloadedBytes: 1_000,
        message: 'a download failed',
      },
      { reason: expect.stringContaining('responded 503'), message: 'a download failed' },
    ]);
  });

  it('that fails before it began gives every waiting client upstream’s kind of error', async () => {
    const world = await start();
    const cases = [
      [404, 'BLOB_UNKNOWN'],
      [503, 'UNAVAILABLE'],
      [429, 'TOOMANYREQUESTS'],
    ] as const;
    for (const [status, code] of cases) {
      const blob = added(1_000, `status ${status}`);
      upstream.misbehave({ kind: 'blob', status, reference: blob.digest });
      const results = await Promise.allSettled(Array.from({ length: 5 }, () => world.pull(blob.digest)));
      expect(results.map(result => result.status === 'rejected' && result.reason.code)).toEqual(
        Array(5).fill(code),
      );
      expect(upstream.count('blob', { reference: blob.digest })).toBe(1);
    }
  });

  it('continues with the mirror if url is down', async () => {
    const mirror = await FakeUpstream.start();
    try {
      const world = await start({}, { upstream: { mirrors: [{ url: mirror.url }] } });
      const blob = added(2 * MIB, 'mirror');
      mirror.add('app', blob);
      upstream.misbehave({ kind: 'blob', reset: true });
      upstream.misbehave({ kind: 'blob', times: 1, cutAtByte: MIB });
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
      expect(mirror.requests[0]?.headers.range).toBe(`bytes=${MIB}-`);
      expect(mirror.requests[0]?.headers['if-range']).toBeUndefined();
    } finally {
      await mirror.stop();
    }
  });
});

describe('an upstream whose url is down', () => {
  it('does not give anybody content of a mirror that no response of url allowed', async () => {
    const mirror = await FakeUpstream.start();
    try {
      const world = await start({}, { upstream: { mirrors: [{ url: mirror.url }] } });
      const blob = added(1_000, 'unproved');
      mirror.add('app', blob);
      const behave = upstream.misbehave({ reset: true });
      await expect(world.pull(blob.digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      behave();
      world.nowMs += 60_000;
      const known = added(1_000, 'proved');
      mirror.add('app', known);
      upstream.add('app', imageOf([known]), '1');
      // A resting url is asked again after a moment.
      await until(() => world.manifest('1').then(Boolean, () => false));
      upstream.misbehave({ reset: true });
      expect(await world.pull(known.digest)).toMatchObject(whole(known));
    } finally {
      await mirror.stop();
    }
  });
});

describe('a blob whose file a crash left without its row', () => {
  it('is not stored: upstream is asked for it', async () => {
    const world = await start();
    const blob = added(100_000, 'no row');
    const ingest = await world.spool.ingest(steadyLease('fill-of-the-dead'), { digest: blob.digest });
    await ingest.write(Array.from(blob.slice()));
    await world.blobs.put(blob.digest, ingest);
    await ingest.close();
    const behave = upstream.misbehave({ status: 503 });
    await expect(world.pull(blob.digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    behave();
    world.nowMs += 60_000;
    expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'miss' });
    await idle(world);
    expect(await held(world, blob)).toBe(true);
  });
});

describe('a store whose blobs are objects elsewhere', () => {
  it('gives joining clients the blob while it is downloaded, and later ones the stored blob', async () => {
    const bucket = new Bucket();
    const world = await start({ linkBytesPerS: 20 * MIB }, { blobs: new ObjectBlobStore(bucket) });
    const twin = await another({ folder: world.folder, blobs: new ObjectBlobStore(bucket) });
    const blob = added(2 * MIB, 'objects');
    const pulls = [world, world, twin].map(each => each.pull(blob.digest));
    for (const pulled of await Promise.all(pulls)) expect(pulled).toMatchObject(whole(blob));
    await idle(world);
    await idle(twin);
    expect(downloads()).toHaveLength(1);
    expect(await ingestBytes(world)).toBe(0);
    // An object is listed a moment after it was stored.
    await expect.poll(() => bucket.listAll()).toHaveLength(1);
    for (const each of [world, twin]) {
      expect(await each.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
    }
    expect(downloads()).toHaveLength(1);
  });
});

describe('a restart', () => {
  it('keeps what was downloaded, and the next process continues from there', async () => {
    const world = await start();
    const blob = added(4 * MIB, 'restart');
    upstream.misbehave({ ...HALFWAY, times: 1 });
    const pulling = world.pull(blob.digest).catch(() => 'broken');
    await until(async () => (await ingestBytes(world)) > MIB / 2);
    await world.close(0);
    expect(await pulling).toBe('broken');
    upstream.requests.length = 0;
    const next = await another({ folder: world.folder });
    expect(await next.pull(blob.digest)).toMatchObject(whole(blob));
    const [get] = downloads();
    expect(get?.headers.range).toMatch(/^bytes=[1-9]\d{5,}-$/);
  });

  it('loses nothing to an upstream that is down when the blob is requested again', async () => {
    const world = await start();
    const blob = added(4 * MIB, 'away');
    upstream.misbehave({ ...HALFWAY, times: 1 });
    const pulling = world.pull(blob.digest).catch(() => 'broken');
    await until(async () => (await ingestBytes(world)) > MIB / 2);
    await world.close(0);
    expect(await pulling).toBe('broken');
    const next = await another({ folder: world.folder });
    const behave = upstream.misbehave({ status: 503 });
    await expect(next.pull(blob.digest)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    behave();
    next.nowMs += 60_000;
    upstream.requests.length = 0;
    expect(await next.pull(blob.digest)).toMatchObject(whole(blob));
    expect(downloads().map(({ headers }) => headers.range)).toEqual([
      expect.stringMatching(/^bytes=[1-9]\d{5,}-$/),
    ]);
  });

  it.each([
    { isSettled: true, ranges: true, size: 2 * MIB },
    { isSettled: false, ranges: true, size: 2 * MIB },
    { isSettled: false, ranges: false, size: 2 * MIB },
    { isSettled: false, ranges: true, size: 100_000 },
    { isSettled: false, ranges: false, size: 100_000 },
  ])(
    'throws away what came wrong, and gives the whole blob in spite of it: %o',
    async ({ isSettled, ranges, size }) => {
      const world = await start({ ranges });
      const blob = added(size, 'came wrong');
      upstream.misbehave({ ...HALFWAY, body: '', spaces: 3 * MIB });
      const pulling = world.pull(blob.digest).catch(() => 'broken');
      await until(async () => (await ingestBytes(world)) > MIB / 2);
      await world.close(0);
      expect(await pulling).toBe('broken');
      upstream.behave();
      const next = await another({ folder: world.folder });
      const right = { ...(await next.right()), proved: isSettled };
      if (isSettled) await next.metadata.linkBlob(APP, blob.digest, blob.size);
      const { reader } = await next.mirror.openBlob(APP, blob.digest, right);
      expect(await readAll(reader)).toEqual(whole(blob));
    },
  );

  it('waits for bodies within its deadline', async () => {
    const world = await start({ linkBytesPerS: 4 * MIB });
    const blob = added(2 * MIB, 'graceful');
    const { reader } = await world.open(blob.digest);
    const reading = readAll(reader);
    await world.close(10_000);
    expect(await reading).toEqual(whole(blob));
  });
});

describe('two processes on one store', () => {
  it('make one Fill, clients of both receive its bytes, and the one that follows says which process downloads', async () => {
    const world = await start({ linkBytesPerS: 4 * MIB });
    const blob = added(3 * MIB, 'two');
    const other = await another({ folder: world.folder });
    const first = world.pull(blob.digest);
    await until(() => blobRequests() === 1);
    let sentAtFirstByte = Number.POSITIVE_INFINITY;
    const { reader } = await other.open(blob.digest);
    const holder = `process ${process.pid} on ${hostname()}`;
    expect(other.mirror.downloads).toMatchObject([{ holder }]);
    expect(world.mirror.downloads).toMatchObject([{ holder: undefined, startedAtMs: world.nowMs }]);
    const second = await readAll(reader, () => {
      sentAtFirstByte = Math.min(sentAtFirstByte, upstream.bytesSent);
    });
    expect(second).toEqual(whole(blob));
    expect(sentAtFirstByte).toBeLessThan(blob.size);
    expect(await first).toMatchObject(whole(blob));
    expect(downloads()).toHaveLength(1);
  });

  it('let no client join that upstream refuses', async () => {
    const world = await start({ linkBytesPerS: 4 * MIB });
    const blob = added(2 * MIB, 'two rights', 'private');
    const other = await another({ folder: world.folder });
    const first = world.pull(blob.digest, repositoryOf('private'));
    await until(() => upstream.bytesSent > MIB / 2);
    await expect(other.pull(blob.digest)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    expect(await first).toMatchObject(whole(blob));
  });

  it('both fail when the one that downloads finds wrong bytes', async () => {
    const world = await start({ linkBytesPerS: 4 * MIB });
    const blob = added(2 * MIB, 'two wrong');
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, corruptByte: MIB });
    const other = await another({ folder: world.folder });
    const first = world.pull(blob.digest);
    await until(() => blobRequests() === 1);
    const results = await Promise.allSettled([first, other.pull(blob.digest)]);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  });

  it('continue in the other when one stops', async () => {
    const world = await start();
    const blob = added(4 * MIB, 'two stop');
    upstream.misbehave({ ...HALFWAY, times: 1 });
    const other = await another({ folder: world.folder });
    const first = world.pull(blob.digest).catch(() => 'broken');
    await until(() => blobRequests() === 1);
    const second = other.pull(blob.digest);
    await until(() => upstream.bytesSent > MIB);
    await world.close(0);
    expect(await first).toBe('broken');
    expect(await second).toMatchObject(whole(blob));
    expect(downloads()).toHaveLength(2);
  });
});

describe('the queue', () => {
  it('limits the number of downloads, and all of them finish', async () => {
    const limits = { maxConnections: 2, serializeImagePulls: false, maxParallelImagePulls: undefined };
    const world = await start({}, { limits });
    upstream.misbehave({ kind: 'blob', delayMs: 30 });
    const blobs = Array.from({ length: 8 }, (_, index) => added(200_000, `queue ${index}`));
    let most = 0;
    const watching = setInterval(() => {
      most = Math.max(most, upstream.requests.filter(({ status }) => status === 0).length);
    }, 5);
    const pulled = await Promise.all(blobs.map(({ digest }) => world.pull(digest)));
    clearInterval(watching);
    pulled.forEach((each, index) => expect(each.digest).toBe(blobs[index]?.digest));
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(2);
  });

  it('gives the size of a queued blob at once if a stored manifest declares it', async () => {
    const limits = { maxConnections: 1, serializeImagePulls: false, maxParallelImagePulls: undefined };
    const world = await start({}, { limits });
    const named = randomBlob(200_000, 'named');
    upstream.add('app', imageOf([named]), '1');
    await world.manifest('1');
    const slow = added(200_000, 'slow', 'other');
    const stop = upstream.misbehave({ kind: 'blob', reference: slow.digest, hang: true });
    const blocking = world.open(slow.digest, repositoryOf('other')).catch(() => undefined);
    await until(() => upstream.count('blob') === 1);
    const { reader } = await world.open(named.digest);
    expect(reader.size).toBe(named.size);
    expect(upstream.count('blob')).toBe(1);
    await reader.close();
    stop();
    await world.close(0);
    await blocking;
  });
});

describe('a queued download that fails', () => {
  it('fails for every reader, even if there are more than it can continue for', async () => {
    const limits = { maxConnections: 1, serializeImagePulls: false, maxParallelImagePulls: undefined };
    const world = await start({}, { limits });
    const blob = randomBlob(200_000, 'of many');
    const repositories = Array.from({ length: 70 }, (_, at) => repositoryOf(`of-many-${at}`));
    for (const repository of repositories) {
      upstream.add(repository.name, imageOf([blob]), '1');
      await world.manifest('1', repository);
    }
    const slow = added(200_000, 'slow', 'other');
    let stop: (() => void) | undefined;
    const after = new Promise<void>(resolve => (stop = resolve));
    upstream.misbehave({ kind: 'blob', reference: slow.digest, after, status: 404 });
    const blocking = world.open(slow.digest, repositoryOf('other')).catch(() => undefined);
    await until(() => upstream.count('blob') === 1);
    const reads = [];
    for (const repository of repositories) {
      const { reader } = await world.open(blob.digest, repository);
      reads.push(reader.read(Buffer.alloc(10), 0).finally(() => void reader.close()));
    }
    upstream.misbehave({ kind: 'blob', reference: blob.digest, status: 404 });
    const outcomes = Promise.allSettled(reads);
    stop?.();
    expect((await outcomes).every(({ status }) => status === 'rejected')).toBe(true);
    await blocking;
  });
});

/** A spool that takes no more than so many bytes of one ingest. */
const small = (maxBytes: number) => (spool: Spool) =>
  new Proxy(spool, {
    get: (target, name) => {
      const value: unknown = Reflect.get(target, name);
      if (name !== 'ingest') return typeof value === 'function' ? value.bind(target) : value;
      return async (...parameters: Parameters<Spool['ingest']>) => {
        const ingest = await target.ingest(...parameters);
        const write = ingest.write.bind(ingest);
        ingest.write = async chunks => {
          const bytes = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
          if (ingest.offset + bytes > maxBytes)
            throw Object.assign(new Error('disk full'), { code: 'ENOSPC' });
          await write(chunks);
        };
        return ingest;
      };
    },
  });

it.each([['is stored', 64 * MIB] as const, ['is passed on', MIB] as const])(
  'a download that %s and was interrupted is logged with its upstream and its digest, each once',
  async (_, maxBytes) => {
    const interruptions: (readonly string[])[] = [];
    const logWith = (...bound: readonly string[]): Log => ({
      ...silentLog,
      info: (fields, message) => {
        if (message.includes('interrupted')) interruptions.push([...bound, ...Object.keys(fields)]);
      },
      child: bindings => logWith(...bound, ...Object.keys(bindings)),
    });
    const world = await start({}, { maxBytes, log: logWith() });
    const blob = added(3 * MIB, 'interrupted');
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 2, cutAtByte: 2 * MIB });
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(interruptions[0]).toEqual(['upstream', 'digest', 'offset', 'delayMs', 'reason']);
  },
);

describe('a full disk', () => {
  for (const maxBytes of [0, MIB]) {
    it(`after ${maxBytes} bytes still gives every reader the whole blob, and stores none of it`, async () => {
      const world = await start({}, { spool: small(maxBytes) });
      const blob = added(3 * MIB, `full ${maxBytes}`);
      const pulled = await Promise.all(Array.from({ length: 3 }, () => world.pull(blob.digest)));
      for (const each of pulled) expect(each).toMatchObject(whole(blob));
      expect(await held(world, blob)).toBe(false);
      expect(await world.fetchedBytes()).toBeGreaterThanOrEqual(3 * (blob.size - maxBytes));
    });
  }

  for (const error of [
    Object.assign(new Error('disk full'), { code: 'ENOSPC' }),
    new IndexLost('the index was removed'),
  ]) {
    it(`or an index that accepts no row (${error.code}) still gives every reader the whole blob`, async () => {
      const world = await start();
      const blob = added(MIB, 'full index');
      for (const write of ['acquireLease', 'linkBlob'] as const) {
        vi.spyOn(world.metadata, write).mockRejectedValue(error);
      }
      const pulled = await Promise.all(Array.from({ length: 3 }, () => world.pull(blob.digest)));
      for (const each of pulled) expect(each).toMatchObject(whole(blob));
    });
  }

  it('that accepts no row keeps no bytes, unless a rebuild of the index may need them', async () => {
    const world = await start();
    const blob = added(1000, 'no row');
    const full = Object.assign(new Error('disk full'), { code: 'ENOSPC' });
    vi.spyOn(world.metadata, 'putBlob').mockRejectedValue(full);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    await idle(world);
    expect(await world.blobs.stat(blob.digest)).toBeUndefined();
    await stopCollecting(world.metadata, 'the index is new');
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    await idle(world);
    expect(await world.blobs.stat(blob.digest)).toEqual({ size: 1000 });
  });

  it('that accepts not even a row gives nothing that only a mirror serves, whatever the status of `url`', async () => {
    const mirror = await FakeUpstream.start();
    try {
      const world = await start({}, { upstream: { mirrors: [{ url: mirror.url }] } });
      const blob = randomBlob(MIB, 'only at the mirror');
      mirror.add('app', blob);
      const size = { 'Content-Length': String(blob.size) };
      upstream.misbehave({ kind: 'blob', method: 'HEAD', status: 200, headers: size });
      upstream.misbehave({ kind: 'blob', method: 'GET', status: 503 });
      const full = Object.assign(new Error('disk full'), { code: 'ENOSPC' });
      for (const write of ['acquireLease', 'linkBlob'] as const) {
        vi.spyOn(world.metadata, write).mockRejectedValue(full);
      }
      await expect(world.pull(blob.digest)).rejects.toBeDefined();
      expect(mirror.count('blob', { method: 'GET' })).toBeGreaterThan(0);
    } finally {
      await mirror.stop();
    }
  });

  it('gives a slow reader its own bytes, whatever others read meanwhile', async () => {
    const world = await start({}, { spool: small(0) });
    const [blob, other] = [added(3 * MIB, 'full and slow'), added(3 * MIB, 'full and fast')];
    const { reader } = await world.open(blob.digest);
    await reader.read(new Uint8Array(1), 0);
    expect(await world.pull(other.digest)).toMatchObject(whole(other));
    expect(await readAll(reader)).toMatchObject(whole(blob));
  });

  it('does not complete wrong bytes either', async () => {
    const world = await start({}, { spool: small(0) });
    const blob = added(MIB, 'full wrong');
    upstream.misbehave({ kind: 'blob', corruptByte: 100 });
    await expect(world.pull(blob.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
  });
});

describe('a repository', () => {
  it('does not get a blob of another because a manifest of its own names it', async () => {
    const world = await start();
    const secret = added(100_000, 'secret', 'private');
    upstream.add('app', imageOf([secret]).manifest, '1');
    await world.pull(secret.digest, repositoryOf('private'));
    await world.manifest('1');
    await expect(world.open(secret.digest)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    await expect(world.mirror.statBlob(APP, secret.digest, await world.right())).rejects.toMatchObject({
      code: 'BLOB_UNKNOWN',
    });
  });

  it('gets a stored blob once upstream has proved with three ranges that it has it', async () => {
    const world = await start();
    const blob = added(100_000, 'shared', 'other');
    upstream.add('app', blob);
    await world.pull(blob.digest, repositoryOf('other'));
    await idle(world);
    for (const outcome of ['miss', 'hit']) {
      expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome });
    }
    expect([blobRequests('HEAD'), downloads().length, blobRequests('GET')]).toEqual([0, 1, 4]);
  });

  it('gets nothing of a stored blob if upstream does not prove that it has it', async () => {
    const world = await start();
    for (const size of [10_000, 100_000]) {
      const blob = added(size, `kept ${size}`, 'other');
      const mine = repositoryOf(`of-${size}`);
      upstream.add(mine.name, blob);
      await world.pull(blob.digest, repositoryOf('other'));
      await idle(world);
      const longer = { 'Content-Length': String(size + 1), 'Content-Range': null };
      for (const wrong of [{ spaces: size }, { headers: longer, contentLength: size + 1 }]) {
        const behave = upstream.misbehave({ kind: 'blob', repository: mine.name, ...wrong });
        await expect(world.open(blob.digest, mine)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
        expect(await world.metadata.isLinked(mine, blob.digest)).toBe(false);
        expect((await world.right(mine)).proved).toBe(false);
        behave();
        world.nowMs += 10 * 60_000;
      }
      expect(await world.pull(blob.digest, mine)).toMatchObject(whole(blob));
    }
  });

  it('asks for the whole blob once if upstream does not support ranges', async () => {
    const world = await start({ ranges: false });
    for (const [index, size] of [0, 1, 10_000, 2 * MIB].entries()) {
      const blob = added(size, `whole ${size}`, 'other');
      upstream.add('app', blob);
      await world.pull(blob.digest, repositoryOf('other'));
      await idle(world);
      for (const outcome of ['miss', 'hit']) {
        expect(await world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome });
      }
      expect(upstream.count('blob', { repository: 'app' })).toBe(index + 1);
    }
  });

  it('is not proved to be readable by HEAD', async () => {
    const world = await start();
    const blob = added(100_000, 'headed');
    await world.mirror.statBlob(APP, blob.digest, await world.right());
    expect(await world.metadata.isLinked(APP, blob.digest)).toBe(false);
    expect((await world.right()).proved).toBe(false);
  });

  it('is told the same by HEAD of a blob that another repository has and of one that nobody has', async () => {
    const world = await start();
    const [away, here] = [added(100_000, 'away'), added(100_000, 'here', 'other')];
    upstream.add('app', here);
    await world.pull(here.digest, repositoryOf('other'));
    await idle(world);
    const stat = async (digest: Digest) => world.mirror.statBlob(APP, digest, await world.right());
    expect(await stat(away.digest)).toMatchObject({ size: away.size, outcome: 'miss', stored: false });
    expect(await stat(here.digest)).toMatchObject({ size: here.size, outcome: 'miss', stored: false });
  });

  it('cannot join a Fill through a requester that an import admitted', async () => {
    const world = await start({ linkBytesPerS: 4 * MIB });
    const blob = added(2 * MIB, 'imported');
    await world.metadata.linkBlob(APP, blob.digest, blob.size);
    const imported = { ...(await world.right()), proved: true };
    const { reader } = await world.mirror.openBlob(APP, blob.digest, imported);
    const first = readAll(reader);
    await until(() => blobRequests() === 1);
    upstream.misbehave({ kind: 'blob', status: 401 });
    const stranger = { ...imported, proved: false };
    const joined = world.mirror.openBlob(APP, blob.digest, stranger);
    await expect(joined.then(({ reader: read }) => readAll(read))).rejects.toMatchObject({
      code: 'BLOB_UNKNOWN',
    });
    expect(await first).toEqual(whole(blob));
  });

  it('joins a Fill of another only after upstream has confirmed the right', async () => {
    const world = await start({ linkBytesPerS: 4 * MIB });
    const blob = added(2 * MIB, 'join', 'private');
    const first = world.pull(blob.digest, repositoryOf('private'));
    await until(() => blobRequests() === 1);
    await expect(world.open(blob.digest)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    upstream.add('third', blob);
    expect(await world.pull(blob.digest, repositoryOf('third'))).toMatchObject(whole(blob));
    await first;
    expect(downloads()).toHaveLength(1);
    await until(() => held(world, blob));
    expect(await world.metadata.isLinked(repositoryOf('third'), blob.digest)).toBe(true);
  });

  it('joins a Fill of another without receiving most of it again, if upstream does not support ranges', async () => {
    const world = await start({ ranges: false, linkBytesPerS: 16 * MIB });
    const blob = added(24 * MIB, 'join whole', 'private');
    upstream.add('third', blob);
    const first = world.pull(blob.digest, repositoryOf('private'));
    await until(() => upstream.bytesSent > 16 * MIB);
    expect(await world.pull(blob.digest, repositoryOf('third'))).toMatchObject(whole(blob));
    await first;
    expect(upstream.bytesSent).toBeLessThan(blob.size * 1.5);
  });
});
