import { open, readdir, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { silentLog } from '../lib/log.ts';
import { type FileStores, openFileStores } from './file-stores.ts';
import { BYTES_START, mapPosition } from './parts-map.ts';
import type { BlobParts } from './spool.ts';

const SIZE = 1_000_000;
let folder: string;
let files: FileStores;

beforeEach(async () => {
  folder = await makeTempFolder('parts');
  files = await openFileStores(folder, { log: silentLog });
});

afterEach(async () => {
  await files.close();
  await removeFolder(folder);
});

/** Parts of which two pieces were saved, one after the other, and a third was not, as a crash leaves them. */
async function crashed(): Promise<string> {
  const parts = await files.spool.parts(steadyLease('part0-1'), SIZE);
  for (const position of [0, 500_000]) {
    await parts.write(position, Buffer.alloc(1_000, 'x'));
    await parts.save();
  }
  await parts.write(900_000, Buffer.alloc(1_000, 'x'));
  await parts.close();
  const [name = ''] = await readdir(join(folder, 'ingest'));
  return join(folder, 'ingest', name);
}

async function reopened(): Promise<BlobParts> {
  return files.spool.parts(steadyLease('part0-1', 2, { epoch: 1, mayWrite: false }), SIZE);
}

const startsOf = ({ extents }: BlobParts): number[] => [...extents].map(({ start }) => start);

async function overwrite(path: string, position: number): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Buffer.alloc(20, 'torn'), 0, 20, position);
  await file.close();
}

it('have what was saved before a crash', async () => {
  await crashed();
  const parts = await reopened();
  expect(startsOf(parts)).toEqual([0, 500_000]);
  await parts.close();
});

it('are synced before the map that lists them is written, and then the map is synced', async () => {
  const probe = await open(folder);
  const prototype = Object.getPrototypeOf(probe);
  await probe.close();
  const parts = await files.spool.parts(steadyLease('part0-1'), SIZE);
  await parts.write(0, Buffer.alloc(1_000, 'x'));
  const written = vi.spyOn(prototype, 'write');
  const synced = vi.spyOn(prototype, 'datasync');
  await parts.save();
  const [write = Number.NaN, ...others] = written.mock.invocationCallOrder;
  const [before = Number.NaN, after = Number.NaN] = synced.mock.invocationCallOrder;
  expect(others).toEqual([]);
  expect(before).toBeLessThan(write);
  expect(write).toBeLessThan(after);
  await parts.close();
});

it('count as what a list says that they take, after a crash as well', async () => {
  const { spool } = files;
  const listed = async () => {
    let bytes = 0;
    for await (const { size } of spool.list()) bytes += size;
    return bytes;
  };
  await crashed();
  // The first count of the next process.
  spool.countUnfinished(await listed());
  const parts = await reopened();
  await parts.write(300_000, Buffer.alloc(10_000, 'y'));
  await parts.save();
  expect(spool.unfinishedBytes).toBe(await listed());
  await parts.abort();
  expect([spool.unfinishedBytes, await listed()]).toEqual([0, 0]);
  await parts.close();
});

it('count as nothing when they are discarded for those of another size', async () => {
  const { spool } = files;
  await crashed();
  expect(spool.unfinishedBytes).toBeGreaterThan(0);
  const lease = steadyLease('part0-1', 2, { epoch: 1, mayWrite: false });
  const parts = await spool.parts(lease, SIZE + 1);
  expect(spool.unfinishedBytes).toBeLessThan(2_000);
  await parts.abort();
  await parts.close();
});

it('have what the map before a torn one says', async () => {
  const path = await crashed();
  await overwrite(path, mapPosition(2) + 30);
  const parts = await reopened();
  expect(startsOf(parts)).toEqual([0]);
  await parts.write(700_000, Buffer.alloc(1_000, 'y'));
  await parts.suspend();
  await parts.close();
  const again = await files.spool.parts(steadyLease('part0-1', 3, { epoch: 2, mayWrite: false }), SIZE);
  expect(startsOf(again)).toEqual([0, 700_000]);
  await again.close();
});

it('have nothing if no map is whole, or if the file is shorter than it says', async () => {
  const path = await crashed();
  for (const generation of [1, 2]) await overwrite(path, mapPosition(generation) + 30);
  const none = await reopened();
  expect(startsOf(none)).toEqual([]);
  await none.write(0, Buffer.alloc(1_000, 'x'));
  await none.suspend();
  await none.close();
  await truncate(join(folder, 'ingest', 'part0-1.2.parts'), BYTES_START + 500);
  const short = await files.spool.parts(steadyLease('part0-1', 3, { epoch: 2, mayWrite: false }), SIZE);
  expect(startsOf(short)).toEqual([]);
  await short.close();
});
