// Uploads of which requests reach another replica: real connections between them, and real files.
import { once } from 'node:events';
import { createServer } from 'node:https';
import { Socket } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { bytesOf, type Content, randomBlob } from '../../test/support/content.ts';
import { DURING } from '../../test/support/hosted-bench.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { openFileStores } from '../blobs/file-stores.ts';
import { Bucket, ObjectBlobStore } from '../blobs/object-blob-store.fixture.ts';
import type { Chunk } from '../hosted/chunk.ts';
import { SharedUploads } from '../hosted/shared-uploads.ts';
import { Uploads } from '../hosted/uploads.ts';
import { listen } from '../http/listen.ts';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { MemoryIndex, type MemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import { ANONYMOUS } from '../oci/requester.ts';
import { ClusterKeys } from './cluster-keys.ts';
import { ReplicaClient } from './replica-client.ts';
import { ReplicaServer } from './replica-server.ts';

const KEYS = new ClusterKeys('a key of the cluster, long enough to use');
const MIB = 1024 * 1024;
const APP = { upstream: '', name: 'team/app' };

let index: MemoryIndex;
let bucket: Bucket;
let replicas: Replica[];
let clock: ManualClock;
/** Warnings of ports for replicas. */
let logged: unknown[];

interface Replica {
  readonly uploads: SharedUploads;
  readonly own: Uploads;
  readonly metadata: MemoryMetadataStore;
  /** Bytes of unfinished uploads on its disk. */
  spooled(): Promise<number>;
  cutOff(): Promise<void>;
  close(): Promise<void>;
}

async function replica(): Promise<Replica> {
  const folder = await makeTempFolder('uploads');
  const files = await openFileStores(folder, { log: silentLog });
  let own: Uploads | undefined;
  const server = await ReplicaServer.open({
    address: { host: '127.0.0.1', port: 0 },
    tls: KEYS,
    ledFill: async () => undefined,
    own: () => own && { uploads: own, presence: metadata.presence },
    flights: () => undefined,
    about: () => undefined,
    log: { ...silentLog, warn: fields => void logged.push(fields) },
  });
  const address = `127.0.0.1:${server.port}`;
  const metadata = index.open(address);
  const [id = ''] = (await metadata.listReplicas()).flatMap(each =>
    each.address === address ? each.id : [],
  );
  const { spool } = files;
  own = new Uploads({ spool, blobs: new ObjectBlobStore(bucket), metadata, replica: id, log: silentLog });
  const client = new ReplicaClient(KEYS, { clock });
  const find = async (other: string) => (await metadata.listReplicas()).find(each => each.id === other);
  const uploads = new SharedUploads(own, id, async other => {
    const found = await find(other);
    return found && client.uploadsAt(found.address, async () => (await find(other)) !== undefined);
  });
  const opened = {
    uploads,
    own,
    metadata,
    spooled: async () => {
      let bytes = 0;
      for await (const { size } of spool.list()) bytes += size;
      return bytes;
    },
    cutOff: () => server.close(),
    close: async () => {
      await server.close().catch(() => {});
      client.close();
      await own?.close();
      await files.close();
      await metadata.close();
      await removeFolder(folder);
    },
  };
  replicas.push(opened);
  return opened;
}

beforeEach(() => {
  index = new MemoryIndex();
  bucket = new Bucket();
  replicas = [];
  logged = [];
  clock = new ManualClock();
});

afterEach(async () => {
  vi.restoreAllMocks();
  for (const each of replicas) await each.close();
});

function chunkOf(blob: Content, start: number, end: number): Chunk {
  const contentRange = `${start}-${end - 1}`;
  return { body: Readable.from(blob.slice(start, end)), contentRange, contentLength: end - start, ...DURING };
}

describe('an upload', () => {
  it('takes chunks that reach any replica, and is on the disk of the one that began it', async () => {
    const [one, two, three] = [await replica(), await replica(), await replica()];
    const blob = randomBlob(4 * MIB, 'pushed');
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    for (const [at, { uploads }] of [two, one, three].entries()) {
      const state = await uploads.append(ANONYMOUS, APP, id, chunkOf(blob, at * MIB, (at + 1) * MIB));
      expect(state).toEqual({ id, offset: (at + 1) * MIB });
    }
    expect(await two.uploads.status(ANONYMOUS, APP, id)).toEqual({ id, offset: 3 * MIB });
    expect([await one.spooled(), await two.spooled()]).toEqual([3 * MIB, 0]);
    const rest = {
      body: Readable.from(blob.slice(3 * MIB)),
      contentRange: undefined,
      contentLength: undefined,
      ...DURING,
    };
    await three.uploads.complete(ANONYMOUS, APP, id, blob.digest, rest);
    const stored = await new ObjectBlobStore(bucket).open(blob.digest);
    const bytes = Buffer.alloc(blob.size);
    for (let at = 0; at < blob.size; ) at += (await stored?.read(bytes.subarray(at), at)) ?? blob.size;
    expect(bytes.equals(bytesOf(blob))).toBe(true);
    await expect(two.uploads.status(ANONYMOUS, APP, id)).rejects.toMatchObject({
      code: 'BLOB_UPLOAD_UNKNOWN',
    });
    expect(await one.spooled()).toBe(0);
  });

  it('is passed on by connections that wait for no acknowledgement before they send more', async () => {
    const [one, two] = [await replica(), await replica()];
    const withoutDelay = vi.spyOn(Socket.prototype, 'setNoDelay');
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    await two.uploads.append(ANONYMOUS, APP, id, chunkOf(randomBlob(MIB, 'pushed'), 0, MIB));
    expect(withoutDelay.mock.calls).toEqual([[true]]);
  });

  it('is refused what its own replica refuses, in the same words', async () => {
    const [one, two] = [await replica(), await replica()];
    const blob = randomBlob(MIB, 'refused');
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    const late = chunkOf(blob, 5, 10);
    // As much as a client may send; in the header to another replica, each character takes six.
    const invalid = { ...late, contentRange: '"'.repeat(30_000) };
    for (const [chunk, expected] of [
      [late, 'RANGE_INVALID'],
      [invalid, 'BLOB_UPLOAD_INVALID'],
    ] as const) {
      const refusals: unknown[] = [];
      for (const { uploads } of [one, two]) {
        const refusing = uploads.append(ANONYMOUS, APP, id, { ...chunk, body: Readable.from(['late']) });
        refusals.push(
          await refusing.catch(({ code, status, message, detail, headers }) => ({
            code,
            status,
            message,
            detail,
            headers,
          })),
        );
      }
      expect(refusals[0]).toMatchObject({ code: expected });
      expect(refusals[1]).toEqual(refusals[0]);
    }
    const other = { ...ANONYMOUS, id: 'somebody else' };
    await expect(two.uploads.status(other, APP, id)).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
    await two.uploads.cancel(ANONYMOUS, APP, id, DURING);
    await expect(one.uploads.status(ANONYMOUS, APP, id)).rejects.toMatchObject({
      code: 'BLOB_UPLOAD_UNKNOWN',
    });
  });

  it('keeps what a client of another replica has sent when it leaves', async () => {
    const [one, two] = [await replica(), await replica()];
    const blob = randomBlob(2 * MIB, 'left');
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    const body = new Readable({ read() {} });
    const chunk = { body, contentRange: undefined, contentLength: blob.size, ...DURING };
    const sending = two.uploads.append(ANONYMOUS, APP, id, chunk).catch((error: unknown) => error);
    for (const piece of blob.slice(0, MIB)) body.push(piece);
    while ((await one.uploads.status(ANONYMOUS, APP, id)).offset < MIB) await sleep(5);
    body.destroy(new Error('the client has left'));
    expect(await sending).toMatchObject({ code: 'UNAVAILABLE' });
    const state = () => one.uploads.append(ANONYMOUS, APP, id, chunkOf(blob, MIB, 2 * MIB));
    // The other replica may notice it a moment later.
    let appended = await state().catch(() => undefined);
    while (appended === undefined) {
      await sleep(20);
      appended = await state().catch(() => undefined);
    }
    expect(appended).toEqual({ id, offset: 2 * MIB });
  });

  it('is broken off when its replica takes nothing of a body any more, as if it were suspended', async () => {
    const suspended = createServer(KEYS.forServer, req => void req.pause());
    const port = await listen(suspended, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
    const client = new ReplicaClient(KEYS, { clock });
    try {
      // More than the network takes.
      const state = { isOver: false };
      const body = Readable.from(randomBlob(64 * MIB, 'stuck').slice(0, 64 * MIB));
      const chunk = { body, contentRange: undefined, contentLength: undefined, ...DURING };
      const sending = client
        .uploadsAt(`127.0.0.1:${port}`, async () => true)
        .append(ANONYMOUS, APP, 'id', chunk)
        .catch((error: unknown) => error)
        .finally(() => (state.isOver = true));
      await once(suspended, 'request');
      // From the moment on at which the network has taken what it takes.
      while (!state.isOver) await clock.advance(10_000);
      expect(clock.monotonicMs()).toBeGreaterThanOrEqual(90_000);
      expect(await sending).toMatchObject({ code: 'UNAVAILABLE', headers: { 'Retry-After': '1' } });
      expect([body.destroyed, clock.waiting]).toEqual([false, 0]);
    } finally {
      client.close();
      suspended.closeAllConnections();
      suspended.close();
    }
  });

  it('is not waited for longer than clients are if its replica answers nothing, as if it were suspended', async () => {
    const suspended = createServer(KEYS.forServer, () => {});
    const port = await listen(suspended, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
    const client = new ReplicaClient(KEYS, { clock });
    try {
      const asking = client
        .uploadsAt(`127.0.0.1:${port}`, async () => true)
        .status(ANONYMOUS, APP, 'id')
        .catch((error: unknown) => error);
      await once(suspended, 'request');
      await clock.advance(20_000);
      expect(await asking).toMatchObject({ code: 'UNAVAILABLE' });
      expect(clock.waiting).toBe(0);
    } finally {
      client.close();
      suspended.closeAllConnections();
      suspended.close();
    }
  });

  it('is waited for while it is being stored, as long as its replica is alive', async () => {
    const suspended = createServer(KEYS.forServer, req => void req.resume());
    const port = await listen(suspended, { host: '127.0.0.1', port: 0, setting: 'cluster.listen' });
    const client = new ReplicaClient(KEYS, { clock });
    const state = { lives: true, isOver: false };
    try {
      const { digest } = randomBlob(1, 'stored');
      const chunk = { body: Readable.from(['x']), contentRange: undefined, contentLength: 1, ...DURING };
      const completing = client
        .uploadsAt(`127.0.0.1:${port}`, async () => state.lives)
        .complete(ANONYMOUS, APP, 'id', digest, chunk)
        .catch((error: unknown) => error)
        .finally(() => (state.isOver = true));
      const [request] = await once(suspended, 'request');
      await once(request, 'end');
      for (let minute = 0; minute < 10; minute += 1) await clock.advance(60_000);
      expect(state.isOver).toBe(false);
      state.lives = false;
      await clock.advance(20_000);
      expect(await completing).toMatchObject({ code: 'UNAVAILABLE', headers: { 'Retry-After': '1' } });
      expect(clock.waiting).toBe(0);
    } finally {
      client.close();
      suspended.closeAllConnections();
      suspended.close();
    }
  });

  it('is not completed by a request that another replica took before it was considered dead', async () => {
    const [one, two] = [await replica(), await replica()];
    const blob = randomBlob(MIB, 'late');
    const complete = async (meanwhile: () => void) => {
      const { id } = await one.uploads.begin(ANONYMOUS, APP);
      const body = new Readable({ read() {} });
      const { presence: during } = two.metadata;
      const chunk = { body, contentRange: undefined, contentLength: blob.size, during };
      const completing = two.uploads.complete(ANONYMOUS, APP, id, blob.digest, chunk);
      meanwhile();
      body.push(bytesOf(blob));
      body.push(null);
      return completing;
    };
    await expect(complete(() => two.metadata.seemDead())).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: 'the registry cannot access its storage at the moment: try again',
    });
    expect(logged).toMatchObject([{ reason: expect.stringContaining('considered it dead') }]);
    expect(await one.metadata.isLinked(APP, blob.digest)).toBe(false);
    await complete(() => {});
    expect(await one.metadata.isLinked(APP, blob.digest)).toBe(true);
  });

  it('is neither appended to nor cancelled by a late request', async () => {
    const [one, two] = [await replica(), await replica()];
    const blob = randomBlob(MIB, 'late');
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    const along = { during: two.metadata.presence };
    const chunk = () => ({
      body: Readable.from(blob.slice(0, MIB)),
      contentRange: undefined,
      contentLength: MIB,
      ...along,
    });
    await two.uploads.append(ANONYMOUS, APP, id, chunk());
    two.metadata.seemDead();
    for (const late of [
      () => two.uploads.append(ANONYMOUS, APP, id, chunk()),
      () => two.uploads.cancel(ANONYMOUS, APP, id, along),
    ])
      await expect(late()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    expect(await one.uploads.status(ANONYMOUS, APP, id)).toEqual({ id, offset: MIB });
  });

  it('goes on however long it takes, as long as something of it is taken', async () => {
    const [one, two] = [await replica(), await replica()];
    const blob = randomBlob(3 * MIB, 'slow');
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    const body = new Readable({ read() {} });
    const chunk = { body, contentRange: undefined, contentLength: blob.size, ...DURING };
    const sending = two.uploads.append(ANONYMOUS, APP, id, chunk);
    for (let at = 0; at < 3; at += 1) {
      for (const piece of blob.slice(at * MIB, (at + 1) * MIB)) body.push(piece);
      while ((await one.uploads.status(ANONYMOUS, APP, id)).offset < (at + 1) * MIB) await sleep(5);
      if (at < 2) await clock.advance(60_000);
    }
    body.push(null);
    expect(await sending).toEqual({ id, offset: 3 * MIB });
    expect(clock.waiting).toBe(0);
  });

  it('expires in its own replica as long as that lives, and then in any', async () => {
    const [one, two] = [await replica(), await replica()];
    await one.uploads.begin(ANONYMOUS, APP);
    const later = Date.now() + 1_000;
    expect((await two.own.expire(later)).items).toBe(0);
    expect((await one.own.expire(later)).items).toBe(1);
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    await one.close();
    replicas = replicas.filter(each => each !== one);
    expect(await two.own.expire(later)).toEqual({ items: 1, bytes: 0 });
    await expect(two.uploads.status(ANONYMOUS, APP, id)).rejects.toMatchObject({
      code: 'BLOB_UPLOAD_UNKNOWN',
    });
  });

  it('is tried again while its replica cannot be reached, and unknown when that is gone', async () => {
    const [one, two] = [await replica(), await replica()];
    const { id } = await one.uploads.begin(ANONYMOUS, APP);
    await one.cutOff();
    const status = () => two.uploads.status(ANONYMOUS, APP, id);
    await expect(status()).rejects.toMatchObject({ code: 'UNAVAILABLE', headers: { 'Retry-After': '1' } });
    await one.close();
    replicas = replicas.filter(each => each !== one);
    await expect(status()).rejects.toMatchObject({ code: 'BLOB_UPLOAD_UNKNOWN' });
  });
});
