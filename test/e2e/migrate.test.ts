// `entrepot migrate` between a folder and a bucket, with the index in SQLite.
import { readdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { inBucket, MovedStore, type Place } from '../support/moved-store.ts';
import { Daemon, until } from '../support/programs.ts';
import { runCommand } from '../support/run-command.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

let folder: string;
let s3: FakeS3;
let store: MovedStore;
let old: Place;
let inS3: Place;
let oldFile: string;
let newFile: string;

beforeEach(async () => {
  folder = await makeTempFolder('migrate');
  s3 = await FakeS3.start();
  old = { storage: { path: join(folder, 'old') } };
  inS3 = { storage: { path: join(folder, 'new'), s3: await inBucket(s3, folder, 'moved/') } };
  store = await MovedStore.make(old, folder);
  oldFile = await store.configFile(old, folder, 'old.yaml');
  newFile = await store.configFile(inS3, folder, 'new.yaml');
});

afterEach(async () => {
  await s3.close();
  await removeFolder(folder);
});

const migrate = (...args: string[]) => runCommand('migrate', ...args, '--config', oldFile);

async function answersIn(place: Place): Promise<unknown> {
  const entrepot = await store.serve(place, folder);
  try {
    return await store.answersOf(entrepot);
  } finally {
    await entrepot.stop();
  }
}

const objects = () => [...s3.objects.keys()].filter(key => key.startsWith('moved/blobs/'));

/** How many blobs the store has. */
const BLOBS = 7;

test('moves a store to a bucket and back, and each place answers the same', async () => {
  const before = await answersIn(old);
  expect(await migrate(newFile)).toMatchObject({ code: 0, stdout: expect.stringContaining('is complete') });
  expect(objects()).toHaveLength(BLOBS);
  expect(await answersIn(inS3)).toEqual(before);
  const back: Place = { storage: { path: join(folder, 'back') } };
  const backFile = await store.configFile(back, folder, 'back.yaml');
  const moved = await runCommand('migrate', '--json', backFile, '--config', newFile);
  expect(JSON.parse(moved.stdout)).toMatchObject({ isComplete: true, blobs: BLOBS, lacking: [] });
  expect(await answersIn(back)).toEqual(before);
  expect(await runCommand('scrub', '--rate', '1GiB', '--config', newFile)).toMatchObject({ code: 0 });
  expect(await runCommand('gc', '--grace-period', '0s', '--config', newFile)).toMatchObject({ code: 0 });
  expect(objects()).toHaveLength(BLOBS);
});

test('copies blobs beside the server, and the rest when that is stopped', async () => {
  const entrepot = await store.serve(old, folder);
  try {
    expect(await migrate(newFile)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('stop the server'),
    });
    expect(await migrate('--prepare', newFile)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('prepared'),
    });
    expect(objects()).toHaveLength(BLOBS);
    expect(await runCommand('images', '--config', newFile)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('is not complete'),
    });
  } finally {
    await entrepot.stop();
  }
  const moved = await migrate('--json', newFile);
  expect(JSON.parse(moved.stdout)).toMatchObject({ isComplete: true, blobs: 0 });
  expect(await answersIn(inS3)).toEqual(await answersIn(old));
});

test('moves what a server has that takes no pushes meanwhile', async () => {
  const before = await answersIn(old);
  const hosted = { prefixes: ['team'], anonymous: 'push', readOnly: true };
  const entrepot = await Entrepot.start({ hosted, storage: { minFree: '1MiB', ...old.storage } }, { folder });
  try {
    const pushed = await fetch(`${entrepot.url}/v2/team/app/blobs/uploads/`, { method: 'POST' });
    expect([pushed.status, await pushed.text()]).toEqual([405, expect.stringContaining('hosted.readOnly')]);
    const removed = await fetch(`${entrepot.url}/v2/team/app/manifests/v1`, { method: 'DELETE' });
    expect(removed.status).toBe(405);
    expect(await migrate('--while-serving', newFile)).toMatchObject({ code: 0 });
  } finally {
    await entrepot.stop();
  }
  expect(await answersIn(inS3)).toEqual(before);
});

test('moves nothing to a store that a server has open', async () => {
  const entrepot = await store.serve(inS3, folder);
  try {
    const refused = { code: 1, stderr: expect.stringContaining('is in use by another process') };
    expect(await migrate('--prepare', newFile)).toMatchObject(refused);
    expect(objects()).toEqual([]);
  } finally {
    await entrepot.stop();
  }
});

/** Begins to move it to a bucket that stops answering after some blobs; resolves then. */
async function stuck(): Promise<Daemon> {
  let puts = 0;
  s3.fault = ({ method, key }) => {
    if (method !== 'PUT' || !key.includes('blobs/')) return undefined;
    puts += 1;
    return puts > 3 ? { silent: true } : undefined;
  };
  const running = await Daemon.start({
    program: process.execPath,
    args: [...STARTER, 'migrate', newFile, '--config', oldFile],
    cwd: folder,
    isReady: async () => true,
  });
  await until('some blobs to be moved', 60_000, async () => puts > 3);
  return running;
}

test('goes on where it was interrupted', async () => {
  const before = await answersIn(old);
  const running = await stuck();
  process.kill(running.pid, 'SIGINT');
  await running.closed;
  expect([running.exitCode, running.logs()]).toEqual([
    130,
    expect.stringMatching(/blobs? copied; run it again/),
  ]);
  s3.fault = () => undefined;
  const kept = objects().length;
  expect(kept).toBeLessThan(BLOBS);
  const moved = await migrate('--json', newFile);
  expect(JSON.parse(moved.stdout)).toMatchObject({ isComplete: true, blobs: BLOBS - kept });
  expect(await readdir(join(folder, 'new', 'ingest'))).toEqual([]);
  expect(await answersIn(inS3)).toEqual(before);
});

test('goes on after it was killed, again and again', async () => {
  const before = await answersIn(old);
  for (let kills = 0; kills < 2; kills += 1) await (await stuck()).kill();
  s3.fault = () => undefined;
  expect(await migrate(newFile)).toMatchObject({ code: 0 });
  expect(await answersIn(inS3)).toEqual(before);
});

test('leaves out what is damaged, says so, and records it', async () => {
  const [layer] = store.pushed.layers;
  const hex = layer?.digest.slice('sha256:'.length) ?? '';
  const files = await readdir(join(folder, 'old', 'blobs'), { recursive: true });
  const file = files.find(name => name.endsWith(hex)) ?? '';
  await truncate(join(folder, 'old', 'blobs', file), 100);
  const moved = await migrate('--json', newFile);
  expect(moved).toMatchObject({ code: 1, stderr: expect.stringContaining(`not moved: blob sha256:${hex}`) });
  expect(JSON.parse(moved.stdout).lacking).toEqual([
    { kind: 'blob', digest: `sha256:${hex}`, reason: expect.stringContaining('wrong size') },
  ]);
  const status = await runCommand('scrub', '--rate', '1GiB', '--config', newFile);
  expect(status.stdout).toContain('1 found earlier and not replaced yet');
});

test('moves nothing to itself, to a store with content, or to one that another is being moved to', async () => {
  const itself = await migrate(oldFile);
  expect(itself).toMatchObject({ code: 1, stderr: expect.stringContaining('same folder') });
  expect(await migrate('--prepare', newFile)).toMatchObject({ code: 0 });
  const third: Place = { storage: { path: join(folder, 'third') } };
  const thirdFile = await store.configFile(third, folder, 'third.yaml');
  await rm(join(folder, 'third'), { recursive: true, force: true });
  await writeFile(join(folder, 'empty'), '');
  const entrepot = await store.serve(third, folder);
  await entrepot.stop();
  const other = await runCommand('migrate', newFile, '--config', thirdFile);
  expect(other).toMatchObject({ code: 1, stderr: expect.stringContaining('another store is being moved') });
  expect(await migrate(newFile)).toMatchObject({ code: 0 });
  expect(await migrate(newFile)).toMatchObject({ code: 1, stderr: expect.stringContaining('is not empty') });
  expect(await migrate(join(folder, 'none.yaml'))).toMatchObject({ code: 2 });
});
