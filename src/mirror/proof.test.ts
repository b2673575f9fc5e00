// What proves to whom that upstream has something: its bytes, and never that it answers.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  bytesOf,
  type Content,
  contentOf,
  type Image,
  imageOf,
  randomBlob,
} from '../../test/support/content.ts';
import type { FakeAuthOptions } from '../../test/support/fake-upstream-auth.ts';
import { FakeS3 } from '../../test/support/fake-s3.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../../test/support/fake-upstream.ts';
import { Latch } from '../../test/support/latch.ts';
import {
  MirrorWorld,
  type MirrorWorldOptions,
  readAll,
  repositoryOf,
  whole,
} from '../../test/support/mirror-world.ts';
import { until } from '../../test/support/programs.ts';
import { makeTempFolder } from '../../test/support/temp-folder.ts';
import { keptBlobs } from '../../test/support/test-storage.ts';
import { openFileStores } from '../blobs/file-stores.ts';
import { LocalCopies } from '../blobs/local-copies.ts';
import { Bucket } from '../blobs/s3/bucket.ts';
import { S3BlobStore } from '../blobs/s3/s3-blob-store.ts';
import { StoreMark } from '../blobs/s3/store-mark.ts';
import { errorCode } from '../lib/error-code.ts';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { newsOfTwo } from '../lib/news.fixture.ts';
import { openMemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import type { Credential } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { OCI_CONFIG } from '../oci/media-types.ts';
import { ANY_MANIFEST } from '../oci/pull-source.ts';
import type { Right } from '../oci/requester.ts';
import type { EndedRight } from './ended-rights.ts';
import { createMetrics } from '../ops/metrics.ts';
import { Quarantine } from '../upkeep/quarantine.ts';
import { FlightBoard, flightsOn } from './shared-flights.ts';

const MIB = 1024 * 1024;
/** No pause between two attempts is longer. */
const MAX_BACKOFF_MS = 2_000;
const HOUR_MS = 3_600_000;
const PRIVATE = repositoryOf('private');
const OPEN = repositoryOf('open');
const image: Image = imageOf([randomBlob(100_000, 'layer'), randomBlob(3 * MIB, 'big')]);
const [layer, big] = [image.layers[0]!, image.layers[1]!];
let upstream: FakeUpstream;
let world: MirrorWorld;
let clock: ManualClock;

type Name = 'ann' | 'cat' | 'bob' | undefined;

async function startWith(auth: FakeAuthOptions): Promise<void> {
  upstream = await FakeUpstream.start({ auth });
  world = await MirrorWorld.open(upstream);
  upstream.add('private', image, '1');
}

async function start(options: MirrorWorldOptions = {}, fake: FakeUpstreamOptions = {}): Promise<void> {
  const mine = ['ann', 'cat'].map(name => [name, { password: 'right', repositories: ['private'] }] as const);
  const users = { ...Object.fromEntries(mine), bob: { password: 'right', repositories: ['open'] } };
  upstream = await FakeUpstream.start({ auth: { scheme: 'basic', users }, ...fake });
  clock = new ManualClock();
  world = await MirrorWorld.open(upstream, { clock, ...options });
  upstream.add('private', image, '1');
}

const credentialsOf = (name: Name): readonly (Credential | undefined)[] => [
  name && { username: name, password: 'right', id: `${name}:right` },
];
const rightOf = (name: Name, repository = PRIVATE) => world.right(repository, credentialsOf(name), name);
const openAs = async (name: Name, digest: Digest, repository = PRIVATE) =>
  world.mirror.openBlob(repository, digest, await rightOf(name, repository));
const pullAs = async (name: Name, digest: Digest, repository = PRIVATE) =>
  readAll((await openAs(name, digest, repository)).reader);
/** 'opened', or the code of the error. */
const openedAs = async (...asked: Parameters<typeof openAs>): Promise<string | undefined> => {
  try {
    await (await openAs(...asked)).reader.close();
    return 'opened';
  } catch (error) {
    return errorCode(error);
  }
};
const manifestAs = async (name: Name, reference = '1', repository = PRIVATE) =>
  world.mirror.manifest(repository, reference, await rightOf(name, repository), ANY_MANIFEST);
const idle = () => until('downloads to end', 20_000, async () => world.mirror.runningFills === 0);
const asked = () => upstream.requests.map(({ method, kind, status }) => `${method} ${kind} ${status}`);
const opens = async (name: Name) => {
  const { proved, provedIfUnreachable } = await rightOf(name);
  return proved || provedIfUnreachable;
};

const toEverything = (body: string) => ({
  status: 200,
  headers: { 'Content-Type': 'application/json' },
  body,
});

beforeEach(() => start());

afterEach(async () => {
  vi.restoreAllMocks();
  await world.remove();
  await upstream.stop();
});

describe('a response that upstream sends to every request', () => {
  const page = contentOf(JSON.stringify({ maintenance: 'x'.repeat(1_000) }), 'application/json');

  it('is the blob of its own digest, and proves nothing else', async () => {
    await manifestAs('ann');
    await pullAs('ann', layer.digest);
    await idle();
    upstream.misbehave(toEverything(bytesOf(page).toString()));
    for (const outcome of ['miss', 'hit']) {
      const served = await openAs(undefined, page.digest);
      expect(served.outcome).toBe(outcome);
      expect(await readAll(served.reader)).toEqual(whole(page));
      await idle();
      expect(await opens(undefined)).toBe(false);
      await expect(pullAs(undefined, layer.digest)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      await expect(manifestAs(undefined, image.manifest.digest)).rejects.toMatchObject({
        code: 'UPSTREAM_INVALID',
      });
      world.nowMs += HOUR_MS;
    }
    expect(await opens('ann')).toBe(true);
  });

  it.each(['', '{}'])('is no proof if it is %j, which an artifact names', async text => {
    const config = contentOf(text, OCI_CONFIG);
    upstream.add('private', imageOf([config]), 'artifact');
    await manifestAs('ann', 'artifact');
    for (const name of ['ann', undefined] as const) {
      if (name === undefined) upstream.misbehave(toEverything(text));
      expect(await pullAs(name, config.digest)).toEqual(whole(config));
      await idle();
    }
    expect(await opens(undefined)).toBe(false);
  });
});

async function keptLayer() {
  return (await keptBlobs(world.folder)).find(({ digest }) => digest === layer.digest);
}

describe('a stored blob', () => {
  beforeEach(async () => {
    upstream.add('open', image, '1');
    await manifestAs('ann');
    await pullAs('ann', layer.digest);
    await idle();
    upstream.requests.length = 0;
  });

  it('is served once upstream has proved that it has it, to a credential without a manifest of the repository', async () => {
    for (const outcome of ['miss', 'hit']) {
      const { reader, outcome: heard } = await openAs('bob', layer.digest, OPEN);
      expect([heard, await readAll(reader)]).toEqual([outcome, whole(layer)]);
    }
    expect(await world.mirror.statBlob(OPEN, layer.digest, await rightOf('bob', OPEN))).toMatchObject({
      outcome: 'hit',
    });
    expect(asked().filter(what => what.startsWith('GET'))).toEqual(Array(3).fill('GET blob 206'));
    expect(asked().filter(what => what.startsWith('HEAD'))).toEqual([]);
    await world.mirror.secretsChanged();
    expect(
      await openAs('bob', layer.digest, OPEN).then(({ reader, outcome }) =>
        reader.close().then(() => outcome),
      ),
    ).toBe('miss');
  });

  it.each([
    ['answers another range', { headers: { 'Content-Range': 'bytes 0-4095/100000' } }],
    ['does not say which range it answers', { headers: { 'Content-Range': null } }],
    ['does not know the size', { headers: { 'Content-Range': 'bytes 0-4095/*' } }],
    ['answers 416', { status: 416, times: 1 }],
  ])('is compared from its start where upstream %s', async (_, wrong) => {
    upstream.misbehave({ kind: 'blob', method: 'GET', ...wrong });
    expect(await pullAs('bob', layer.digest, OPEN)).toEqual(whole(layer));
    expect(upstream.downloads()).toHaveLength(1);
  });

  it('that is damaged is downloaded again for all who ask for it', async () => {
    await (await keptLayer())!.overwrite(Buffer.alloc(layer.size));
    const pulls = [1, 2, 3].map(() => pullAs('bob', layer.digest, OPEN));
    for (const bytes of await Promise.all(pulls)) expect(bytes).toEqual(whole(layer));
    await idle();
    expect(await (await keptLayer())!.read()).toEqual(bytesOf(layer));
    expect(await pullAs('ann', layer.digest)).toEqual(whole(layer));
    expect(await world.metadata.countDamaged()).toBe(0);
  });

  it('that is damaged is downloaded again beside others, as those of one image', async () => {
    await pullAs('ann', big.digest);
    await idle();
    const sizes = new Map([layer, big].map(({ digest, size }) => [String(digest), size]));
    for (const file of await keptBlobs(world.folder)) {
      const size = sizes.get(file.digest);
      if (size !== undefined) await file.overwrite(Buffer.alloc(size));
    }
    const pulled = await Promise.all([layer, big].map(({ digest }) => pullAs('bob', digest, OPEN)));
    expect(pulled).toEqual([whole(layer), whole(big)]);
  });

  it('that is damaged is downloaded only once, however large it is', async () => {
    await pullAs('ann', big.digest);
    await idle();
    const kept = await keptBlobs(world.folder);
    await kept.find(({ digest }) => digest === big.digest)!.overwrite(Buffer.alloc(big.size));
    const before = upstream.bytesSent;
    expect(await pullAs('bob', big.digest, OPEN)).toEqual(whole(big));
    expect(upstream.bytesSent - before).toBeLessThan(big.size * 1.05);
  });

  it.each([
    ['is set aside', async () => {}],
    ['is replaced', () => pullAs('ann', layer.digest).then(idle)],
  ])('that is damaged and %s by another process meanwhile is not blamed on upstream', async (_, then) => {
    await (await keptLayer())!.overwrite(Buffer.alloc(layer.size));
    const latch = new Latch();
    const during = { repository: 'open', kind: 'blob', times: 1, after: latch.opened } as const;
    upstream.misbehave(during);
    const bobs = pullAs('bob', layer.digest, OPEN);
    await until('upstream to be asked', 20_000, async () => upstream.count('blob') > 0);
    const { metadata, blobs } = world;
    const elsewhere = new Quarantine({ metadata, blobs, log: silentLog, meter: createMetrics().meter });
    expect(await elsewhere.check(layer.digest)).toBe(true);
    await then();
    latch.open();
    expect(await bobs).toEqual(whole(layer));
  });

  it('that the disk does not give back is downloaded again', async () => {
    const failure = Object.assign(new Error('a failing disk'), { code: 'EIO' });
    const open = world.blobs.open.bind(world.blobs);
    const before = await open(layer.digest);
    await before?.close();
    vi.spyOn(world.blobs, 'rehash').mockRejectedValueOnce(failure).mockRejectedValueOnce(failure);
    vi.spyOn(world.blobs, 'open').mockImplementation(async (...given) => {
      const reader = await open(...given);
      if (reader?.origin === before?.origin) vi.spyOn(reader!, 'read').mockRejectedValue(failure);
      return reader;
    });
    expect(await pullAs('bob', layer.digest, OPEN)).toEqual(whole(layer));
    await idle();
    expect(await (await keptLayer())!.read()).toEqual(bytesOf(layer));
    expect(upstream.downloads()).toHaveLength(1);
  });

  it('that is replaced again and again does not keep its client waiting forever', async () => {
    await (await keptLayer())!.overwrite(Buffer.alloc(layer.size));
    const open = world.blobs.open.bind(world.blobs);
    let opened = 0;
    vi.spyOn(world.blobs, 'rehash').mockResolvedValue(layer.digest);
    vi.spyOn(world.blobs, 'open').mockImplementation(async (...given) => {
      const reader = await open(...given);
      if (reader !== undefined) Object.assign(reader, { origin: String((opened += 1)) });
      return reader;
    });
    await expect(openAs('bob', layer.digest, OPEN)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  it('that is damaged is given to nobody if upstream has other bytes, too', async () => {
    await (await keptLayer())!.overwrite(Buffer.alloc(layer.size));
    upstream.misbehave({ kind: 'blob', spaces: layer.size });
    await expect(pullAs('bob', layer.digest, OPEN)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    expect(await keptLayer()).toBeUndefined();
  });

  it('that is right is read again only once if upstream has other bytes', async () => {
    const rehash = vi.spyOn(world.blobs, 'rehash');
    upstream.misbehave({ kind: 'blob', spaces: layer.size });
    for (let times = 0; times < 2; times += 1) {
      await expect(openAs('bob', layer.digest, OPEN)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      world.nowMs += HOUR_MS;
    }
    expect(rehash).toHaveBeenCalledTimes(1);
  });

  it('is proved by upstream again after verifyFor, and if the clock was set back', async () => {
    for (const hours of [0, 25, -50]) {
      world.nowMs += hours * HOUR_MS;
      for (const outcome of ['miss', 'hit']) {
        const { reader, outcome: heard } = await openAs('bob', layer.digest, OPEN);
        await reader.close();
        expect([hours, heard]).toEqual([hours, outcome]);
      }
    }
  });

  it('is compared to its end if upstream does not announce its size', async () => {
    const noLength = { 'Content-Length': null, 'Content-Range': null };
    for (const spaces of [layer.size, layer.size - 1]) {
      upstream.misbehave({ kind: 'blob', status: 200, headers: noLength, spaces });
      await expect(openAs('bob', layer.digest, OPEN)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      upstream.behave();
      world.nowMs += HOUR_MS;
    }
    upstream.misbehave({ kind: 'blob', headers: noLength });
    expect(await pullAs('bob', layer.digest, OPEN)).toEqual(whole(layer));
  });

  it('continues to be compared after its client got a stale response and left', async () => {
    world.nowMs += 25 * HOUR_MS;
    const latch = new Latch();
    upstream.misbehave({ kind: 'blob', after: latch.opened });
    const opened = openAs('ann', layer.digest);
    await clock.pass(5_000);
    const { outcome, reader } = await opened;
    expect(outcome).toBe('stale');
    await reader.close();
    expect((await rightOf('ann')).proved).toBe(false);
    latch.open();
    await until('the right to be proved', 20_000, async () => (await rightOf('ann')).proved);
  });
});

describe('a blob in a bucket', () => {
  let s3: FakeS3;
  let folder: string;
  let close: () => Promise<void>;

  const startWithBucket = async ({ maxCopyBytes }: { readonly maxCopyBytes: number }) => {
    await world.remove();
    folder = await makeTempFolder('mirror');
    s3 = await FakeS3.start();
    const bucket = new Bucket(s3.settings());
    const mark = new StoreMark(bucket, 'this-store');
    await mark.claim({ takesOver: false });
    const files = await openFileStores(folder, { log: silentLog });
    const copies = await LocalCopies.open({
      path: folder,
      maxBytes: () => maxCopyBytes,
      log: silentLog,
    });
    const ledger = openMemoryMetadataStore();
    const blobs = new S3BlobStore({ bucket, mark, ledger, local: { spool: files.spool, copies } });
    world = await MirrorWorld.open(upstream, { clock, folder, metadata: ledger, blobs });
    close = async () => {
      await blobs.close();
      await files.close();
      await bucket.close();
      await s3.close();
    };
    upstream.add('open', image, '1');
    await manifestAs('ann');
    await pullAs('ann', layer.digest);
    await idle();
    upstream.requests.length = 0;
  };

  afterEach(async () => {
    await world.close();
    await close();
  });

  it('that is damaged and replaced by another process meanwhile is not blamed on upstream', async () => {
    await startWithBucket({ maxCopyBytes: 0 });
    for (const [key, { bytes }] of s3.objects) if (key.includes(layer.digest.slice(7))) bytes.fill(0);
    const latch = new Latch();
    upstream.misbehave({ repository: 'open', kind: 'blob', times: 1, after: latch.opened });
    const bobs = pullAs('bob', layer.digest, OPEN);
    await until('upstream to be asked', 20_000, async () => upstream.count('blob') > 0);
    const { metadata, blobs } = world;
    const elsewhere = new Quarantine({ metadata, blobs, log: silentLog, meter: createMetrics().meter });
    expect(await elsewhere.check(layer.digest)).toBe(true);
    await pullAs('ann', layer.digest).then(idle);
    latch.open();
    expect(await bobs).toEqual(whole(layer));
  });

  it('is read from there if its copy on the disk is damaged', async () => {
    await startWithBucket({ maxCopyBytes: Number.POSITIVE_INFINITY });
    const copy = join(folder, 'copies', 'sha256', layer.digest.slice(7, 9), layer.digest.slice(7));
    await writeFile(copy, Buffer.alloc(layer.size), { flag: 'r+' });
    expect(await pullAs('bob', layer.digest, OPEN)).toEqual(whole(layer));
    expect(upstream.downloads()).toEqual([]);
    expect(await world.metadata.countDamaged()).toBe(0);
    expect(await world.metadata.readDamage(layer.digest)).toBeUndefined();
  });
});

describe('a manifest', () => {
  it('of another repository is fetched, whatever a HEAD says', async () => {
    await manifestAs('ann');
    const { digest, size, mediaType } = image.manifest;
    const headers = {
      'Content-Type': mediaType,
      'Docker-Content-Digest': digest,
      'Content-Length': String(size),
    };
    upstream.misbehave({ kind: 'manifest', method: 'HEAD', repository: 'open', status: 200, headers });
    for (const reference of ['1', digest]) {
      await expect(manifestAs('bob', reference, OPEN)).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    }
    expect((await rightOf('bob', OPEN)).proved).toBe(false);
  });

  it('that is current is not fetched again because HEAD is redirected, or has no size', async () => {
    const elsewhere = await FakeUpstream.start();
    elsewhere.add('private', image, '1');
    try {
      await manifestAs('ann');
      for (const rule of [
        { redirectTo: `${elsewhere.url}/v2/private/manifests/1` },
        { headers: { 'Content-Length': null } },
      ]) {
        const behave = upstream.misbehave({ kind: 'manifest', method: 'HEAD', ...rule });
        world.nowMs += HOUR_MS;
        upstream.requests.length = 0;
        expect((await manifestAs('ann')).outcome).toBe('revalidated');
        expect(asked()).toHaveLength(1);
        behave();
      }
    } finally {
      await elsewhere.stop();
    }
  });

  it('is fetched by a client that has to prove its right if HEAD is redirected, or incomplete', async () => {
    const elsewhere = await FakeUpstream.start();
    elsewhere.add('private', image, '1');
    try {
      await manifestAs('ann');
      for (const rule of [
        { redirectTo: `${elsewhere.url}/v2/private/manifests/1` },
        { headers: { 'Content-Length': null } },
        { headers: { 'Content-Length': '3' } },
        { headers: { 'Content-Type': 'application/json' } },
      ]) {
        upstream.misbehave({ kind: 'manifest', method: 'HEAD', ...rule });
        upstream.requests.length = 0;
        expect((await manifestAs('cat')).outcome).toBe('miss');
        expect(asked().at(-1)).toBe('GET manifest 200');
        world.nowMs += 50 * HOUR_MS;
      }
    } finally {
      await elsewhere.stop();
    }
  });
});

/**
 * While a blob is downloaded here with ann's right, `elsewhere` learns that upstream has withdrawn it. Returns what she
 * gets, and whether the blob is hers at the end of her right and of the download.
 */
async function withdrawWhilePulling(elsewhere: MirrorWorld) {
  await manifestAs('ann');
  const latch = new Latch();
  upstream.misbehave({ kind: 'blob', pause: { atByte: 2 * MIB, until: latch.opened } });
  const pulling = pullAs('ann', big.digest);
  await until('bytes to come', 20_000, async () => upstream.bytesSent > MIB);
  upstream.misbehave({ kind: 'manifest', status: 401 });
  await expect(elsewhere.mirror.refresh(PRIVATE, '1', await rightOf('ann'))).rejects.toMatchObject({
    code: 'MANIFEST_UNKNOWN',
  });
  const opensBefore = await opens('ann');
  latch.open();
  const pulled = await pulling;
  await idle();
  return { pulled, opensBefore, opensAfter: await opens('ann') };
}

/**
 * While a blob is downloaded here that bob may join, for him or for cat, `elsewhere` learns that upstream has withdrawn his
 * right. Returns what he gets before and after that.
 */
async function joinAroundEnd(elsewhere: MirrorWorld, downloader: 'bob' | 'cat') {
  upstream.add('open', big, '1');
  const latch = new Latch();
  upstream.misbehave({ kind: 'blob', method: 'GET', pause: { atByte: 2 * MIB, until: latch.opened } });
  const pulling = pullAs(downloader, big.digest, downloader === 'bob' ? OPEN : PRIVATE);
  await until('bytes to come', 20_000, async () => (world.mirror.downloads[0]?.bytes ?? 0) > MIB);
  const before = await openAs('bob', big.digest, OPEN);
  upstream.misbehave({ repository: 'open', status: 401 });
  await expect(elsewhere.mirror.refresh(OPEN, '1', await rightOf('bob', OPEN))).rejects.toMatchObject({
    code: 'MANIFEST_UNKNOWN',
  });
  const after = await openedAs('bob', big.digest, OPEN);
  latch.open();
  await pulling;
  return { before: await readAll(before.reader), after };
}

/**
 * While bob waits for the answer to a question, which upstream has got, `elsewhere` learns that upstream has withdrawn his
 * right. Returns what he gets, what he gets of `again` after that, and whether his right is proved in the end.
 */
async function askAroundEnd(
  elsewhere: MirrorWorld,
  again?: MirrorWorld,
  reference: string = image.manifest.digest,
) {
  upstream.add('open', image, '1');
  // His credential is sent with the first request from now on.
  await pullAs('bob', layer.digest, OPEN);
  await idle();
  upstream.requests.length = 0;
  const latch = new Latch();
  upstream.misbehave({ kind: 'manifest', after: latch.opened });
  const ask = async ({ mirror }: MirrorWorld) =>
    mirror.manifest(OPEN, reference, await rightOf('bob', OPEN), ANY_MANIFEST);
  const asking = ask(world);
  await until('upstream to be asked', 20_000, async () => upstream.count('manifest') > 0);
  upstream.misbehave({ repository: 'open', status: 401 });
  await expect(elsewhere.mirror.refresh(OPEN, '1', await rightOf('bob', OPEN))).rejects.toMatchObject({
    code: 'MANIFEST_UNKNOWN',
  });
  const got =
    again &&
    ask(again).then(
      () => 'served',
      (error: unknown) => errorCode(error),
    );
  await setImmediate();
  latch.open();
  const [{ descriptor }, after] = [await asking, await got];
  return { before: descriptor.digest, after, opens: (await rightOf('bob', OPEN)).proved };
}

const askedInVain = (after?: 'MANIFEST_UNKNOWN') => ({
  before: image.manifest.digest,
  after,
  opens: false,
});

const endedRight = () => ({ pulled: whole(big), opensBefore: false, opensAfter: false });

describe('a right that upstream withdraws', () => {
  it('is not renewed by the end of a download that began before', async () => {
    expect(await withdrawWhilePulling(world)).toEqual(endedRight());
  });

  it.each(['bob', 'cat'] as const)('lets nobody join a download for %s any more', async downloader => {
    expect(await joinAroundEnd(world, downloader)).toEqual({ before: whole(big), after: 'BLOB_UNKNOWN' });
  });

  it('is not proved by the answer to a question that upstream was asked before', async () => {
    expect(await askAroundEnd(world)).toEqual(askedInVain());
  });

  it('lets nobody share the answer to a question that upstream was asked before', async () => {
    expect(await askAroundEnd(world, world)).toEqual(askedInVain('MANIFEST_UNKNOWN'));
  });

  it('lets nobody join a download about which upstream answers later, though it was asked before', async () => {
    upstream.add('open', image, '1');
    await pullAs('bob', layer.digest, OPEN);
    await idle();
    upstream.requests.length = 0;
    const latch = new Latch();
    upstream.misbehave({ kind: 'blob', after: latch.opened });
    const before = pullAs('bob', big.digest, OPEN);
    await until('upstream to be asked', 20_000, async () => upstream.count('blob') === 1);
    upstream.misbehave({ repository: 'open', status: 401 });
    await expect(world.mirror.refresh(OPEN, '1', await rightOf('bob', OPEN))).rejects.toMatchObject({
      code: 'MANIFEST_UNKNOWN',
    });
    const after = await openedAs('bob', big.digest, OPEN);
    latch.open();
    expect([await before, after]).toEqual([whole(big), 'BLOB_UNKNOWN']);
  });

  it('is not renewed by a download in another process of the server either', async () => {
    const [here, there] = newsOfTwo<EndedRight>();
    await world.remove();
    world = await MirrorWorld.open(upstream, { isIndexOnDisk: true, endNews: here });
    const other = await MirrorWorld.open(upstream, { folder: world.folder, endNews: there });
    try {
      expect(await withdrawWhilePulling(other)).toEqual(endedRight());
    } finally {
      await other.close();
    }
  });

  describe('while only another process on the index asks', () => {
    let other: MirrorWorld;

    beforeEach(async () => {
      await world.remove();
      world = await MirrorWorld.open(upstream, { isIndexOnDisk: true });
      other = await MirrorWorld.open(upstream, { folder: world.folder });
    });

    afterEach(() => other.close());

    it('is not renewed by a download', async () => {
      expect(await withdrawWhilePulling(other)).toEqual(endedRight());
    });

    it.each(['bob', 'cat'] as const)('lets nobody join a download for %s any more', async downloader => {
      expect(await joinAroundEnd(other, downloader)).toEqual({ before: whole(big), after: 'BLOB_UNKNOWN' });
    });

    it('lets nobody share the answer to a question that upstream was asked before', async () => {
      expect(await askAroundEnd(other, world)).toEqual(askedInVain('MANIFEST_UNKNOWN'));
    });

    it('lets nobody share such an answer about a tag of which only an imported image is his', async () => {
      upstream.add('open', image, '1');
      await manifestAs('bob', '1', OPEN);
      await world.metadata.endGrant(OPEN, 'bob:right');
      const imported = imageOf([randomBlob(1_000, 'imported')]).manifest;
      const { digest, mediaType } = imported;
      const bytes = bytesOf(imported);
      const view = await documents.ask('view', bytes, mediaType);
      const content = {
        manifests: [{ manifest: { digest, mediaType, bytes }, view }],
        blobs: [],
        grantee: '',
      };
      await world.metadata.putContent(OPEN, content, world.nowMs);
      await world.metadata.publish([{ repository: OPEN, digest, tag: '1' }], world.nowMs);
      world.nowMs += HOUR_MS;
      expect(await askAroundEnd(other, world, '1')).toEqual(askedInVain('MANIFEST_UNKNOWN'));
    });

    it('lets nobody share such an answer that another process waits for', async () => {
      await Promise.all([world.close(), other.close()]);
      const board = new FlightBoard();
      const opened = (folder: string) =>
        MirrorWorld.open(upstream, { folder, flights: flightsOn(board.of({})) });
      const { folder } = world;
      world = await opened(folder);
      other = await opened(folder);
      expect(await askAroundEnd(other, other)).toEqual(askedInVain('MANIFEST_UNKNOWN'));
    });

    it('is not proved by a download that began without one', async () => {
      await manifestAs('cat');
      const latch = new Latch();
      upstream.misbehave({ kind: 'blob', pause: { atByte: 2 * MIB, until: latch.opened } });
      const pulling = pullAs('ann', big.digest);
      await until('bytes to come', 20_000, async () => upstream.bytesSent > MIB);
      upstream.misbehave({ kind: 'manifest', status: 401 });
      await expect(other.mirror.refresh(PRIVATE, '1', await rightOf('ann'))).rejects.toMatchObject({
        code: 'MANIFEST_UNKNOWN',
      });
      latch.open();
      expect(await pulling).toEqual(whole(big));
      await idle();
      expect(await opens('ann')).toBe(false);
    });

    it('covers no blob any more that upstream has sent before', async () => {
      upstream.add('open', image, '1');
      const pull = async () => {
        const { reader, outcome } = await openAs('bob', layer.digest, OPEN);
        await reader.close();
        return outcome;
      };
      await manifestAs('ann');
      await pullAs('ann', layer.digest);
      await idle();
      expect([await pull(), await pull()]).toEqual(['miss', 'hit']);
      const behave = upstream.misbehave({ kind: 'manifest', status: 401 });
      await expect(other.mirror.refresh(OPEN, '1', await rightOf('bob', OPEN))).rejects.toMatchObject({
        code: 'MANIFEST_UNKNOWN',
      });
      behave();
      expect(await pull()).toBe('miss');
    });
  });
});

/** What nobody in particular gets of the big one before it breaks. */
async function readAsNobody(): Promise<Buffer> {
  const { reader } = await openAs(undefined, big.digest);
  const got: Buffer[] = [];
  try {
    for (let position = 0; position < big.size; ) {
      const buffer = Buffer.alloc(64 * 1024);
      const count = await reader.read(buffer, position);
      got.push(buffer.subarray(0, count));
      position += count;
    }
  } catch {
    // It is what came before that counts.
  } finally {
    await reader.close();
  }
  return Buffer.concat(got);
}

describe('a download', () => {
  it.each([0, 10_000, 400_000])(
    'that began with %i bytes of something else gives its readers nothing of what is downloaded for others',
    async cutAtByte => {
      await manifestAs('ann');
      await world.metadata.linkBlob(PRIVATE, big.digest, big.size);
      upstream.misbehave({
        kind: 'blob',
        times: 1,
        status: 200,
        spaces: big.size,
        cutAtByte,
        bytesPerS: 2_000_000,
      });
      const stolen = readAsNobody().catch(() => Buffer.of());
      await until('it to begin', 20_000, async () => upstream.count('blob') === 1);
      let isOver = false;
      const anns = pullAs('ann', big.digest)
        .catch(() => 'broken off')
        .finally(() => (isOver = true));
      const isJoined = () => world.mirror.downloads[0]?.requesters.includes('ann') === true;
      await until('ann to join', 20_000, async () => isOver || isJoined());
      clock.skipWaits(MAX_BACKOFF_MS);
      expect((await stolen).every(byte => byte === 0x20)).toBe(true);
      await anns;
      await idle();
      world.nowMs += HOUR_MS;
      expect(await pullAs('ann', big.digest)).toEqual(whole(big));
      expect(await opens(undefined)).toBe(false);
    },
  );

  it('can be joined without asking by a client with a right to its repository', async () => {
    await manifestAs('ann');
    await manifestAs('cat');
    const latch = new Latch();
    upstream.misbehave({ kind: 'blob', pause: { atByte: MIB, until: latch.opened } });
    const first = pullAs('ann', big.digest);
    await until('bytes to come', 20_000, async () => (world.mirror.downloads[0]?.bytes ?? 0) > 200_000);
    const { outcome, reader } = await openAs('cat', big.digest);
    latch.open();
    expect([outcome, await readAll(reader)]).toEqual(['joined', whole(big)]);
    await first;
    expect(upstream.count('blob')).toBe(1);
  });

  it('can be joined without asking by a client with the same credentials, while it continues', async () => {
    upstream.add('open', big);
    const latch = new Latch();
    upstream.misbehave({ kind: 'blob', pause: { atByte: MIB, until: latch.opened } });
    const first = pullAs('bob', big.digest, OPEN);
    await until('bytes to come', 20_000, async () => (world.mirror.downloads[0]?.bytes ?? 0) > 200_000);
    clock.skip(15_000);
    const { outcome, reader } = await openAs('bob', big.digest, OPEN);
    latch.open();
    expect([outcome, await readAll(reader)]).toEqual(['joined', whole(big)]);
    await first;
    expect(asked()).toEqual(['GET blob 401', 'GET blob 200']);
  });

  it('that is queued gives a client its response at once if that knows the size and may ask for it', async () => {
    await world.remove();
    await upstream.stop();
    await start({
      limits: { maxConnections: 1, serializeImagePulls: false, maxParallelImagePulls: undefined },
    });
    upstream.add('open', randomBlob(2 * MIB, 'before'), 'before');
    await manifestAs('ann');
    const latch = new Latch();
    upstream.misbehave({ repository: 'open', kind: 'blob', pause: { atByte: MIB, until: latch.opened } });
    const before = pullAs('bob', randomBlob(2 * MIB, 'before').digest, OPEN);
    await until('it to begin', 20_000, async () => upstream.count('blob') === 1);
    const cats = pullAs('cat', big.digest);
    const { reader, outcome } = await openAs('ann', big.digest);
    expect([outcome, reader.size, upstream.count('blob', { method: 'GET' })]).toEqual(['miss', big.size, 1]);
    latch.open();
    expect(await readAll(reader)).toEqual(whole(big));
    expect(await cats).toEqual(whole(big));
    expect(await before).toMatchObject({ bytes: 2 * MIB });
    expect(upstream.downloads()).toHaveLength(2);
  });

  it('for which there is no room is passed on to all who wait for upstream to prove their right', async () => {
    await world.remove();
    await upstream.stop();
    await start({ maxBytes: MIB });
    upstream.add('open', big);
    const latch = new Latch();
    upstream.misbehave({ repository: 'private', kind: 'blob', method: 'GET', times: 1, after: latch.opened });
    const anns = pullAs('ann', big.digest);
    await until('it to begin', 20_000, async () => upstream.count('blob') === 1);
    const bobs = [pullAs('bob', big.digest, OPEN)];
    await until('bob to wait', 20_000, async () => world.mirror.downloads[0]?.requesters.length === 2);
    bobs.push(pullAs('bob', big.digest, OPEN));
    await until('both to wait', 20_000, async () => (world.mirror.downloads[0]?.readers ?? 0) > 3);
    latch.open();
    for (const pulled of await Promise.all([anns, ...bobs])) expect(pulled).toEqual(whole(big));
  });
});

const lentRight = async (): Promise<Right> => ({
  ...(await world.right(PRIVATE, [...credentialsOf('ann'), undefined])),
  isLent: true,
});

const lentManifest = async (reference: string) =>
  world.mirror.manifest(PRIVATE, reference, await lentRight(), ANY_MANIFEST);
const lentBlob = async ({ digest }: Content) =>
  readAll((await world.mirror.openBlob(PRIVATE, digest, await lentRight())).reader);

describe("Entrepot's own credential, lent to everybody because a repository is public", () => {
  const next = imageOf([randomBlob(50_000, 'published later')]);
  const openNames: string[] = [];

  beforeEach(async () => {
    await world.remove();
    await upstream.stop();
    openNames.splice(0, openNames.length, 'private');
    const users = { ann: { password: 'right', repositories: ['private'] } };
    await startWith({ scheme: 'bearer', users, public: openNames });
  });

  it('is used if upstream served the repository anonymously a moment ago, and checked by HEAD after that', async () => {
    await world.mirror.manifest(PRIVATE, '1', await world.right(PRIVATE), ANY_MANIFEST);
    upstream.requests.length = 0;
    const logins = () =>
      upstream.requests.filter(({ kind }) => kind === 'token').map(({ username }) => username);
    await lentBlob(layer);
    expect([logins(), upstream.count('blob', { method: 'HEAD' })]).toEqual([['ann'], 0]);
    await idle();
    world.nowMs += 11 * 60_000;
    await lentBlob(big);
    expect(upstream.count('blob', { method: 'HEAD' })).toBe(1);
    expect(upstream.count('blob', { method: 'GET' })).toBe(2);
    await idle();
    world.nowMs -= HOUR_MS;
    await lentBlob(image.config);
    expect(upstream.count('blob', { method: 'HEAD' })).toBe(2);
  });

  it('fetches nothing that was added after the repository became private', async () => {
    await world.mirror.manifest(PRIVATE, '1', await world.right(PRIVATE), ANY_MANIFEST);
    openNames.length = 0;
    upstream.revokeTokens();
    upstream.add('private', next, '2');
    world.nowMs += 11 * 60_000;
    const refused = { code: 'MANIFEST_UNKNOWN' };
    await expect(lentManifest('2')).rejects.toMatchObject(refused);
    await expect(lentManifest(next.manifest.digest)).rejects.toMatchObject(refused);
    await expect(lentBlob(next.layers[0]!)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    expect((await world.right(PRIVATE)).proved).toBe(false);
    expect(upstream.requests.filter(({ username }) => username === 'ann')).toEqual([]);
  });
});

it('a stored blob that upstream has proved is served while the index accepts no Link', async () => {
  upstream.add('open', image, '1');
  await pullAs('bob', layer.digest, OPEN);
  await idle();
  const noWrite = Object.assign(new Error('the index was removed'), { code: 'ESTALE' });
  vi.spyOn(world.metadata, 'linkBlob').mockRejectedValue(noWrite);
  expect(await pullAs('ann', layer.digest)).toEqual(whole(layer));
});
