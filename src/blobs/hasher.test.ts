import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { digestOf } from '../oci/digest.ts';
import { Hasher, startHashThread } from './hasher.ts';

const BYTES = Buffer.alloc(3_000_000, 'entrepot');

let folder: string;
let path: string;
let threads: Worker[];
let hasher: Hasher;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-hasher-'));
  path = join(folder, 'file');
  await writeFile(path, BYTES);
  threads = [];
  hasher = new Hasher(silentLog, () => {
    const thread = startHashThread();
    threads.push(thread);
    return thread;
  });
});

afterEach(async () => {
  await hasher.close();
  await rm(folder, { recursive: true });
});

test('when the thread dies, its jobs are hashed again by the next one', async () => {
  const job = hasher.begin(path, 'sha256', BYTES.length);
  const paced = hasher.begin(path, 'sha512', BYTES.length, { bytesPerSecond: 6_000_000 });
  const hashing = hasher.finish(paced, BYTES.length);
  await threads[0]?.terminate();
  expect(await hashing).toBe(digestOf(BYTES, 'sha512'));
  expect(await hasher.finish(job, BYTES.length)).toBe(digestOf(BYTES));
  expect(threads).toHaveLength(2);
});

test('a job fails if the thread dies repeatedly', async () => {
  const job = hasher.begin(path, 'sha256', BYTES.length, { bytesPerSecond: 1 });
  const hashing = hasher.finish(job, BYTES.length).catch((error: unknown) => error);
  for (let death = 0; death < 3; death += 1) {
    await threads[death]?.terminate();
  }
  expect(String(await hashing)).toContain('died repeatedly');
});

test('stopping resolves even if the thread dies meanwhile, and rejects a pending digest', async () => {
  const job = hasher.begin(path, 'sha256', BYTES.length, { bytesPerSecond: 1 });
  const hashing = hasher.finish(job, BYTES.length).catch((error: unknown) => error);
  const stopped = hasher.stop(job);
  await threads[0]?.terminate();
  await stopped;
  expect(String(await hashing)).toContain('hashing was stopped');
});

test('a missing or truncated file fails only its own job', async () => {
  const good = hasher.begin(path, 'sha256', BYTES.length);
  const short = hasher.begin(path, 'sha256', BYTES.length + 1);
  const absent = hasher.begin(join(folder, 'absent'), 'sha256', 10);
  await expect(hasher.finish(short, BYTES.length + 1)).rejects.toThrow('the file ends at 3000000');
  await expect(hasher.finish(absent, 10)).rejects.toMatchObject({ code: 'ENOENT' });
  expect(await hasher.finish(good, BYTES.length)).toBe(digestOf(BYTES));
});

test('after closing, no job can begin, and pending ones reject', async () => {
  const job = hasher.begin(path, 'sha256', BYTES.length, { bytesPerSecond: 1 });
  const hashing = hasher.finish(job, BYTES.length).catch((error: unknown) => error);
  await hasher.close();
  expect(String(await hashing)).toContain('closed');
  expect(() => hasher.begin(path, 'sha256', 0)).toThrow('closed');
});

test('after closing or stopping, a job that was begun before has no digest, and starts no thread', async () => {
  const [stopped, left] = [0, 1].map(() => hasher.begin(path, 'sha256', 0));
  if (stopped === undefined || left === undefined) throw new Error('no jobs');
  await hasher.stop(stopped);
  await expect(hasher.finish(stopped, BYTES.length)).rejects.toThrow('hashing was stopped');
  await hasher.close();
  hasher.advance(left, BYTES.length);
  await expect(hasher.finish(left, BYTES.length)).rejects.toThrow('closed');
  expect(threads).toHaveLength(1);
});
