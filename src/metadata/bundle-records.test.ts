import { expect, it } from 'vitest';
import { type BundleRecord, readBundles, recordBundle } from './bundle-records.ts';
import { MemoryIndex } from './memory-metadata-store.fixture.ts';

const made = (atMs: number, names: readonly string[] = ['docker.io/library/nginx:1']): BundleRecord => ({
  kind: 'export',
  atMs,
  file: `bundle-${atMs}.tar`,
  images: names.length,
  names,
  blobs: 3,
  bytes: 1_000,
});

it('has the latest first, from all processes on the store', async () => {
  const index = new MemoryIndex();
  const [one, other] = [index.open(), index.open()];
  expect(await readBundles(one)).toEqual([]);
  const taken = { ...made(2), kind: 'import' as const, file: undefined };
  expect(await recordBundle(one, made(1))).toBe(true);
  expect(await recordBundle(other, taken)).toBe(true);
  expect(await readBundles(one)).toEqual([taken, made(1)]);
});

it('is bounded, however many bundles there were and whatever they are called', async () => {
  const store = new MemoryIndex().open();
  const many = Array.from({ length: 1_000 }, (_, at) => `team/${'x'.repeat(600)}:${at}`);
  for (let atMs = 0; atMs < 110; atMs += 1) await recordBundle(store, made(atMs, many));
  const records = await readBundles(store);
  expect(records).toHaveLength(100);
  expect(records[0]).toMatchObject({ atMs: 109, images: 1_000 });
  expect(records[0]?.names).toHaveLength(10);
  expect(records[0]?.names[0]).toHaveLength(500);
});

it('passes over what a newer version may have written', async () => {
  const store = new MemoryIndex().open();
  await store.putSetting('bundles', JSON.stringify([{ kind: 'other' }, 7, made(1)]));
  expect(await readBundles(store)).toEqual([made(1)]);
});
