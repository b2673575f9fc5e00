import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { digestOf } from '../oci/digest.ts';
import { openFileBlobStore } from './file-blob-store.ts';

test('smoke', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'blobs-'));
  const store = await openFileBlobStore(folder, {
    log: { ...silentLog, error: (...a: unknown[]) => console.log(a) },
  });
  const bytes = Buffer.alloc(3_000_000, 'abc');
  const digest = digestOf(bytes);
  const d512 = digestOf(bytes, 'sha512');
  const ingest = await store.ingest('fill-1', digest);
  await ingest.write([bytes.subarray(0, 1000), bytes.subarray(1000, 1_500_000)]);
  await ingest.write([bytes.subarray(1_500_000)]);
  expect(await ingest.hash(digest)).toBe(digest);
  expect(await ingest.hash(d512)).toBe(d512);
  await ingest.commit(digest);
  await ingest.close();
  expect(await store.stat(digest)).toEqual({ size: 3_000_000 });
  expect(await store.hashFile(digest, { bytesPerSecond: 6_000_000 })).toBe(digest);
  for await (const b of store.blobs()) console.log(b);
  await store.close();
  await rm(folder, { recursive: true });
});
