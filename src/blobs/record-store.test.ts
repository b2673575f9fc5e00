import { mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { FakeS3 } from '../../test/support/fake-s3.ts';
import { FileRecordStore } from './file-record-store.ts';
import { MemoryRecordStore } from './memory-record-store.fixture.ts';
import { recordStoreSuite } from './record-store.suite.ts';
import { Bucket, BUCKET_LIMITS } from './s3/bucket.ts';
import { S3RecordStore } from './s3/s3-record-store.ts';
import { StoreMark } from './s3/store-mark.ts';

/** That of a test in which S3 is away. */
const LIMITS = { ...BUCKET_LIMITS, patienceMs: 100, backoffMs: 1 };
const close = async () => {};
const newFolder = () => mkdtemp(join(tmpdir(), 'entrepot-records-'));

async function inBucket(fake: FakeS3, store = 'this-store') {
  const bucket = new Bucket(fake.settings(), LIMITS);
  const mark = new StoreMark(bucket, store);
  await mark.claim({ takesOver: false });
  return { records: new S3RecordStore({ bucket, mark }), mark, close: () => bucket.close() };
}

recordStoreSuite(async () => {
  const records = new MemoryRecordStore();
  return { open: async () => ({ records, close }), remove: close };
});

recordStoreSuite(async () => {
  const folder = await newFolder();
  return {
    open: async () => ({ records: new FileRecordStore(folder), close }),
    remove: () => rm(folder, { recursive: true }),
  };
});

recordStoreSuite(async () => {
  const fake = await FakeS3.start();
  return { open: () => inBucket(fake), remove: () => fake.close() };
});

test('a folder of records has no files of killed processes for longer than a day, and lists none of them', async () => {
  const folder = await newFolder();
  const records = new FileRecordStore(folder);
  await records.put('images/a/one', Buffer.from('one'));
  const left = ['one.host.1.00000000.partial', 'two.host.1.00000000.partial'].map(name =>
    join(folder, 'images/a', name),
  );
  for (const path of left) await writeFile(path, 'half');
  await utimes(left[0]!, 1, 1);
  const found = [];
  for await (const { name } of records.list('images')) found.push(name);
  expect(found).toEqual(['images/a/one']);
  expect((await readdir(join(folder, 'images/a'))).toSorted()).toEqual([
    'one',
    'two.host.1.00000000.partial',
  ]);
  await rm(folder, { recursive: true });
});

test('the last records of a folder can be removed by several at once', async () => {
  const folder = await newFolder();
  const records = new FileRecordStore(folder);
  const names = Array.from({ length: 10 }, (_, at) => `images/a/${at}`);
  for (let round = 0; round < 50; round += 1) {
    await Promise.all(names.map(name => records.put(name, Buffer.from('x'))));
    // In ever different steps of each other.
    const removeAt = async (name: string, at: number) => {
      for (let turns = at * round; turns > 0; turns -= 1) await nextTurn();
      await records.remove(name);
    };
    await Promise.all(names.map(removeAt));
    expect(await readdir(join(folder, 'images'))).toEqual([]);
  }
  await rm(folder, { recursive: true });
});

test('a record of a bucket is read again if its bytes were cut off', async () => {
  const fake = await FakeS3.start();
  const { records, close: end } = await inBucket(fake);
  await records.put('images/a/one', Buffer.from('one'));
  let asked = 0;
  fake.fault = ({ key }) => (key.endsWith('one') && asked++ < 2 ? { cutAt: 1 } : undefined);
  expect(String(await records.read('images/a/one', 10))).toBe('one');
  expect(asked).toBe(3);
  fake.fault = ({ key }) => (key.endsWith('one') ? { cutAt: 1 } : undefined);
  await expect(records.read('images/a/one', 10)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await end();
  await fake.close();
});

test('records of a bucket that has lost its mark, or cannot be reached, are unavailable and not absent', async () => {
  const fake = await FakeS3.start();
  const { records, close: end } = await inBucket(fake);
  await records.put('images/a/one', Buffer.from('one'));
  for (const key of fake.objects.keys()) if (key.includes('stores/')) fake.objects.delete(key);
  const list = async () => {
    for await (const _ of records.list('images')) expect.unreachable();
  };
  await expect(list()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await fake.close();
  await expect(records.read('images/a/one', 10)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  await expect(records.put('images/a/one', Buffer.from('two'))).rejects.toMatchObject({
    code: 'UNAVAILABLE',
  });
  await end();
});
