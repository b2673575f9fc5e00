// What a rebuild finds beside the blobs after a server was killed again and again: all hosted images that the index had.
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { Chance, SEED } from '../support/chance.ts';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { until } from '../support/programs.ts';
import { pushImage } from '../support/push-client.ts';

const KILLS = 6;
/** Records are kept every 5 s, and this often in the middle of it. */
const LIVES_MS = 7_000;
const TAGS = 30;
const IMAGES = 150;
const REBUILD_KILLS = 10;
/** About as long as a rebuild of these takes, with its start. */
const REBUILD_MS = 1_500;
const START_MS = 30_000;

let entrepot: Entrepot;
const life = { isOver: false };

beforeEach(async () => {
  entrepot = await Entrepot.start({ hosted: { prefixes: ['team'], anonymous: 'push', delete: true } });
});

afterEach(() => entrepot.remove());

const store = () => join(entrepot.folder, 'store');
const url = (path: string) => `${entrepot.url}/v2/team/app/${path}`;

/** What the server says: the tags with their digests. */
async function served(): Promise<Record<string, string>> {
  const { tags = [] }: { tags?: readonly string[] } = JSON.parse((await get(url('tags/list'))).text);
  const entries = await Promise.all(
    tags.map(async tag => [tag, `sha256:${(await get(url(`manifests/${tag}`))).sha256}`] as const),
  );
  return Object.fromEntries(entries);
}

const records = () => join(store(), 'images', 'team@app');

/** The names of records, without those that a kill has left half written. */
async function recordNames(): Promise<readonly string[]> {
  return (await readdir(records())).filter(name => !name.endsWith('.partial'));
}

/** What the records say. */
async function recorded(): Promise<Record<string, string>> {
  const documents = await Promise.all(
    (await recordNames()).map(name => readFile(join(records(), name), 'utf8').catch(() => '')),
  );
  const read = documents
    .filter(text => text !== '')
    .map((text): { digest: string; tags: readonly { tag: string }[] } => JSON.parse(text));
  return Object.fromEntries(read.flatMap(({ digest, tags }) => tags.map(({ tag }) => [tag, digest])));
}

async function loseIndex(): Promise<void> {
  for (const name of await readdir(store())) if (name.startsWith('index.db')) await rm(join(store(), name));
}

/** Pushes, moves and deletes images until the server is gone. */
async function change(chance: Chance, of: string): Promise<void> {
  for (let pushes = 0; !life.isOver; pushes += 1) {
    const tag = `t${chance.below(TAGS)}`;
    const image = imageOf([randomBlob(2_000, `${of} ${pushes}`)]);
    try {
      await pushImage(entrepot.url, 'team/app', tag, image);
      if (chance.in(0.3)) await get(url(`manifests/t${chance.below(TAGS)}`), { method: 'DELETE' });
      if (chance.in(0.2)) await get(url(`manifests/${image.manifest.digest}`), { method: 'DELETE' });
    } catch (error) {
      if (!life.isOver) throw error;
    }
  }
}

it('is rebuilt with every tag and image that it had, and with no others', async () => {
  const chance = new Chance(SEED);
  for (let kills = 0; kills < KILLS; kills += 1) {
    life.isOver = false;
    const changing = change(chance, `life ${kills}`);
    await sleep(chance.below(LIVES_MS));
    life.isOver = true;
    await entrepot.kill();
    await changing;
    entrepot = await entrepot.startAgain();
  }
  const before = await served();
  expect(Object.keys(before).length).toBeGreaterThan(TAGS / 3);
  await expect.poll(recorded).toEqual(before);
  // Until then, records of what was deleted last go.
  await entrepot.stop();
  const recordedImages = (await recordNames()).length;
  await loseIndex();
  const { code, stdout } = await entrepot.command('rebuild', '--json');
  expect(code).toBe(0);
  expect(JSON.parse(stdout.trim().split('\n').at(-1)!)).toMatchObject({
    manifests: recordedImages,
    tags: Object.keys(before).length,
    damaged: 0,
  });
  entrepot = await entrepot.startAgain();
  expect(await served()).toEqual(before);
});

/** Deletes a tag, or the image that has it; then it is not `expected` any more. */
async function deleteOne(
  chance: Chance,
  there: Readonly<Record<string, string>>,
  expected: Record<string, string>,
): Promise<void> {
  if (Object.keys(there).length === 0) return;
  const [tag, digest] = chance.pick(Object.entries(there));
  const reference = chance.in(0.5) ? tag : digest;
  expect((await get(url(`manifests/${reference}`), { method: 'DELETE' })).status).toBe(202);
  delete expected[tag];
}

it('is rebuilt by a rebuild that is killed again and again, and what is deleted meanwhile does not come back', async () => {
  const chance = new Chance(SEED);
  const images = Array.from({ length: IMAGES }, (_, at) => imageOf([randomBlob(2_000, `image ${at}`)]));
  for (const [at, image] of images.entries()) await pushImage(entrepot.url, 'team/app', `t${at}`, image);
  const expected = await served();
  await expect.poll(recorded, { timeout: 60_000 }).toEqual(expected);
  await entrepot.stop();
  await loseIndex();
  let interruptions = 0;
  for (let kills = 0; kills < REBUILD_KILLS; kills += 1) {
    const rebuilding = await entrepot.begin('rebuild');
    // The first one most likely in the middle.
    await until('an index', START_MS, async () => (await readdir(store())).includes('index.db'));
    await sleep(chance.below(interruptions === 0 ? REBUILD_MS / 20 : REBUILD_MS));
    await rebuilding.kill();
    entrepot = await entrepot.startAgain();
    const { text } = await get(`${entrepot.ops}/readyz`);
    const there = await served();
    // The index is new, is another than the files belong to, or was not rebuilt to its end.
    const isUnfinished = text.includes('no stored image evicted');
    if (isUnfinished) interruptions += 1;
    expect(isUnfinished ? { ...expected, ...there } : there).toEqual(expected);
    await deleteOne(chance, there, expected);
    await entrepot.stop();
    // The rebuild was faster than this test.
    if (interruptions === 0) await loseIndex();
  }
  expect(interruptions).toBeGreaterThan(0);
  expect((await entrepot.command('rebuild')).code).toBe(0);
  entrepot = await entrepot.startAgain();
  expect(await served()).toEqual(expected);
  expect((await get(`${entrepot.ops}/readyz`)).text).not.toContain('being rebuilt');
});
