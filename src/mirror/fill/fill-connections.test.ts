import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, type TestContext, vi } from 'vitest';
import { bytesOf, type Content, imageOf, randomBlob } from '../../../test/support/content.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../../../test/support/fake-upstream.ts';
import type { Misbehaviour } from '../../../test/support/fake-upstream-requests.ts';
import { APP, MirrorWorld, type MirrorWorldOptions, whole } from '../../../test/support/mirror-world.ts';
import type { Spool } from '../../blobs/spool.ts';
import { type Log, silentLog } from '../../lib/log.ts';
import { OVERLAP_BYTES } from './download.ts';

const MIB = 1024 * 1024;
const SIZE = 44 * MIB;
/** Of one connection: all of the blob takes more than four seconds over one. */
const RATE = 10 * MIB;
const MANY: MirrorWorldOptions = { connectionsPerBlobOf: () => 4 };
/** A mirror that itself waits for an upstream that hangs for longer than a test takes. */
const PATIENT: MirrorWorldOptions = {
  ...MANY,
  upstream: { timeouts: { headersMs: 3_600_000, idleBodyMs: 3_600_000 } },
};
/** The requests of further connections: those with a range. */
const FURTHER = { kind: 'blob', method: 'GET', skip: 1 } as const;

/** An upstream that gives a bounded rate over each connection, and worlds before it. */
class Site {
  readonly upstream: FakeUpstream;
  readonly #worlds: MirrorWorld[] = [];

  private constructor(upstream: FakeUpstream) {
    this.upstream = upstream;
  }

  /** Until the end of `test`; the upstream does as the `rules` say. */
  static async start(
    { onTestFinished }: TestContext,
    rules: readonly Misbehaviour[] = [],
    options: FakeUpstreamOptions = {},
  ): Promise<Site> {
    const site = new Site(await FakeUpstream.start(options));
    site.upstream.misbehave({ kind: 'blob', method: 'GET', bytesPerS: RATE });
    for (const rule of rules) site.upstream.misbehave({ bytesPerS: RATE, ...rule });
    onTestFinished(() => site.#remove());
    return site;
  }

  async world(options: MirrorWorldOptions = MANY): Promise<MirrorWorld> {
    const world = await MirrorWorld.open(this.upstream, options);
    this.#worlds.push(world);
    return world;
  }

  /** A layer to whose repository the right is proved. */
  async layer(world: MirrorWorld, seed = 'layer', size = SIZE): Promise<Content> {
    const blob = randomBlob(size, seed);
    this.upstream.add('app', imageOf([blob]), seed);
    await world.manifest(seed);
    this.upstream.requests.length = 0;
    return blob;
  }

  /** What was asked for of blobs; `undefined` for all. */
  get asked(): readonly (string | undefined)[] {
    return this.upstream.requests
      .filter(({ kind, method }) => kind === 'blob' && method === 'GET')
      .map(({ headers }) => headers.range?.replace('bytes=', ''));
  }

  /** Whether a further connection was begun. */
  get isShared(): boolean {
    return this.asked.some(range => range !== undefined);
  }

  async #remove(): Promise<void> {
    for (const world of this.#worlds) await world.remove();
    await this.upstream.stop();
  }
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(5);
}

/** Resolves when what was pulled is stored. */
const stored = (world: MirrorWorld): Promise<void> => until(() => world.mirror.runningFills === 0);

describe.concurrent('a large blob over slow connections', () => {
  it('comes over several, each byte once, and no more than there may be', async test => {
    const site = await Site.start(test);
    const world = await site.world();
    const blob = await site.layer(world);
    let most = 0;
    const watching = setInterval(
      () => void site.upstream.connections().then(count => (most = Math.max(most, count))),
      20,
    );
    try {
      expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    } finally {
      clearInterval(watching);
    }
    expect(site.isShared).toBe(true);
    expect(await world.fetchedBytes()).toBeLessThanOrEqual(SIZE + OVERLAP_BYTES);
    // Two may be closing: the first one, which is ended in the middle of its response, and the one that brings a stripe in its
    // place until the next response.
    expect(most).toBeLessThanOrEqual(6);
    await stored(world);
    // Nothing of it is left but the blob.
    for await (const { key } of world.spool.list()) expect.fail(key);
  });

  it('gives readers all bytes in order meanwhile', async test => {
    const site = await Site.start(test);
    const world = await site.world();
    const blob = await site.layer(world);
    const { reader } = await world.open(blob.digest);
    const expected = bytesOf(blob);
    const buffer = new Uint8Array(256 * 1024);
    let isEarly = false;
    for (let at = 0; at < SIZE; ) {
      const count = await reader.read(buffer, at);
      expect(Buffer.compare(buffer.subarray(0, count), expected.subarray(at, at + count))).toBe(0);
      at += count;
      isEarly ||= site.isShared && at > SIZE / 3 && at < SIZE / 2;
    }
    await reader.close();
    expect(isEarly).toBe(true);
  });

  it('does not wait for a first connection that is much slower than the others', async test => {
    const site = await Site.start(test, [{ kind: 'blob', method: 'GET', times: 1, bytesPerS: MIB / 4 }]);
    const world = await site.world();
    const blob = await site.layer(world);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    // A stripe has 8 MiB at least, which the first connection was to bring.
    const starts = site.asked.map(range => Number(range?.split('-')[0] ?? SIZE));
    expect(Math.min(...starts)).toBeLessThan(4 * MIB);
    expect(await world.fetchedBytes()).toBeLessThanOrEqual(SIZE + OVERLAP_BYTES);
  });

  it('lets nobody wait for a stripe who wants a small range of it', async test => {
    const site = await Site.start(test);
    const world = await site.world();
    const blob = await site.layer(world);
    const pulled = world.pull(blob.digest);
    await until(() => site.isShared);
    const [, stripeEnd = SIZE] = (site.asked.find(range => range !== undefined) ?? '').split('-').map(Number);
    const wanted = { start: stripeEnd - 1000, end: stripeEnd };
    const right = await world.right();
    const { reader } = await world.mirror.openBlob(APP, blob.digest, right, () => [wanted]);
    const buffer = new Uint8Array(1000);
    for (let at = 0; at < 1000; ) at += await reader.read(buffer.subarray(at), wanted.start + at);
    await reader.close();
    expect(Buffer.compare(buffer, bytesOf(blob).subarray(wanted.start, wanted.end))).toBe(0);
    expect(site.asked).toContain(`${wanted.start}-${wanted.end - 1}`);
    expect(await pulled).toMatchObject(whole(blob));
  });

  it('comes over one if that is what the configuration says', async test => {
    const site = await Site.start(test);
    const world = await site.world({});
    const blob = await site.layer(world, 'small', 36 * MIB);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(site.asked).toEqual([undefined]);
  });

  it('comes over one if it is not that large', async test => {
    const site = await Site.start(test);
    const world = await site.world();
    const blob = await site.layer(world, 'small', 30 * MIB);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(site.asked).toEqual([undefined]);
  });

  it('comes over one for a reader that is slower', async test => {
    const site = await Site.start(test);
    const world = await site.world();
    const blob = await site.layer(world, 'small', 36 * MIB);
    const { reader } = await world.open(blob.digest);
    await reader.read(new Uint8Array(10), 0);
    await until(() => world.mirror.downloads.length === 0);
    expect(site.asked).toEqual([undefined]);
    await reader.close();
  });

  it('gives its further connections back when other downloads wait', async test => {
    const site = await Site.start(test);
    const world = await site.world({
      ...MANY,
      limits: { maxConnections: 2, serializeImagePulls: false, maxParallelImagePulls: undefined },
    });
    const blob = await site.layer(world);
    const small = await site.layer(world, 'small', 100_000);
    const pulled = world.pull(blob.digest);
    await until(() => site.isShared);
    expect(await world.pull(small.digest)).toMatchObject(whole(small));
    expect(world.mirror.downloads).toHaveLength(1);
    expect(await pulled).toMatchObject(whole(blob));
    expect(await world.fetchedBytes()).toBeLessThanOrEqual(SIZE + small.size + OVERLAP_BYTES);
  });

  it('is gone on with by the next process, without fetching anything twice', async test => {
    const site = await Site.start(test);
    const world = await site.world({ ...MANY, isIndexOnDisk: true });
    const blob = await site.layer(world);
    const pulled = world.pull(blob.digest).catch((error: unknown) => error);
    await until(async () => site.isShared && (await world.fetchedBytes()) > SIZE / 2);
    await world.close();
    expect(await pulled).toBeInstanceOf(Error);
    const before = await world.fetchedBytes();
    const next = await site.world({ ...MANY, folder: world.folder });
    expect(await next.pull(blob.digest)).toMatchObject(whole(blob));
    expect((await next.fetchedBytes()) + before).toBeLessThanOrEqual(SIZE + 4 * OVERLAP_BYTES);
  });

  it('is not stored, and keeps no connection, when the server stops in the middle', async test => {
    const site = await Site.start(test);
    const world = await site.world();
    const blob = await site.layer(world);
    const pulled = world.pull(blob.digest).catch((error: unknown) => error);
    await until(() => site.isShared);
    await world.close();
    expect(await pulled).toBeInstanceOf(Error);
    await until(async () => (await site.upstream.connections()) === 0);
  });
});

describe.concurrent('an upstream that does not take further connections well', () => {
  const cases: [string, Misbehaviour][] = [
    ['answers 416', { ...FURTHER, status: 416 }],
    ['answers 429', { ...FURTHER, status: 429 }],
    ['answers 503', { ...FURTHER, status: 503 }],
    ['answers 403', { ...FURTHER, times: 1, status: 403 }],
    ['resets them', { ...FURTHER, times: 8, reset: true }],
    ['sends another range', { ...FURTHER, times: 1, headers: { 'Content-Range': `bytes 5-9/${SIZE}` } }],
    ['sends a range of another blob', { ...FURTHER, times: 1, headers: { 'Content-Range': 'bytes 0-9/10' } }],
    ['sends several parts', { ...FURTHER, times: 1, headers: { 'Content-Range': null } }],
    ['sends less than it says', { ...FURTHER, times: 1, cutAtByte: 100_000 }],
    ['sends more than it says', { ...FURTHER, times: 1, contentLength: 100 }],
    ['sends something else', { ...FURTHER, times: 1, spaces: SIZE }],
    ['stops sending', { ...FURTHER, times: 1, hangAtByte: 9 * MIB }],
    ['never answers', { ...FURTHER, times: 1, hang: true }],
    ['breaks each off once', { ...FURTHER, times: 4, cutAtByte: MIB }],
  ];

  it.for(cases)('still gives the blob to everybody if it %s', async ([, rule], test) => {
    const site = await Site.start(test, [rule]);
    const world = await site.world(PATIENT);
    const blob = await site.layer(world);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(site.asked.length).toBeGreaterThan(1);
    await stored(world);
    expect(await world.metadata.statBlob(blob.digest)).toBeDefined();
  });

  it('still gives the blob if it ignores ranges, and is asked for no other range', async test => {
    const site = await Site.start(test, [], { ranges: false });
    const world = await site.world();
    const blob = await site.layer(world);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(site.asked).toHaveLength(2);
    const other = await site.layer(world, 'other', 36 * MIB);
    expect(await world.pull(other.digest)).toMatchObject(whole(other));
    expect(site.asked).toEqual([undefined]);
  });

  it('is logged with what it answered, and without a stack', async test => {
    const site = await Site.start(test, [{ ...FURTHER, status: 503 }]);
    const told: object[] = [];
    const note = (fields: object, message: string): void => {
      if (message.startsWith('a further connection')) told.push(fields);
    };
    const log: Log = { ...silentLog, info: note, child: () => log };
    const world = await site.world({ ...PATIENT, log });
    const blob = await site.layer(world);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(told).toEqual([{ reason: expect.stringContaining('503') }]);
  });

  it('is not asked for a stripe of what it has ignored a range of', async test => {
    const site = await Site.start(test, [], { ranges: false });
    const world = await site.world();
    const blob = await site.layer(world);
    const wanted = { start: SIZE - 1000, end: SIZE };
    const { reader } = await world.mirror.openBlob(APP, blob.digest, await world.right(), () => [wanted]);
    const buffer = new Uint8Array(1000);
    for (let at = 0; at < 1000; ) at += await reader.read(buffer.subarray(at), wanted.start + at);
    await reader.close();
    expect(Buffer.compare(buffer, bytesOf(blob).subarray(wanted.start))).toBe(0);
    expect(site.asked).toEqual([`${wanted.start}-${wanted.end - 1}`, undefined]);
  });

  it('goes on with its first response where a further one has brought nothing', async test => {
    const site = await Site.start(test, [{ ...FURTHER, hang: true }]);
    const world = await site.world(PATIENT);
    const blob = await site.layer(world);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    const [first, ...others] = site.upstream.requests.filter(({ kind }) => kind === 'blob');
    expect(first?.sentBytes).toBe(SIZE);
    expect(others).toHaveLength(1);
  });

  it('still gets other requests after it has answered 429 to one', async test => {
    const site = await Site.start(test, [{ ...FURTHER, status: 429 }]);
    const world = await site.world();
    const blob = await site.layer(world);
    const pulled = world.pull(blob.digest);
    await until(() => site.upstream.requests.some(({ status }) => status === 429));
    site.upstream.behave();
    const other = await site.layer(world, 'other', 100_000);
    expect(await world.pull(other.digest)).toMatchObject(whole(other));
    expect(await pulled).toMatchObject(whole(blob));
  });

  it('gets none if it says with blobs how many requests are left', async test => {
    const headers = { 'RateLimit-Remaining': '99;w=21600' };
    const site = await Site.start(test, [{ kind: 'blob', headers }]);
    const world = await site.world();
    const blob = await site.layer(world, 'small', 36 * MIB);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(site.asked).toEqual([undefined]);
  });

  it('never has wrong bytes stored, and is asked over one connection then', async test => {
    const site = await Site.start(test, [{ ...FURTHER, times: 1, corruptByte: 2 * MIB }]);
    const world = await site.world();
    const blob = await site.layer(world);
    await expect(world.pull(blob.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    site.upstream.requests.length = 0;
    await stored(world);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(site.asked).toEqual([undefined]);
  });
});

const FULL = Object.assign(new Error('no space left'), { code: 'ENOSPC' });

/** A spool on whose disk parts of blobs find no room. */
function withoutRoomForParts(spool: Spool): Spool {
  return new Proxy(spool, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name, target);
      if (name !== 'parts') return typeof member === 'function' ? member.bind(target) : member;
      return async (...args: Parameters<Spool['parts']>) => {
        const parts = await target.parts(...args);
        vi.spyOn(parts, 'write').mockRejectedValue(FULL);
        return parts;
      };
    },
  });
}

describe.concurrent('a disk that has no room for what comes ahead', () => {
  it('does not keep the blob from being stored', async test => {
    const site = await Site.start(test);
    const world = await site.world({ ...MANY, spool: withoutRoomForParts });
    const blob = await site.layer(world);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    await stored(world);
    expect(await world.pull(blob.digest)).toMatchObject({ outcome: 'hit' });
  });

  it('gets no further connections if the store may not become larger', async test => {
    const site = await Site.start(test);
    const world = await site.world({ ...MANY, maxBytes: 64 * MIB });
    const blob = await site.layer(world, 'small', 36 * MIB);
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(site.asked).toEqual([undefined]);
  });
});
