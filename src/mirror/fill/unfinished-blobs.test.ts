import { expect, it } from 'vitest';
import { MemoryIngests, MemorySpool } from '../../blobs/memory-spool.fixture.ts';
import { steadyLease } from '../../lib/lease.suite.ts';
import { digestOf } from '../../oci/digest.ts';
import { fillKey, partsKey } from './fill-key.ts';
import { bytesThereOf, unfinishedBlobs } from './unfinished-blobs.ts';

it('counts what is there of each blob once, from wherever it came', async () => {
  const spool = new MemorySpool(new MemoryIngests());
  const ranged = digestOf(Buffer.from('ranged'));
  const untouched = digestOf(Buffer.from('untouched'));
  const other = digestOf(Buffer.from('other'));
  const save = async (source: string, digest = ranged, at = 0) => {
    const parts = await spool.parts(steadyLease(partsKey(source, digest), 1), 1_000);
    await parts.write(at, Buffer.alloc(100, 'x'));
    await parts.save();
    await parts.close();
  };
  await save('up.example/a');
  await save('up.example/b', ranged, 50);
  await save('up.example/b', other);
  const download = await spool.ingest(steadyLease(fillKey('up.example', ranged), 1));
  await download.write([Buffer.alloc(20)]);
  await download.suspend();
  const found = await bytesThereOf(spool, new Set([ranged, untouched]));
  expect([...found]).toEqual([[ranged, 150]]);
});

it('lists what the spool has of downloads and ranges, but not uploads', async () => {
  const spool = new MemorySpool(new MemoryIngests());
  const digest = digestOf(Buffer.from('blob'));
  for (const key of [fillKey('up.example', digest), 'upload-1'])
    await (await spool.ingest(steadyLease(key, 1))).write([Buffer.alloc(10)]);
  const parts = await spool.parts(steadyLease(partsKey('up.example/a', digest), 1), 100);
  await parts.write(0, Buffer.alloc(1));
  await parts.save();
  const kinds: string[] = [];
  for await (const blob of unfinishedBlobs(spool)) kinds.push(`${blob.kind} ${blob.digest}`);
  expect(kinds.sort()).toEqual([`download ${digest}`, `ranges ${digest}`]);
});
