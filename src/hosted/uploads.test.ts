import { chmod, readdir, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { bytesOf, type Content, randomBlob } from '../../test/support/content.ts';
import { chunkOf, DURING, HostedBench, openChunk } from '../../test/support/hosted-bench.ts';
import { remove } from '../blobs/blob-store.suite.ts';
import { Bucket, ObjectBlobStore } from '../blobs/object-blob-store.fixture.ts';
import type { Ingest, Spool } from '../blobs/spool.ts';
import { isLeased, type Lease } from '../lib/lease.ts';
import { stopCollecting } from '../metadata/store-identity.ts';
import { type Digest, digestHex, digestOf } from '../oci/digest.ts';
import { ANONYMOUS, type Requester } from '../oci/requester.ts';

const repository = { upstream: '', name: 'team/app' };
const elsewhere = { upstream: '', name: 'team/other' };
const other: Requester = { tenant: 'b', id: 'b' };
const DAY_MS = 24 * 60 * 60 * 1000;

let bench: HostedBench;

beforeEach(async () => {
  bench = await HostedBench.open();
});

afterEach(() => bench.remove());

const begin = async () => (await bench.uploads.begin(ANONYMOUS, repository)).id;
const append = (id: string, bytes: Uint8Array, range?: string) =>
  bench.uploads.append(ANONYMOUS, repository, id, chunkOf(bytes, range));
const complete = (id: string, digest: Digest, bytes: Uint8Array = new Uint8Array(), range?: string) =>
  bench.uploads.complete(ANONYMOUS, repository, id, digest, chunkOf(bytes, range));
/** Resolves when all that was pushed has been read, so that its reader has the upload. */
const taken = (body: Readable) => expect.poll(() => body.readableLength).toBe(0);
const offset = async (id: string) => (await bench.uploads.status(ANONYMOUS, repository, id)).offset;

/** What a disk may do to a blob's file. */
const LOSSES: readonly (readonly [what: string, lose: (digest: Digest) => Promise<void>])[] = [
  ['all of them', digest => remove(bench.blobs, digest)],
  [
    'a part of them',
    async digest => {
      const hex = digestHex(digest);
      const path = join(bench.folder, 'blobs', 'sha256', hex.slice(0, 2), hex);
      await chmod(path, 0o644);
      await truncate(path, 400);
    },
  ],
];

async function pull({ digest, size }: Content): Promise<Buffer> {
  const { reader } = await bench.hosted.openBlob(repository, digest);
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; ) at += await reader.read(bytes.subarray(at), at);
  await reader.close();
  return bytes;
}

async function expectHeld(blob: Content): Promise<void> {
  expect((await pull(blob)).equals(bytesOf(blob))).toBe(true);
}

describe('an upload', () => {
  it('accepts chunks in order and becomes the blob', async () => {
    const blob = randomBlob(3_000_000, 'chunks');
    const bytes = bytesOf(blob);
    const id = await begin();
    expect(await append(id, bytes.subarray(0, 1_500_000), '0-1499999')).toEqual({ id, offset: 1_500_000 });
    await complete(id, blob.digest, bytes.subarray(1_500_000), '1500000-2999999');
    await expectHeld(blob);
    expect(await bench.ingests()).toEqual([]);
    await expect(offset(id)).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
  });

  it('that gets no row, because the disk is full, leaves no bytes, unless a rebuild of the index may need them', async () => {
    const blob = randomBlob(1000, 'without a row');
    const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    vi.spyOn(bench.metadata, 'putBlob').mockRejectedValue(full);
    const push = async () => complete(await begin(), blob.digest, bytesOf(blob));
    await expect(push()).rejects.toMatchObject({ code: 'INSUFFICIENT_STORAGE' });
    expect(await bench.blobs.stat(blob.digest)).toBeUndefined();
    await stopCollecting(bench.metadata, 'the index is new');
    await expect(push()).rejects.toMatchObject({ code: 'INSUFFICIENT_STORAGE' });
    expect(await bench.blobs.stat(blob.digest)).toEqual({ size: 1000 });
  });

  it('is acknowledged when first its bytes are in place, and then its row is committed', async () => {
    const blob = randomBlob(1000, 'acknowledged');
    const happened: string[] = [];
    const putBlob = bench.metadata.putBlob.bind(bench.metadata);
    vi.spyOn(bench.metadata, 'putBlob').mockImplementation(async (digest, ...row) => {
      expect(await bench.blobs.stat(digest)).toEqual({ size: 1000 });
      happened.push('bytes');
      const isKept = await putBlob(digest, ...row);
      happened.push('row');
      return isKept;
    });
    await complete(await begin(), blob.digest, bytesOf(blob));
    expect(happened).toEqual(['bytes', 'row']);
    vi.spyOn(bench.metadata, 'putBlob').mockRejectedValueOnce(new Error('no row was written'));
    await expect(complete(await begin(), blob.digest, bytesOf(blob))).rejects.toThrow('no row was written');
  });

  it('survives the process, and continues at the length of its file', async () => {
    const blob = randomBlob(2_000_000, 'restart');
    const bytes = bytesOf(blob);
    const id = await begin();
    await append(id, bytes.subarray(0, 700_000));
    await bench.close();
    bench = await HostedBench.open(bench.folder);
    expect(await offset(id)).toBe(700_000);
    await append(id, bytes.subarray(700_000, 1_000_000), '700000-999999');
    await bench.close();
    bench = await HostedBench.open(bench.folder);
    await complete(id, blob.digest, bytes.subarray(1_000_000));
    await expectHeld(blob);
  });

  it('is hashed with the algorithm of its final digest', async () => {
    const bytes = bytesOf(randomBlob(100_000, 'sha512'));
    const digest = digestOf(bytes, 'sha512');
    const id = await begin();
    await append(id, bytes);
    await complete(id, digest);
    expect((await bench.hosted.statBlob(repository, digest)).size).toBe(100_000);
  });

  it('keeps what a client sent before it disconnected, and can be resumed there', async () => {
    const blob = randomBlob(1_000_000, 'leave');
    const bytes = bytesOf(blob);
    const id = await begin();
    const leaving = openChunk(bytes.subarray(0, 400_000), '0-999999');
    const answer = bench.uploads.append(ANONYMOUS, repository, id, leaving);
    await taken(leaving.body);
    leaving.body.destroy(new Error('aborted'));
    await expect(answer).rejects.toMatchObject({ code: 'BLOB_UPLOAD_INVALID' });
    expect(await offset(id)).toBe(400_000);
    await append(id, bytes.subarray(400_000), '400000-999999');
    await complete(id, blob.digest);
    await expectHeld(blob);
  });

  it('discards the part of a whole PUT that was interrupted, so that it can be repeated', async () => {
    const blob = randomBlob(1_000_000, 'put again');
    const bytes = bytesOf(blob);
    const id = await begin();
    const leaving = openChunk(bytes.subarray(0, 400_000));
    const answer = bench.uploads.complete(ANONYMOUS, repository, id, blob.digest, leaving);
    await taken(leaving.body);
    leaving.body.destroy(new Error('aborted'));
    await expect(answer).rejects.toMatchObject({ code: 'BLOB_UPLOAD_INVALID' });
    expect(await offset(id)).toBe(0);
    await complete(id, blob.digest, bytes);
    await expectHeld(blob);
  });

  it('disconnects a client that sends nothing any more', async () => {
    await bench.close();
    bench = await HostedBench.open(bench.folder, { bodyIdleMs: 30 });
    const id = await begin();
    const silent = openChunk(Buffer.from('some'));
    await expect(bench.uploads.append(ANONYMOUS, repository, id, silent)).rejects.toMatchObject({
      code: 'BLOB_UPLOAD_INVALID',
    });
    expect(silent.body.destroyed).toBe(true);
    expect(await offset(id)).toBe(4);
  });

  it('is used by one request at a time: a second is refused, and changes nothing', async () => {
    const id = await begin();
    const first = openChunk(Buffer.alloc(10));
    const writing = bench.uploads.append(ANONYMOUS, repository, id, first);
    const inUse = { code: 'TOOMANYREQUESTS' };
    await expect(append(id, Buffer.alloc(5))).rejects.toMatchObject(inUse);
    await expect(bench.uploads.cancel(ANONYMOUS, repository, id, DURING)).rejects.toMatchObject(inUse);
    first.body.push(null);
    expect(await writing).toEqual({ id, offset: 10 });
    expect(await append(id, Buffer.alloc(5))).toEqual({ id, offset: 15 });
  });

  it('is used by one process at a time, and can continue in another one', async () => {
    const second = await HostedBench.open(bench.folder, { leaseWaitMs: 1500 });
    try {
      const blob = randomBlob(600_000, 'two processes');
      const bytes = bytesOf(blob);
      const id = await begin();
      const first = openChunk(bytes.subarray(0, 100_000));
      const writing = bench.uploads.append(ANONYMOUS, repository, id, first);
      await taken(first.body);
      await expect(
        second.uploads.append(ANONYMOUS, repository, id, chunkOf(Buffer.alloc(5))),
      ).rejects.toMatchObject({ code: 'TOOMANYREQUESTS' });
      first.body.push(null);
      await writing;
      const after = await second.uploads.append(ANONYMOUS, repository, id, chunkOf(bytes.subarray(100_000)));
      expect(after.offset).toBe(600_000);
      await second.uploads.complete(ANONYMOUS, repository, id, blob.digest, chunkOf(new Uint8Array()));
      await expectHeld(blob);
    } finally {
      await second.close();
    }
  });

  it('that ends while another process waits for it ends there, too', async () => {
    const second = await HostedBench.open(bench.folder);
    try {
      const blob = randomBlob(1000, 'ended meanwhile');
      const id = await begin();
      const last = openChunk(bytesOf(blob));
      const completing = bench.uploads.complete(ANONYMOUS, repository, id, blob.digest, last);
      await taken(last.body);
      const waiting = second.uploads.append(ANONYMOUS, repository, id, chunkOf(Buffer.alloc(5)));
      last.body.push(null);
      await completing;
      await expect(waiting).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
      expect(await bench.ingests()).toEqual([]);
      await expectHeld(blob);
    } finally {
      await second.close();
    }
  });

  it('does not exist for another requester or in another repository', async () => {
    const id = await begin();
    await append(id, Buffer.from('mine'));
    const unknown = { code: 'BLOB_UPLOAD_UNKNOWN' };
    for (const [who, where] of [
      [other, repository],
      [ANONYMOUS, elsewhere],
    ] as const) {
      await expect(bench.uploads.status(who, where, id)).rejects.toMatchObject(unknown);
      await expect(bench.uploads.append(who, where, id, chunkOf(Buffer.from('x')))).rejects.toMatchObject(
        unknown,
      );
      await expect(bench.uploads.cancel(who, where, id, DURING)).rejects.toMatchObject(unknown);
    }
    expect(await offset(id)).toBe(4);
  });

  it('with a wrong digest is refused, and leaves nothing behind', async () => {
    const blob = randomBlob(1000, 'wrong');
    const id = await begin();
    await append(id, Buffer.from('other bytes'));
    await expect(complete(id, blob.digest)).rejects.toMatchObject({ code: 'DIGEST_INVALID' });
    await expect(offset(id)).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
    expect(await bench.ingests()).toEqual([]);
    expect(await bench.metadata.statBlob(blob.digest)).toBeUndefined();
  });

  it('keeps its bytes if the index is unavailable for a moment', async () => {
    const blob = randomBlob(1000, 'moment');
    const id = await begin();
    await append(id, bytesOf(blob).subarray(0, 600));
    const readUpload = bench.metadata.readUpload.bind(bench.metadata);
    vi.spyOn(bench.metadata, 'readUpload')
      .mockImplementationOnce(readUpload)
      .mockRejectedValueOnce(new Error('disk I/O error'));
    await expect(complete(id, blob.digest, bytesOf(blob).subarray(600))).rejects.toThrow('disk I/O error');
    expect(await offset(id)).toBe(600);
    await complete(id, blob.digest, bytesOf(blob).subarray(600));
    await expectHeld(blob);
  });

  it('is given back to the store even if the index cannot tell whose it is', async () => {
    const acquire = bench.metadata.acquireLease.bind(bench.metadata);
    const confirm = vi.fn<Lease['confirm']>();
    vi.spyOn(bench.metadata, 'acquireLease').mockImplementationOnce(async key => {
      const lease = await acquire(key);
      return lease && Object.assign(lease, { confirm });
    });
    const id = await begin();
    await append(id, Buffer.from('some'));
    confirm.mockRejectedValueOnce(new Error('disk I/O error'));
    await expect(append(id, Buffer.from('more'))).rejects.toThrow('disk I/O error');
    await expect.poll(() => isLeased(bench.metadata, `upload-${id}`)).toBe(false);
    expect(await append(id, Buffer.from('more'))).toEqual({ id, offset: 8 });
  });

  it('that is cancelled leaves nothing behind', async () => {
    const id = await begin();
    await append(id, Buffer.from('bytes'));
    await bench.uploads.cancel(ANONYMOUS, repository, id, DURING);
    expect(await bench.ingests()).toEqual([]);
    await expect(offset(id)).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
  });

  it('can be continued after a 416, which says where', async () => {
    const id = await begin();
    await append(id, Buffer.alloc(10), '0-9');
    await expect(append(id, Buffer.alloc(10), '20-29')).rejects.toMatchObject({
      code: 'RANGE_INVALID',
      status: 416,
      headers: { Range: '0-9' },
    });
    expect(await append(id, Buffer.alloc(10), '10-19')).toEqual({ id, offset: 20 });
  });

  it('that is not used for a day expires, with its bytes; one in use does not', async () => {
    const [idle, busy] = [await begin(), await begin()];
    await append(idle, Buffer.from('bytes'));
    const writing = openChunk(Buffer.alloc(3));
    const answer = bench.uploads.append(ANONYMOUS, repository, busy, writing);
    expect(await bench.uploads.expire(Date.now() - DAY_MS)).toEqual({ items: 0, bytes: 0 });
    await expect.poll(() => isLeased(bench.metadata, `upload-${idle}`)).toBe(false);
    expect(await bench.uploads.expirable(Date.now() - DAY_MS)).toEqual({ items: 0, bytes: 0 });
    expect(await bench.uploads.expirable(Date.now() + 1000)).toEqual({ items: 1, bytes: 5 });
    expect(await bench.uploads.expire(Date.now() + 1000)).toEqual({ items: 1, bytes: 5 });
    await expect(offset(idle)).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
    writing.body.push(null);
    await answer;
    expect(await bench.ingests()).toEqual([`upload-${busy}`]);
  });

  it('that is continued does not expire, even while it is being ended', async () => {
    const [continued, meanwhile] = [await begin(), await begin()];
    const hourAgoMs = Date.now() - DAY_MS / 24;
    for (const id of [continued, meanwhile]) {
      const upload = await bench.metadata.readUpload(id);
      if (upload === undefined) throw new Error('it has just begun');
      await bench.metadata.putUpload({ ...upload, touchedAtMs: hourAgoMs });
    }
    await append(continued, Buffer.from('bytes'));
    // Found idle, and gone on with before its turn comes.
    const found = await bench.metadata.listUploads(hourAgoMs + 1, 10);
    expect(found.map(({ id }) => id)).toEqual([meanwhile]);
    await append(meanwhile, Buffer.from('bytes'));
    vi.spyOn(bench.metadata, 'listUploads').mockResolvedValueOnce(found);
    expect(await bench.uploads.expire(hourAgoMs + 1)).toMatchObject({ items: 0 });
    expect([await offset(continued), await offset(meanwhile)]).toEqual([5, 5]);
  });

  it('whose client disconnected within a chunk counts as unused from then on', async () => {
    const id = await begin();
    const hourAgoMs = Date.now() - DAY_MS / 24;
    const upload = await bench.metadata.readUpload(id);
    if (upload === undefined) throw new Error('it has just begun');
    await bench.metadata.putUpload({ ...upload, touchedAtMs: hourAgoMs });
    const leaving = openChunk(Buffer.from('bytes'));
    const answer = bench.uploads.append(ANONYMOUS, repository, id, leaving);
    await expect.poll(() => leaving.body.listenerCount('error')).toBeGreaterThan(0);
    leaving.body.destroy(new Error('aborted'));
    await expect(answer).rejects.toMatchObject({ code: 'BLOB_UPLOAD_INVALID' });
    expect(await bench.uploads.expire(hourAgoMs + 1)).toMatchObject({ items: 0 });
  });

  it('cannot be begun without limit', async () => {
    await bench.close();
    bench = await HostedBench.open(bench.folder, { maxUploadsPerRepository: 2, maxUploadsPerRequester: 3 });
    const full = { code: 'TOOMANYREQUESTS' };
    const first = await begin();
    await begin();
    await expect(begin()).rejects.toMatchObject(full);
    await bench.uploads.begin(ANONYMOUS, elsewhere);
    await expect(bench.uploads.begin(ANONYMOUS, { upstream: '', name: 'team/third' })).rejects.toMatchObject(
      full,
    );
    await bench.uploads.cancel(ANONYMOUS, repository, first, DURING);
    await begin();
  });

  it('is refused beyond a thousand in a repository, or five thousand of a requester', async () => {
    const inRepository = vi.spyOn(bench.metadata, 'countUploads');
    const ofRequester = vi.spyOn(bench.metadata, 'countUploadsOf');
    inRepository.mockResolvedValue(999);
    ofRequester.mockResolvedValue(4999);
    await begin();
    inRepository.mockResolvedValue(1000);
    await expect(begin()).rejects.toMatchObject({ code: 'TOOMANYREQUESTS' });
    inRepository.mockResolvedValue(0);
    ofRequester.mockResolvedValue(5000);
    await expect(begin()).rejects.toMatchObject({ code: 'TOOMANYREQUESTS' });
  });
});

describe('clients that push the same blob at once', () => {
  it('all succeed, and the blob is stored once', async () => {
    const blob = randomBlob(500_000, 'same');
    await Promise.all([repository, elsewhere, repository].map(each => bench.pushBlob(each, blob)));
    await expectHeld(blob);
    expect((await bench.hosted.statBlob(elsewhere, blob.digest)).size).toBe(500_000);
    expect(await bench.ingests()).toEqual([]);
  });
});

/** What comes between the bytes of the next push, in their place, and their row. */
function beforeRow(happens: (digest: Digest) => Promise<void>): void {
  const putBlob = bench.metadata.putBlob.bind(bench.metadata);
  vi.spyOn(bench.metadata, 'putBlob').mockImplementationOnce(async (digest, ...row) => {
    await happens(digest);
    return putBlob(digest, ...row);
  });
}

describe('a blob that was removed while it was being pushed', () => {
  it('is refused, and leaves no row without bytes', async () => {
    const blob = randomBlob(1000, 'removed meanwhile');
    beforeRow(digest => remove(bench.blobs, digest));
    await expect(bench.pushBlob(repository, blob)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await bench.metadata.statBlob(blob.digest)).toBeUndefined();
  });

  it('stays if another process has stored it again, and is acknowledged', async () => {
    const second = await HostedBench.open(bench.folder);
    try {
      const blob = randomBlob(1000, 'brought again');
      beforeRow(async digest => {
        await remove(bench.blobs, digest);
        await second.pushBlob(elsewhere, blob);
      });
      await bench.pushBlob(repository, blob);
      expect((await second.hosted.statBlob(elsewhere, blob.digest)).size).toBe(1000);
      await expectHeld(blob);
    } finally {
      await second.close();
    }
  });
});

describe('a full disk', () => {
  it('refuses the chunk with 507, keeps nothing of the upload, and accepts all of it when there is space', async () => {
    await bench.close();
    let isFull = false;
    bench = await HostedBench.open(bench.folder, { wrapSpool: onDisk(() => isFull) });
    const blob = randomBlob(3_000_000, 'full');
    const bytes = bytesOf(blob);
    const id = await begin();
    await append(id, bytes.subarray(0, 1_000_000));
    isFull = true;
    await expect(append(id, bytes.subarray(1_000_000))).rejects.toMatchObject({
      code: 'INSUFFICIENT_STORAGE',
      status: 507,
    });
    await expect(offset(id)).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
    expect(await readdir(join(bench.folder, 'ingest'))).toEqual([]);
    isFull = false;
    await complete(await begin(), blob.digest, bytes);
    await expectHeld(blob);
  });
});

/** Opens the bench anew on a disk whose writes wait until it goes on. */
async function onSlowDisk() {
  await bench.close();
  const disk = { isWriting: false, goOn: () => {} };
  const going = new Promise<void>(resolve => {
    disk.goOn = resolve;
  });
  const wrapSpool = beforeWrites(() => {
    disk.isWriting = true;
    return going;
  });
  bench = await HostedBench.open(bench.folder, { wrapSpool });
  return disk;
}

describe('a stop', () => {
  it('waits for a request that still writes before other processes may continue its file', async () => {
    const disk = await onSlowDisk();
    const blob = randomBlob(500_000, 'stop');
    const id = await begin();
    const writing = append(id, bytesOf(blob).subarray(0, 100_000));
    await expect.poll(() => disk.isWriting).toBe(true);
    const closing = bench.uploads.close();
    await expect(Promise.race([closing, setImmediate('waits')])).resolves.toBe('waits');
    expect(await isLeased(bench.metadata, `upload-${id}`)).toBe(true);
    disk.goOn();
    expect(await writing).toEqual({ id, offset: 100_000 });
    await closing;
    expect(await isLeased(bench.metadata, `upload-${id}`)).toBe(false);
    await expect(append(id, Buffer.alloc(5))).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    const next = await HostedBench.open(bench.folder);
    try {
      const rest = chunkOf(bytesOf(blob).subarray(100_000));
      await next.uploads.complete(ANONYMOUS, repository, id, blob.digest, rest);
      await expectHeld(blob);
    } finally {
      await next.close();
    }
  });

  it('leaves nothing of a push in one request, which nobody could resume', async () => {
    const disk = await onSlowDisk();
    const { digest } = randomBlob(500_000, 'broken off');
    const chunk = openChunk(Buffer.alloc(300_000));
    const pushing = bench.uploads.push(ANONYMOUS, repository, digest, chunk);
    await expect.poll(() => disk.isWriting).toBe(true);
    const closing = bench.uploads.close();
    chunk.body.destroy(new Error('aborted'));
    disk.goOn();
    await expect(pushing).rejects.toMatchObject({ code: 'BLOB_UPLOAD_INVALID' });
    await closing;
    expect(await bench.ingests()).toEqual([]);
    expect(await bench.metadata.countUploads(repository)).toBe(0);
  });
});

describe('a mount', () => {
  it('links what another repository has, and nothing that is only in the store', async () => {
    const blob = randomBlob(1000, 'mount');
    await bench.pushBlob(elsewhere, blob);
    expect(
      await bench.uploads.mount(repository, blob.digest, {
        from: { upstream: '', name: 'team/third' },
        ...DURING,
      }),
    ).toBe(false);
    await expect(bench.hosted.statBlob(repository, blob.digest)).rejects.toMatchObject({
      code: 'BLOB_UNKNOWN',
    });
    expect(await bench.uploads.mount(repository, blob.digest, { from: elsewhere, ...DURING })).toBe(true);
    await expectHeld(blob);
  });

  it.each(LOSSES)(
    'of content whose bytes are lost (%s) fails, so that the client pushes it',
    async (_, lose) => {
      const blob = randomBlob(1000, 'lost');
      await bench.pushBlob(elsewhere, blob);
      await lose(blob.digest);
      expect(await bench.uploads.mount(repository, blob.digest, { from: elsewhere, ...DURING })).toBe(false);
    },
  );
});

describe('a blob whose bytes are lost', () => {
  it.each(LOSSES)('(%s) is answered as absent, and complete after the next push', async (_, lose) => {
    const blob = randomBlob(1000, 'damage');
    await bench.pushBlob(repository, blob);
    await lose(blob.digest);
    const unknown = { code: 'BLOB_UNKNOWN' };
    await expect(bench.hosted.statBlob(repository, blob.digest)).rejects.toMatchObject(unknown);
    await expect(bench.hosted.openBlob(repository, blob.digest)).rejects.toMatchObject(unknown);
    await bench.pushBlob(repository, blob);
    await expectHeld(blob);
  });
});

describe('a store whose blobs are objects elsewhere', () => {
  it('accepts chunks through several processes, and mounts and serves the blob', async () => {
    await bench.remove();
    const bucket = new Bucket();
    bench = await HostedBench.open(undefined, { blobs: new ObjectBlobStore(bucket) });
    const second = await HostedBench.open(bench.folder, { blobs: new ObjectBlobStore(bucket) });
    const blob = randomBlob(300_000, 'objects');
    const id = await begin();
    await append(id, bytesOf(blob).subarray(0, 100_000));
    await bench.uploads.close();
    const rest = chunkOf(bytesOf(blob).subarray(100_000));
    await second.uploads.complete(ANONYMOUS, repository, id, blob.digest, rest);
    await expectHeld(blob);
    expect(await second.uploads.mount(elsewhere, blob.digest, { from: repository, ...DURING })).toBe(true);
    expect(await bench.hosted.statBlob(elsewhere, blob.digest)).toMatchObject({ size: blob.size });
    expect(await bench.ingests()).toEqual([]);
    await second.close();
  });

  it('refuses a blob that was removed while it was being pushed, and keeps no row of it', async () => {
    await bench.remove();
    const blobs = new ObjectBlobStore(new Bucket());
    bench = await HostedBench.open(undefined, { blobs });
    const blob = randomBlob(1000, 'removed meanwhile');
    beforeRow(digest => remove(blobs, digest));
    await expect(bench.pushBlob(repository, blob)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await bench.metadata.statBlob(blob.digest)).toBeUndefined();
    await bench.pushBlob(repository, blob);
    await expectHeld(blob);
  });
});

/** The spool, on a disk that is full while `isFull`. */
function onDisk(isFull: () => boolean) {
  return beforeWrites(() => {
    if (isFull()) throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
  });
}

/** The spool, where something comes before each write. */
function beforeWrites(happens: () => Promise<void> | void) {
  return (spool: Spool): Spool =>
    overriding(spool, {
      ingest: async lease => {
        const ingest = await spool.ingest(lease);
        return overriding(ingest, {
          write: async chunks => {
            await happens();
            await ingest.write(chunks);
          },
        });
      },
    });
}

/** `target` with some of its methods replaced; the others still run on it, private fields and all. */
function overriding<T extends Spool | Ingest>(target: T, methods: Partial<T>): T {
  return new Proxy(target, {
    get(_, name) {
      const value: unknown = Reflect.get(methods, name) ?? Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
