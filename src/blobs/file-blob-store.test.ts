import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { fsync } from 'node:fs';
import {
  chmod,
  type FileHandle,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { openFilesIn } from '../../test/support/open-files.ts';
import { silentLog } from '../lib/log.ts';
import { Extents } from '../lib/extents.ts';
import { LeaseLost } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { digestHex, digestOf } from '../oci/digest.ts';
import type { BlobStore } from './blob-store.ts';
import { blobStoreSuite, keep, remove } from './blob-store.suite.ts';
import { type FileStores, openFileStores } from './file-stores.ts';
import type { Spool } from './spool.ts';
import { spoolSuite } from './spool.suite.ts';
import { encodePartsMap, mapPosition, MAX_EXTENTS } from './parts-map.ts';
import { isStorageFull } from './storage-full.ts';
import { unreadableReason } from './unreadable.ts';

async function makePlace() {
  const path = await temporaryFolder();
  return {
    open: () => openFileStores(path, { log: silentLog }),
    remove: () => rm(path, { recursive: true }),
  };
}

spoolSuite(makePlace);
blobStoreSuite(makePlace);

let folder: string;
let stores: FileStores;
let spool: Spool;
let blobs: BlobStore;

beforeEach(async () => {
  folder = await temporaryFolder();
  stores = await openFileStores(folder, { log: silentLog });
  ({ spool, blobs } = stores);
});

afterEach(async () => {
  vi.restoreAllMocks();
  await stores.close();
  await rm(folder, { recursive: true });
});

test('a blob has its digest as name and is read-only, an ingest has its key', async () => {
  const digest = await keep(stores, 'fill-1', Buffer.from('hello'));
  const hex = digestHex(digest);
  const blob = await stat(join(folder, 'blobs', 'sha256', hex.slice(0, 2), hex));
  expect(blob.mode & 0o777).toBe(0o444);
  const ingest = await spool.ingest(steadyLease('upload-1'));
  expect(await readdir(join(folder, 'ingest'))).toEqual(['upload-1.1']);
  await ingest.abort();
  await ingest.close();
});

test('a committed blob is durable: first its bytes are synced, then all names', async () => {
  const synced = await watchSyncs();
  const digest = await keep(stores, 'upload-1', Buffer.from('hello'));
  const hex = digestHex(digest);
  const shelf = join(folder, 'blobs', 'sha256', hex.slice(0, 2));
  expect(synced[0]).toBe(join(folder, 'ingest', 'upload-1.1'));
  const names = synced.filter(path => path !== synced[0]);
  expect(names.toSorted()).toEqual([folder, join(folder, 'blobs'), join(folder, 'blobs', 'sha256'), shelf]);
  expect(synced.at(-1)).toBe(shelf);
});

test.each(['close', 'suspend'] as const)(
  'after a failed sync nobody continues from the bytes: the file is removed at the %s',
  async end => {
    const bytes = Buffer.from('hello');
    const lease = steadyLease('upload-1');
    const ingest = await spool.ingest(lease);
    await ingest.write([bytes]);
    const other = await open(join(folder, 'other'), 'w');
    const failing = vi.spyOn(Object.getPrototypeOf(other), 'sync').mockRejectedValueOnce(new Error('EIO'));
    await expect(blobs.put(digestOf(bytes), ingest)).rejects.toThrow('EIO');
    failing.mockRestore();
    await other.close();
    await ingest[end]();
    await ingest.close();
    expect(await readdir(join(folder, 'ingest'))).toEqual([]);
  },
);

test('a removed blob stays removed after a power failure, since its folder is synced', async () => {
  const digest = await keep(stores, 'upload-1', Buffer.from('hello'));
  const synced = await watchSyncs();
  await remove(blobs, digest);
  expect(synced).toEqual([join(folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2))]);
});

test.each(['commit', 'hash'] as const)(
  'a %s fails with LeaseLost if another process has removed the ingest',
  async step => {
    let looks = Infinity;
    const confirm = (): undefined => {
      looks -= 1;
      if (looks < 0) throw new LeaseLost('upload-1');
    };
    const ingest = await spool.ingest({ ...steadyLease('upload-1'), confirm });
    const bytes = Buffer.alloc(100_000, 'entrepot');
    await ingest.write([bytes]);
    await rm(join(folder, 'ingest', 'upload-1.1'));
    // A commit stands still just behind its look.
    looks = step === 'commit' ? 1 : 0;
    const failing = {
      commit: () => blobs.put(digestOf(bytes), ingest),
      // Which a thread does that opens the file itself.
      hash: () => ingest.hash(digestOf(bytes, 'sha512')),
    }[step]();
    await expect(failing).rejects.toThrow(LeaseLost);
    await ingest.abort();
    await ingest.close();
  },
);

test('bytes whose sync failed are never committed, whatever a later sync says', async () => {
  const digest = digestOf(Buffer.alloc(SYNC_STEP));
  const datasync = vi.spyOn(await fileHandles(), 'datasync');
  datasync.mockRejectedValueOnce(new Error('lost pages'));
  const ingest = await spool.ingest(steadyLease('upload-1'));
  await ingest.write([Buffer.alloc(SYNC_STEP)]);
  await expect(blobs.put(digest, ingest)).rejects.toThrow('could not be synced');
  await ingest.close();
  expect(await blobs.stat(digest)).toBeUndefined();
});

test('an ingest whose bytes cannot be removed is closed', async () => {
  vi.spyOn(await fileHandles(), 'datasync').mockRejectedValueOnce(new Error('lost pages'));
  const ingest = await spool.ingest(steadyLease('upload-1'));
  await ingest.write([Buffer.alloc(SYNC_STEP)]);
  const path = join(folder, 'ingest', 'upload-1.1');
  await rm(path);
  await mkdir(path);
  await expect(ingest.close()).rejects.toThrow('directory');
  expect(await openFilesIn(folder)).toEqual([]);
});

test('all files are closed in the end', async () => {
  const bytes = randomBytes(300_000);
  const digest = await keep(stores, 'fill-1', bytes);
  await keep(stores, 'fill-2', randomBytes(10));
  const readers = await Promise.all([blobs.open(digest), blobs.open(digest), spool.follow('none', 1)]);
  const suspended = await spool.ingest(steadyLease('fill-3'));
  await suspended.write([bytes]);
  const follower = await spool.follow('fill-3', 1);
  await suspended.suspend();
  await suspended.close();
  await follower?.close();
  const aborted = await spool.ingest(steadyLease('fill-3'));
  await aborted.hash(digestOf(bytes, 'sha512'));
  await aborted.abort();
  await aborted.close();
  await blobs.rehash(digest, { bytesPerSecond: 0 });
  await Promise.all(readers.map(async reader => reader?.close()));
  expect(await openFilesIn(folder)).toEqual([]);
});

test('a folder of blobs that is deleted at runtime is created again', async () => {
  const digest = await keep(stores, 'fill-1', Buffer.from('bytes'));
  await rm(join(folder, 'blobs', 'sha256'), { recursive: true });
  expect(await blobs.stat(digest)).toBeUndefined();
  expect(await keep(stores, 'fill-1', Buffer.from('bytes'))).toBe(digest);
  expect(await blobs.stat(digest)).toEqual({ size: 5 });
});

test('a removal checks whether the file is still the one that it was prepared for', async () => {
  const digest = await keep(stores, 'fill-1', Buffer.from('bytes'));
  const removal = await blobs.removal(digest);
  await keep(stores, 'fill-2', Buffer.from('bytes'));
  expect(removal.isSame()).toBe(false);
});

test('an ingest of another spool is refused', async () => {
  const ingest = await spool.ingest(steadyLease('fill-1'));
  const foreign = { ...ingest, offset: 0 };
  await expect(blobs.put(digestOf(Buffer.alloc(0)), foreign)).rejects.toThrow('not an ingest of this folder');
  await ingest.close();
});

test('readers of one file share its bytes, but not those of a file that replaced it', async () => {
  const digest = await keep(stores, 'fill-1', Buffer.from('bytes'));
  const other = await blobs.open(await keep(stores, 'fill-2', Buffer.from('other')));
  const [first, second] = [await blobs.open(digest), await blobs.open(digest)];
  expect(first?.shares).toBeDefined();
  expect(second?.shares).toBe(first?.shares);
  expect(other?.shares).not.toBe(first?.shares);
  await remove(blobs, digest);
  await keep(stores, 'fill-1', Buffer.from('bytes'));
  const third = await blobs.open(digest);
  expect(third?.shares).toBeUndefined();
  for (const reader of [first, second, third, other]) await reader?.close();
});

test('a full disk is distinguished from a broken one, and the ingest knows how far it came', async () => {
  await symlink('/dev/full', join(folder, 'ingest', 'fill-1.1'));
  const ingest = await spool.ingest(steadyLease('fill-1'));
  const error: unknown = await ingest.write([Buffer.from('bytes')]).catch((reason: unknown) => reason);
  expect(isStorageFull(error)).toBe(true);
  expect(ingest.offset).toBe(0);
  expect(isStorageFull(new Error('EIO'))).toBe(false);
  expect(isStorageFull(Object.assign(new Error('quota'), { code: 'EDQUOT' }))).toBe(true);
  await ingest.abort();
  await ingest.close();
});

test('a commit that cannot move the file leaves the ingest and no blob', async () => {
  const bytes = Buffer.from('bytes');
  const digest = digestOf(bytes);
  await mkdir(join(folder, 'blobs', 'sha256'));
  await writeFile(
    join(folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2)),
    'a file where a folder should be',
  );
  const ingest = await spool.ingest(steadyLease('fill-1'), { digest });
  await ingest.write([bytes]);
  await expect(blobs.put(digest, ingest)).rejects.toThrow('EEXIST');
  await ingest.suspend();
  await ingest.close();
  expect(await readdir(join(folder, 'ingest'))).toEqual(['fill-1.1']);
});

describe.each<[what: string, reason: string, make: (path: string) => unknown]>([
  [
    'a folder',
    'not a regular file',
    async path => {
      await mkdir(path);
      await writeFile(join(path, 'kept'), 'x');
    },
  ],
  ['a named pipe', 'not a regular file', path => execFileSync('mkfifo', [path])],
  ['a symbolic link', 'symbolic link', path => symlink('/etc/hostname', path)],
])('%s in the place of a blob', (what, reason, make) => {
  const bytes = Buffer.from('bytes');
  const digest = digestOf(bytes);
  let path: string;

  beforeEach(async () => {
    await keep(stores, 'fill-1', bytes);
    path = join(folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2), digestHex(digest));
    await rm(path);
    await make(path);
  });

  test('is not the blob, is never waited for or followed, and counts as damage', async () => {
    expect(await blobs.stat(digest)).toBeUndefined();
    expect(await blobs.open(digest)).toBeUndefined();
    const error: unknown = await blobs
      .rehash(digest, { bytesPerSecond: 0 })
      .catch((thrown: unknown) => thrown);
    expect(unreadableReason(error)).toContain(reason);
    for await (const blob of blobs.list()) expect(blob.digest).toBeUndefined();
  });

  test("is moved aside for the blob, and a folder's content is kept", async () => {
    const ingest = await spool.ingest(steadyLease('fill-2'), { digest });
    await ingest.write([bytes]);
    await blobs.put(digest, ingest);
    await ingest.close();
    expect(await blobs.stat(digest)).toEqual({ size: bytes.length });
    const aside = (await readdir(join(path, '..'))).filter(name => name.includes('.folder-'));
    for (const name of aside) expect(await readdir(join(path, '..', name))).toEqual(['kept']);
    expect(aside).toHaveLength(what === 'a folder' ? 1 : 0);
    expect(await readFile('/etc/hostname')).not.toEqual(bytes);
  });

  test('is removed like a blob', async () => {
    await remove(blobs, digest);
    expect(await readdir(join(path, '..'))).not.toContain(digestHex(digest));
  });
});

test('a blob whose folder is a file is absent, and removing it has no effect', async () => {
  const digest = digestOf(Buffer.from('bytes'));
  await mkdir(join(folder, 'blobs', 'sha256'));
  await writeFile(join(folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2)), 'x');
  expect(await blobs.stat(digest)).toBeUndefined();
  expect(await blobs.open(digest)).toBeUndefined();
  expect(await blobs.rehash(digest, { bytesPerSecond: 0 })).toBeUndefined();
  await remove(blobs, digest);
});

test('stray files are not mistaken for content', async () => {
  const digest = await keep(stores, 'fill-1', Buffer.from('content'));
  await writeFile(join(folder, 'blobs', 'README.md'), 'x');
  await writeFile(join(folder, 'blobs', 'sha256', 'notes'), 'x');
  await writeFile(join(folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2), 'short'), 'x');
  await writeFile(join(folder, 'ingest', 'UPPER.tmp'), 'x');
  const found = [];
  for await (const blob of blobs.list()) {
    found.push(blob.digest);
  }
  for await (const ingest of spool.list()) {
    found.push(ingest.key);
  }
  expect(found).toEqual([digest]);
});

test('hashing a blob again finds damage, at the given rate', async () => {
  const bytes = randomBytes(2_000_000);
  const digest = await keep(stores, 'fill-1', bytes);
  const startedAtMs = performance.now();
  expect(await blobs.rehash(digest, { bytesPerSecond: 5_000_000 })).toBe(digest);
  // The last slice of half a MiB is not waited for.
  expect(performance.now() - startedAtMs).toBeGreaterThan(290);
  const hex = digestHex(digest);
  const path = join(folder, 'blobs', 'sha256', hex.slice(0, 2), hex);
  await chmod(path, 0o644);
  await truncate(path, 1_999_999);
  expect(await blobs.rehash(digest, { bytesPerSecond: 0 })).toBe(digestOf(bytes.subarray(0, 1_999_999)));
  expect(await blobs.rehash(digestOf(Buffer.from('absent')), { bytesPerSecond: 0 })).toBeUndefined();
});

test('hashing a blob again can be aborted at any time', async () => {
  const digest = await keep(stores, 'fill-1', randomBytes(2_000_000));
  for (const afterMs of [0, 20]) {
    const controller = new AbortController();
    const hashing = blobs.rehash(digest, { bytesPerSecond: 1, signal: controller.signal });
    if (afterMs === 0) controller.abort();
    else setTimeout(() => controller.abort(), afterMs);
    await expect(hashing).rejects.toThrow('abort');
  }
  expect(await openFilesIn(folder)).toEqual([]);
});

test('a slow scrub does not delay an ingest', async () => {
  const digest = await keep(stores, 'fill-1', randomBytes(2_000_000));
  const controller = new AbortController();
  const scrub = blobs.rehash(digest, { bytesPerSecond: 1, signal: controller.signal });
  await keep(stores, 'fill-2', randomBytes(2_000_000));
  controller.abort();
  await expect(scrub).rejects.toThrow('abort');
});

test('a process that is killed during a write leaves an ingest that can be resumed', async () => {
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', WRITER, folder], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of child.stdout) {
    if (String(line).includes('writing')) {
      child.kill('SIGKILL');
    }
  }
  if (child.exitCode === null && child.signalCode === null) {
    await once(child, 'exit');
  }
  expect(child.signalCode).toBe('SIGKILL');
  const ingest = await spool.ingest(steadyLease('fill-1'));
  expect(ingest.offset).toBeGreaterThan(0);
  expect(await ingest.hash(digestOf(Buffer.alloc(0)))).toBe(digestOf(Buffer.alloc(ingest.offset, 'x')));
  const digest = digestOf(Buffer.alloc(ingest.offset, 'x'));
  await blobs.put(digest, ingest);
  await ingest.close();
  expect(await blobs.rehash(digest, { bytesPerSecond: 0 })).toBe(digest);
});

/** Writes for ever to `fill-1` of the store in its first argument. */
const WRITER = `
  const { openFileStores } = await import(${JSON.stringify(new URL('file-stores.ts', import.meta.url).href)});
  const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log };
  const { spool } = await openFileStores(process.argv[1], { log });
  const ingest = await spool.ingest({ key: 'fill-1', epoch: 1, left: undefined, confirm: () => undefined });
  for (;;) {
    await ingest.write([Buffer.alloc(65_537, 'x')]);
    console.log('writing');
  }
`;

function temporaryFolder(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'entrepot-blobs-'));
}

/** Enough for an ingest to sync behind its writer. */
const SYNC_STEP = 32 * 1024 * 1024;

/** What every open file of `node:fs/promises` inherits from. */
async function fileHandles(): Promise<FileHandle> {
  const file = await open(folder, 'r');
  const handles: FileHandle = Object.getPrototypeOf(file);
  await file.close();
  return handles;
}

/** The paths of what is synced from now on, in order, each as it is called when that begins. */
async function watchSyncs(): Promise<readonly string[]> {
  const paths: string[] = [];
  vi.spyOn(await fileHandles(), 'sync').mockImplementation(async function (this: FileHandle) {
    paths.push(await readlink(`/proc/self/fd/${this.fd}`));
    await promisify(fsync)(this.fd);
  });
  return paths;
}

test('parts that are written at the same time are never more than the map in front of them has room for', async () => {
  const size = 3 * MAX_EXTENTS;
  const extents = new Extents(
    Array.from({ length: MAX_EXTENTS - 2 }, (_, at) => ({ start: 2 * at, end: 2 * at + 1 })),
  );
  const path = join(folder, 'ingest', 'part0-1.1.parts');
  const left = await spool.parts(steadyLease('part0-1'), size);
  await left.write(2 * MAX_EXTENTS, Buffer.from('x'));
  await left.save();
  await left.close();
  const file = await open(path, 'r+');
  const map = encodePartsMap({ size, generation: 2, extents });
  await file.write(map, 0, map.byteLength, mapPosition(2));
  await file.close();
  const parts = await spool.parts(steadyLease('part0-1', 2, { epoch: 1, mayWrite: false }), size);
  expect(parts.extents.count).toBe(MAX_EXTENTS - 2);
  await parts.write(0, Buffer.from('f'));
  const places = Array.from({ length: 20 }, (_, at) => size - 1 - 2 * at);
  const written = await Promise.allSettled(places.map(at => parts.write(at, Buffer.from('y'))));
  expect(written.filter(({ status }) => status === 'fulfilled')).toHaveLength(2);
  await parts.save();
  const first = Buffer.alloc(1);
  await parts.read(first, 0);
  expect(first.toString()).toBe('f');
  await parts.abort();
  await parts.close();
});
