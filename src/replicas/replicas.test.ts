// Replicas with a folder each, which share an index and a bucket: real connections between them, and real files.
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Content, imageOf, randomBlob } from '../../test/support/content.ts';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { Latch } from '../../test/support/latch.ts';
import { APP, isDownload, MirrorWorld, readAll, whole } from '../../test/support/mirror-world.ts';
import { Bucket, ObjectBlobStore } from '../blobs/object-blob-store.fixture.ts';
import { StorageFull } from '../blobs/storage-full.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { LeaseLost } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { silentLog } from '../lib/log.ts';
import { MemoryIndex, type MemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import { fillKey } from '../mirror/fill/fill-key.ts';
import { ClusterKeys } from './cluster-keys.ts';
import { ReplicaClient } from './replica-client.ts';
import { ReplicaServer } from './replica-server.ts';

const MIB = 1024 * 1024;
const KEYS = new ClusterKeys('a key of the cluster, long enough to use');

let upstream: FakeUpstream;
let index: MemoryIndex;
let bucket: Bucket;
let replicas: Replica[];

class Replica {
  readonly world: MirrorWorld;
  readonly metadata: MemoryMetadataStore;
  readonly client: ReplicaClient;
  /** Opened when another one has asked for a download. */
  readonly asked: Latch;
  readonly #server: ReplicaServer;

  private constructor(
    world: MirrorWorld,
    metadata: MemoryMetadataStore,
    { server, client, asked }: { server: ReplicaServer; client: ReplicaClient; asked: Latch },
  ) {
    this.world = world;
    this.metadata = metadata;
    this.#server = server;
    this.client = client;
    this.asked = asked;
  }

  static async start(): Promise<Replica> {
    let world: MirrorWorld | undefined;
    const asked = new Latch();
    const server = await ReplicaServer.open({
      address: { host: '127.0.0.1', port: 0 },
      tls: KEYS,
      ledFill: async (key, epoch) => {
        const led = world?.mirror.ledFill(key, epoch);
        asked.open();
        return led;
      },
      own: () => undefined,
      flights: () => undefined,
      about: () => undefined,
      log: silentLog,
    });
    const client = new ReplicaClient(KEYS);
    const metadata = index.open(`127.0.0.1:${server.port}`);
    const blobs = new ObjectBlobStore(bucket);
    world = await MirrorWorld.open(upstream, { metadata, blobs, replica: 'own', replicas: client });
    const replica = new Replica(world, metadata, { server, client, asked });
    replicas.push(replica);
    return replica;
  }

  /** From now on, no other replica can reach it. */
  async cutOff(): Promise<void> {
    await this.#server.close();
  }

  async remove(): Promise<void> {
    await this.world.remove();
    this.client.close();
    await this.#server.close().catch(() => {});
  }

  /** Begins to read a blob; resolves when `bytes` of it have come. */
  async begin(blob: Content, bytes: number): Promise<{ readonly rest: ReturnType<typeof readAll> }> {
    const { reader } = await this.world.open(blob.digest);
    return new Promise((resolve, reject) => {
      const rest = readAll(reader, count => {
        if (count >= bytes) resolve({ rest });
      });
      rest.catch(reject);
    });
  }
}

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  index = new MemoryIndex();
  bucket = new Bucket();
  replicas = [];
});

afterEach(async () => {
  for (const replica of replicas) await replica.remove();
  await upstream.stop();
});

async function startThree(): Promise<[Replica, Replica, Replica]> {
  return [await Replica.start(), await Replica.start(), await Replica.start()];
}

/** Has each begin to read, one after the other. */
async function beginAll(readers: readonly Replica[], blob: Content) {
  const reading = [];
  for (const reader of readers) reading.push(await reader.begin(blob, 5 * MIB));
  return reading;
}

/** A blob of an image that everybody may pull. */
async function mirrored(by: Replica, bytes = 8 * MIB): Promise<Content> {
  const blob = randomBlob(bytes, `blob ${bytes}`);
  upstream.add('app', imageOf([blob]), 'v1');
  await by.world.manifest('v1');
  return blob;
}

/** What a replica receives of others' downloads passes through `change`. */
function onEachPiece({ client }: Replica, change: (piece: Uint8Array) => Uint8Array): void {
  const read = client.read.bind(client);
  vi.spyOn(client, 'read').mockImplementation(async (...parameters) => {
    const bytes = await read(...parameters);
    const next = bytes.next.bind(bytes);
    vi.spyOn(bytes, 'next').mockImplementation(async () => {
      const piece = await next();
      return piece && change(piece);
    });
    return bytes;
  });
}

/** The replica's disk is full when a download has so many bytes. */
function takesAtMost({ world: { spool } }: Replica, bytes: number): void {
  const open = spool.ingest.bind(spool);
  vi.spyOn(spool, 'ingest').mockImplementation(async (...parameters) => {
    const ingest = await open(...parameters);
    const write = ingest.write.bind(ingest);
    vi.spyOn(ingest, 'write').mockImplementation(async chunks => {
      if (ingest.offset + chunks.reduce((sum, { byteLength }) => sum + byteLength, 0) <= bytes)
        return write(chunks);
      // As long as a disk takes to find out.
      await sleep(20);
      throw new StorageFull('full');
    });
    return ingest;
  });
}

/** Reads to the end, from memory where that is possible; returns the digest. */
async function borrowAll(reader: BlobReader, onBytes: (bytes: number) => void): Promise<string> {
  const [hash, buffer] = [createHash('sha256'), new Uint8Array(256 * 1024)];
  try {
    for (let position = 0; position < reader.size; onBytes(position)) {
      const lent = await reader.lend?.(position);
      const bytes = lent?.bytes ?? buffer.subarray(0, await reader.read(buffer, position));
      hash.update(bytes);
      position += bytes.byteLength;
      lent?.giveBack();
    }
  } finally {
    await reader.close();
  }
  return `sha256:${hash.digest('hex')}`;
}

/** Upstream sends no more than this of a blob until the returned function is called. */
function pauseAt(bytes: number): () => void {
  const latch = new Latch();
  upstream.misbehave({
    kind: 'blob',
    method: 'GET',
    times: 1,
    pause: { atByte: bytes, until: latch.opened },
  });
  return () => latch.open();
}

const downloads = () => upstream.requests.filter(request => request.kind === 'blob' && isDownload(request));
const blobRequests = () => upstream.count('blob');

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await condition())) await sleep(5);
}

/** Nothing is left under way, and nothing on the disks. */
async function expectIdle(): Promise<void> {
  for (const { world } of replicas) {
    await until(() => world.mirror.runningFills === 0);
    const left: string[] = [];
    for await (const { name } of world.spool.list()) left.push(name);
    expect(left).toEqual([]);
  }
  expect(index.tables.leases.heldKeys()).toEqual([]);
}

describe('a blob that clients of three replicas want', () => {
  it('comes from upstream once, to all of them while it arrives', async () => {
    const [a, b, c] = await startThree();
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const reading = await beginAll([a, b, c], blob);
    const late = await b.begin(blob, 5 * MIB);
    go();
    for (const { rest } of [...reading, late]) expect(await rest).toEqual(whole(blob));
    expect(blobRequests()).toBe(1);
    await expectIdle();
    expect(await c.world.pull(blob.digest)).toMatchObject({ ...whole(blob), outcome: 'hit' });
  });

  it('is not requested again by a client that goes on with it at another replica', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const start = 4 * MIB;
    const rest = (size: number) => [{ start, end: size }];
    const { reader } = await b.world.mirror.openBlob(APP, blob.digest, await b.world.right(), rest);
    go();
    const bytes = Buffer.alloc(blob.size - start);
    for (let at = 0; at < bytes.byteLength; ) at += await reader.read(bytes.subarray(at), start + at);
    await reader.close();
    expect(bytes.equals(Buffer.concat(Array.from(blob.slice(start))))).toBe(true);
    expect(await fromA.rest).toEqual(whole(blob));
    expect(blobRequests()).toBe(1);
    await expectIdle();
  });

  it('is nobody’s as long as its bytes are not right', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const latch = new Latch();
    const pause = { atByte: 6 * MIB, until: latch.opened };
    upstream.misbehave({ kind: 'blob', corruptByte: 5 * MIB, pause });
    const reading = await beginAll([a, b], blob);
    latch.open();
    for (const { rest } of reading) await expect(rest).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    await expectIdle();
    upstream.behave();
    expect(await b.world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  it('is received into reused memory', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a, 32 * MIB);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const memory = new Set<ArrayBufferLike>();
    onEachPiece(b, piece => {
      memory.add(piece.buffer);
      return piece;
    });
    const fromB = await b.begin(blob, 5 * MIB);
    go();
    for (const { rest } of [fromA, fromB]) expect(await rest).toEqual(whole(blob));
    expect(memory.size).toBeLessThan(16);
    await expectIdle();
  });

  it('is passed on by a replica that receives it from another while it writes it', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const passedOn = new Latch();
    const steps: string[] = [];
    const { spool } = b.world;
    const ingest = spool.ingest.bind(spool);
    vi.spyOn(spool, 'ingest').mockImplementationOnce(async (...args) => {
      const opened = await ingest(...args);
      const write = opened.write.bind(opened);
      vi.spyOn(opened, 'write').mockImplementationOnce(async chunks => {
        await Promise.race([passedOn.opened, sleep(5_000, undefined, { ref: false })]);
        steps.push('written');
        await write(chunks);
      });
      return opened;
    });
    const { reader } = await b.world.open(blob.digest);
    const lent = await reader.lend?.(0);
    steps.push('passed on');
    const first = Buffer.concat(Array.from(blob.slice(0, lent?.bytes.byteLength)));
    expect(first.equals(lent?.bytes ?? Buffer.alloc(0))).toBe(true);
    lent?.giveBack();
    passedOn.open();
    // From the file, before more of it comes.
    const written = new Uint8Array(1024);
    expect(await reader.read(written, 0)).toBe(1024);
    expect(steps).toEqual(['passed on', 'written']);
    go();
    for (const rest of [readAll(reader), fromA.rest]) expect(await rest).toEqual(whole(blob));
    await expectIdle();
  });

  it('is read to its end by nobody at a replica that receives other bytes of it from its holder', async () => {
    const [first, second] = await startThree();
    const blob = await mirrored(first);
    const goOn = pauseAt(6 * MIB);
    const { rest } = await first.begin(blob, 5 * MIB);
    onEachPiece(second, piece => piece.map(byte => byte ^ 1));
    const reading = await second.begin(blob, 5 * MIB);
    goOn();
    await expect(reading.rest).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    expect(await rest).toMatchObject(whole(blob));
  });

  describe('and that the disk of one cannot take', () => {
    let holder: Replica;
    let full: Replica;
    let blob: Content;
    let letGo: () => void;

    beforeEach(async () => {
      [holder, full] = [await Replica.start(), await Replica.start()];
      blob = await mirrored(holder);
      letGo = pauseAt(6 * MIB);
      takesAtMost(full, 6 * MIB);
    });

    /** What a client gets at that replica, as responses are sent: from memory where that is possible. */
    const borrowed = async () => {
      const atHolder = await holder.begin(blob, 5 * MIB);
      const [hasMost, { reader }] = [new Latch(), await full.world.open(blob.digest)];
      const all = borrowAll(reader, bytes => bytes >= 5 * MIB && hasMost.open());
      all.catch(() => hasMost.open());
      await hasMost.opened;
      letGo();
      await atHolder.rest;
      return all;
    };

    it('is received by its clients, whom upstream sends the rest', async () => {
      expect(await borrowed()).toBe(blob.digest);
    });

    it('is read to its end by none of them if it came with wrong bytes before they could be written', async () => {
      let received = 0;
      onEachPiece(full, piece => {
        received += piece.byteLength;
        if (received > 6 * MIB) piece[0] = (piece[0] ?? 0) ^ 1;
        return piece;
      });
      await expect(borrowed()).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
    });
  });

  it('is downloaded on by another one when its replica stops, without sending anything again', async () => {
    const [a, b, c] = await startThree();
    const blob = await mirrored(a);
    pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const others = await beginAll([b, c], blob);
    const gone = fromA.rest.catch((error: unknown) => error);
    await a.world.close();
    expect(await gone).toMatchObject({ code: 'UNAVAILABLE' });
    for (const { rest } of others) expect(await rest).toEqual(whole(blob));
    expect(downloads()).toHaveLength(2);
    const from = Number(/^bytes=(\d+)-$/.exec(downloads()[1]?.headers.range ?? '')?.[1]);
    expect(from).toBeGreaterThan(5 * MIB);
    replicas = replicas.filter(each => each !== a);
    await expectIdle();
    await a.remove();
  });

  it('is downloaded on by another one when its replica stands still and seems dead', async () => {
    const [a, b, c] = await startThree();
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const reading = await beginAll([a, b, c], blob);
    a.metadata.seemDead();
    const [fromA, ...others] = reading;
    for (const { rest } of others) expect(await rest).toEqual(whole(blob));
    expect(downloads()).toHaveLength(2);
    go();
    expect(await fromA?.rest).toEqual(whole(blob));
    expect(downloads()).toHaveLength(2);
    await expectIdle();
  });

  it('is continued by another one as soon as nobody listens at its replica and that has no heartbeat', async () => {
    const [a, b, c] = await startThree();
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const [fromA, ...others] = await beginAll([a, b, c], blob);
    await a.cutOff();
    a.metadata.fallSilent();
    for (const { rest } of others) expect(await rest).toEqual(whole(blob));
    expect(downloads()).toHaveLength(2);
    go();
    // It lived after all: its client has the bytes, and the others have stored them.
    expect(await fromA?.rest).toEqual(whole(blob));
    expect(downloads()).toHaveLength(2);
    await expectIdle();
  });

  it('is stored by another one when its replica dies after the last byte', async () => {
    const [a, b, c] = await startThree();
    const blob = await mirrored(a);
    const latch = new Latch();
    vi.spyOn(a.world.blobs, 'put').mockImplementation(async () => {
      await latch.opened;
      throw new LeaseLost('of a process that was suspended');
    });
    const pulls = [a.world.pull(blob.digest), b.world.pull(blob.digest), c.world.pull(blob.digest)];
    for (const pull of pulls) expect(await pull).toMatchObject(whole(blob));
    expect(await c.metadata.statBlob(blob.digest)).toBeUndefined();
    a.metadata.seemDead();
    await until(async () => (await c.metadata.statBlob(blob.digest)) !== undefined);
    const [, ...more] = upstream.requests.filter(({ kind }) => kind === 'blob');
    expect(more.map(({ headers }) => headers.range)).toEqual([`bytes=${blob.size - 4096}-`]);
    latch.open();
    await expectIdle();
  });

  it('is waited for as long as the replica that downloads it lives and cannot be reached', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const fromB = await b.begin(blob, 5 * MIB);
    await a.cutOff();
    go();
    expect(await fromA.rest).toEqual(whole(blob));
    expect(await fromB.rest).toEqual(whole(blob));
    expect(downloads()).toHaveLength(1);
    await expectIdle();
  });

  it('is received by one that learns of the Lease before its holder does', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const learnt = new Latch();
    const acquire = a.metadata.acquireLease.bind(a.metadata);
    vi.spyOn(a.metadata, 'acquireLease').mockImplementation(async key => {
      const lease = await acquire(key);
      await learnt.opened;
      return lease;
    });
    const reads = vi.spyOn(b.client, 'read');
    const fromA = a.world.pull(blob.digest);
    await until(() => index.tables.leases.heldKeys().length > 0);
    const fromB = b.world.pull(blob.digest);
    await a.asked.opened;
    learnt.open();
    for (const pull of [fromA, fromB]) expect(await pull).toMatchObject(whole(blob));
    expect(reads).toHaveBeenCalledTimes(1);
    expect(blobRequests()).toBe(1);
    await expectIdle();
  });

  it('is read from where it is stored by one that asks for it too late, without asking upstream', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const read = b.client.read.bind(b.client);
    vi.spyOn(b.client, 'read').mockImplementation(async (...args) => {
      go();
      await until(() => a.world.mirror.runningFills === 0);
      return read(...args);
    });
    const acquiring = vi.spyOn(b.metadata, 'acquireLease');
    expect(await b.world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(await fromA.rest).toEqual(whole(blob));
    expect(blobRequests()).toBe(1);
    // A write that would keep others waiting.
    expect(acquiring).not.toHaveBeenCalled();
    await expectIdle();
  });

  it('is read from where it is stored by one that finds its Lease in other hands, and then in none', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    vi.spyOn(b.metadata, 'acquireLease').mockImplementationOnce(async () => {
      expect(await a.world.pull(blob.digest)).toMatchObject(whole(blob));
      await until(() => a.world.mirror.runningFills === 0);
      return undefined;
    });
    expect(await b.world.pull(blob.digest)).toMatchObject(whole(blob));
    expect(blobRequests()).toBe(1);
    await expectIdle();
  });

  it('is received by one that tried to acquire its Lease at the same moment, without another query', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    // It was read just before.
    const reads = vi.spyOn(b.metadata, 'readLease').mockImplementationOnce(async () => undefined);
    const fromA = await a.begin(blob, 5 * MIB);
    const fromB = await b.begin(blob, 5 * MIB);
    expect(reads).toHaveBeenCalledTimes(1);
    go();
    for (const { rest } of [fromA, fromB]) expect(await rest).toEqual(whole(blob));
    expect(blobRequests()).toBe(1);
    await expectIdle();
  });

  it('is looked for in all places at once, and requested from its holder before there is a file for it', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const looking = new Latch();
    const asked = new Set<string>();
    const lookedIn = async (place: string) => {
      asked.add(place);
      if (asked.size === 2) looking.open();
      await looking.opened;
    };
    const { metadata } = b;
    const manifests = vi.spyOn(metadata, 'readLinkedManifest');
    vi.spyOn(metadata, 'namedSize').mockImplementationOnce(async (...args) => {
      await lookedIn('sizes');
      return metadata.namedSize(...args);
    });
    vi.spyOn(metadata, 'readLease').mockImplementationOnce(async (...args) => {
      await lookedIn('leases');
      return metadata.readLease(...args);
    });
    const { spool } = b.world;
    const ingest = spool.ingest.bind(spool);
    vi.spyOn(spool, 'ingest').mockImplementationOnce(async (...args) => {
      await a.asked.opened;
      return ingest(...args);
    });
    const fromB = await b.begin(blob, 5 * MIB);
    expect(manifests).not.toHaveBeenCalled();
    go();
    for (const { rest } of [fromA, fromB]) expect(await rest).toEqual(whole(blob));
    expect(blobRequests()).toBe(1);
    await expectIdle();
  });

  it('is looked for once for all clients that want it at the same moment, or while it is being downloaded', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const sizes = vi.spyOn(b.metadata, 'namedSize');
    const leases = vi.spyOn(b.metadata, 'readLease');
    const fromB = await Promise.all(Array.from({ length: 5 }, () => b.begin(blob, 5 * MIB)));
    const late = await b.begin(blob, 5 * MIB);
    expect(sizes).toHaveBeenCalledTimes(1);
    expect(leases).toHaveBeenCalledTimes(1);
    go();
    for (const { rest } of [fromA, ...fromB, late]) expect(await rest).toEqual(whole(blob));
    await expectIdle();
  });

  it('is requested from where an earlier file of it ends', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const key = fillKey(APP.upstream, blob.digest);
    const epoch = (await b.metadata.readLease(key))?.epoch ?? 0;
    const earlier = await b.world.spool.ingest(steadyLease(key, epoch), { digest: blob.digest });
    const [first] = blob.slice(0, MIB);
    await earlier.write([first!]);
    const kept = earlier.offset;
    await earlier.suspend();
    await earlier.close();
    const reads = vi.spyOn(b.client, 'read');
    const fromB = await b.begin(blob, 5 * MIB);
    go();
    for (const { rest } of [fromA, fromB]) expect(await rest).toEqual(whole(blob));
    expect(reads.mock.calls.map(([, from]) => from)).toEqual([0, kept]);
    expect(blobRequests()).toBe(1);
    await expectIdle();
  });

  it('is asked of upstream by a client whose right no other replica has proved', async () => {
    const [a, b] = [await Replica.start(), await Replica.start()];
    const blob = await mirrored(a);
    upstream.add('other', imageOf([blob]), 'v1');
    const go = pauseAt(6 * MIB);
    const fromA = await a.begin(blob, 5 * MIB);
    const other = b.world.pull(blob.digest, { upstream: 'up.example', name: 'other' });
    await until(() => upstream.count('blob', { repository: 'other' }) > 1);
    go();
    expect(await other).toMatchObject(whole(blob));
    await fromA.rest;
    expect(downloads()).toHaveLength(1);
    expect(upstream.count('blob', { repository: 'other', method: 'HEAD' })).toBe(1);
    await expectIdle();
  });
});
