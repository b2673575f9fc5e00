// `entrepot import` as a process of its own: killed anywhere, and watched for what memory it takes.
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { silentLog } from '../../src/lib/log.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import { type Image, type ImageIndex, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { Daemon, tryRun, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
/** `npm run test:crash:long`. */
const KILLS = process.env['CRASH_LONG'] === '1' ? 40 : 8;
/** Chance decides what the kills meet: more are made until they have met both. */
const MAX_KILLS = 10 * KILLS;

let upstream: FakeUpstream;
let connected: Entrepot;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  connected = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
});

afterAll(async () => {
  await connected.remove();
  await upstream.stop();
});

/** Puts an image upstream and answers the file of a bundle with it. */
async function bundleOf(name: string, content: Image | ImageIndex): Promise<string> {
  upstream.add(name, content, '1');
  const file = join(connected.folder, `${name}.tar`);
  for (const args of [
    ['pull', `${UPSTREAM}/${name}:1`, '--all-platforms'],
    ['export', `${UPSTREAM}/${name}:1`, '-o', file],
  ]) {
    const { code, stderr } = await connected.spawnCommand(...args);
    expect({ code, stderr }).toMatchObject({ code: 0 });
  }
  return file;
}

/** Where a command keeps its store. */
function importArgs(file: string): string[] {
  return [...STARTER, 'import', file];
}

const storeEnv = (folder: string) => ({
  ENTREPOT_STORAGE__PATH: join(folder, 'store'),
  ENTREPOT_UPSTREAMS: `{${UPSTREAM}: {url: "http://127.0.0.1:9"}}`,
});

async function filesIn(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter(entry => entry.isFile()).length;
}

/** What is in a store that nobody has open. */
async function stateOf(folder: string, name: string) {
  const store = join(folder, 'store');
  const files = await filesIn(join(store, 'blobs'));
  const ingests = await filesIn(join(store, 'ingest'));
  if ((await filesIn(store)) === 0) return { files, ingests, blobs: 0, isPublished: false };
  const metadata = await openSqliteMetadataStore(join(store, 'index.db'), { log: silentLog });
  const { blobs } = await metadata.readTotals();
  const tag = await metadata.readTag({ upstream: UPSTREAM, name }, '1');
  await metadata.close();
  return { files, ingests, blobs, isPublished: tag !== undefined };
}

describe('an import', () => {
  test(`killed at ${KILLS} random points publishes all or nothing, and is completed by the next`, async () => {
    const layers = Array.from({ length: 10 }, (_, n) => randomBlob(6 * MIB + n, `killed ${n}`));
    const image = imageOf(layers);
    const bundle = await bundleOf('killed', image);
    const workMs = await timeOfWork(bundle);
    let metIngests = 0;
    let metBlobs = 0;
    const areBothMet = () => metIngests > 0 && metBlobs > 0;
    for (let kill = 0; kill < KILLS || (!areBothMet() && kill < MAX_KILLS); kill += 1) {
      const folder = await makeTempFolder('kill');
      const env = storeEnv(folder);
      const daemon = await startedImport(bundle, env);
      await sleep(Math.random() * workMs);
      await daemon.kill();
      const broken = await stateOf(folder, 'killed');
      if (broken.ingests > 0) metIngests += 1;
      if (broken.blobs > 0 && !broken.isPublished) metBlobs += 1;
      expect(broken.isPublished && broken.blobs < 11).toBe(false);

      const { code, stderr } = await tryRun(process.execPath, importArgs(bundle), { env });
      expect({ kill, code, stderr }).toMatchObject({ code: 0 });
      expect(await stateOf(folder, 'killed')).toEqual({
        files: 11,
        ingests: 0,
        blobs: 11,
        isPublished: true,
      });
      await removeFolder(folder);
    }
    // Else the kills came too early or too late to say anything.
    expect(metIngests).toBeGreaterThan(0);
    expect(metBlobs).toBeGreaterThan(0);
  });

  test('and an export use no more memory for a bundle that is four times as large', async () => {
    const peaks: { export: number; import: number }[] = [];
    for (const count of [4, 16]) {
      const layers = Array.from({ length: count }, (_, n) => randomBlob(16 * MIB + n, `memory ${n}`));
      const bundle = await bundleOf(`memory-${count}`, imageOf(layers));
      const folder = await makeTempFolder('mem');
      const imported = await peakRss(importArgs(bundle), storeEnv(folder));
      const reference = `${UPSTREAM}/memory-${count}:1`;
      const args = [...STARTER, 'export', reference, '-o', join(folder, 'again.tar')];
      peaks.push({ import: imported, export: await peakRss(args, storeEnv(folder)) });
      await removeFolder(folder);
    }
    console.log('peak RSS in MiB:', JSON.stringify(peaks));
    for (const peak of peaks.flatMap(each => Object.values(each))) expect(peak).toBeLessThan(200);
    expect(peaks[1]!.import - peaks[0]!.import).toBeLessThan(30);
    expect(peaks[1]!.export - peaks[0]!.export).toBeLessThan(30);
  });
});

/** An import that has opened its store: what comes before can be killed without harm to anybody. */
async function startedImport(bundle: string, env: ReturnType<typeof storeEnv>): Promise<Daemon> {
  const isReady = async () => existsSync(join(env.ENTREPOT_STORAGE__PATH, 'ingest'));
  return Daemon.start({ program: process.execPath, args: importArgs(bundle), env, isReady });
}

/** How long an import takes from there on, on this machine, now. */
async function timeOfWork(bundle: string): Promise<number> {
  const folder = await makeTempFolder('time');
  const daemon = await startedImport(bundle, storeEnv(folder));
  const startedMs = performance.now();
  await until('the import to end', 180_000, async () => !daemon.isRunning);
  await removeFolder(folder);
  return performance.now() - startedMs;
}

/** Runs a command that must succeed, and answers the most resident memory it was seen with, in MiB. */
async function peakRss(args: string[], env: Record<string, string>): Promise<number> {
  const isReady = async () => true;
  const daemon = await Daemon.start({ program: process.execPath, args, env, isReady });
  let peakBytes = 0;
  while (daemon.isRunning) {
    try {
      peakBytes = daemon.peakRssBytes();
    } catch {
      // It has just ended.
    }
    await sleep(20);
  }
  expect({ code: daemon.exitCode, logs: daemon.logs() }).toMatchObject({ code: 0 });
  return Math.round(peakBytes / MIB);
}
