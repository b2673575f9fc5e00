// A file system that fails, delays and tears calls, at random, while images are pushed and pulled. What was acknowledged
// stays whole, nothing wrong is served complete, and who is refused is told to come back.
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { type Got, get } from '../support/client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { canPreload } from '../support/preload-library.ts';
import { type Fault, SyscallShim } from '../support/syscall-shim.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { keptBlobs } from '../support/test-storage.ts';

/** `npm run test:crash:long`. */
const IS_LONG = process.env['CRASH_LONG'] === '1';
const ROUNDS = IS_LONG ? 600 : 24;
/** On a machine that is slow, fewer. */
const MAX_MS = 25 * 60_000;
const PUSHES_PER_ROUND = 4;
/** A fault acts once in a round: who comes back mostly gets through. */
const PUSH_ATTEMPTS = 3;
/** Of a kind of call within one round: which of them the fault acts on, at most. */
const LATEST_CALL = 6;

const KINDS: readonly Omit<Fault, 'nth'>[] = [
  { id: 'write-eio', call: 'write', path: '/store/', action: { fail: 'EIO' } },
  { id: 'write-enospc', call: 'write', path: '/store/', action: { fail: 'ENOSPC' } },
  { id: 'write-torn', call: 'write', path: '/store/ingest', action: { tearBytes: 10 } },
  { id: 'index-eio', call: 'write', path: 'index.db-wal', action: { fail: 'EIO' } },
  { id: 'index-enospc', call: 'write', path: 'index.db-wal', action: { fail: 'ENOSPC' } },
  { id: 'sync-eio', call: 'sync', path: '/store/', action: { fail: 'EIO' } },
  { id: 'sync-slow', call: 'sync', path: '/store/', action: { delayMs: 300 } },
  { id: 'rename-eio', call: 'rename', path: '/store/', action: { fail: 'EIO' } },
  { id: 'open-emfile', call: 'open', path: '/store/', action: { fail: 'EMFILE' } },
  { id: 'open-estale', call: 'open', path: '/store/', action: { fail: 'ESTALE' } },
  { id: 'read-eio', call: 'read', path: '/store/', action: { fail: 'EIO' } },
  { id: 'read-estale', call: 'read', path: '/store/', action: { fail: 'ESTALE' } },
];

let folder: string;
let shim: SyscallShim;
let entrepot: Entrepot;

beforeEach(async () => {
  folder = await makeTempFolder('faults');
  shim = await SyscallShim.open(join(folder, 'shim'));
  await shim.set();
  entrepot = await Entrepot.start(
    { hosted: { prefixes: ['team'], anonymous: 'push' } },
    { folder: join(folder, 'pot'), env: shim.env },
  );
});

afterEach(async () => {
  await shim.set();
  await entrepot.stop();
  await removeFolder(folder);
});

/** Each of the kinds in its turn, with some of the others, each at a call of its own. */
function someFaults(round: number): Fault[] {
  return KINDS.filter((_, at) => at === round % KINDS.length || Math.random() < 0.35).map(kind => ({
    ...kind,
    nth: 1 + Math.floor(Math.random() * LATEST_CALL),
  }));
}

/** What was refused must say when to come back; 500 would be a fault of ours. */
async function expectTellsToComeBack({ status, headers, text }: Got): Promise<void> {
  if (status === 503) expect({ text, ...headers }).toHaveProperty('retry-after');
  if ([200, 201, 503, 507, 0].includes(status)) return;
  // So that all of its log is here.
  await entrepot.stop();
  const why = entrepot
    .logs()
    .split('\n')
    .filter(line => line.includes('internal error'));
  throw new Error(`${status} ${text}: ${why.join('\n')}`);
}

/** Whether all of the image was acknowledged. */
async function push(image: Image, tag: string): Promise<boolean> {
  for (const blob of [image.config, ...image.layers]) {
    const url = `${entrepot.url}/v2/team/app/blobs/uploads/?digest=${blob.digest}`;
    const pushed = await get(url, { method: 'POST', body: bytesOf(blob) });
    await expectTellsToComeBack(pushed);
    if (pushed.status !== 201) return false;
  }
  const put = await get(`${entrepot.url}/v2/team/app/manifests/${tag}`, {
    method: 'PUT',
    headers: { 'content-type': image.manifest.mediaType },
    body: bytesOf(image.manifest),
  });
  // A blob that was acknowledged is there when its manifest comes: the answer is no 404.
  await expectTellsToComeBack(put);
  return put.status === 201;
}

/** Comes back when it is refused. */
async function insist(image: Image, tag: string): Promise<boolean> {
  for (let attempt = 0; attempt < PUSH_ATTEMPTS; attempt += 1) if (await push(image, tag)) return true;
  return false;
}

const read = (what: 'blobs' | 'manifests', { digest }: Content): Promise<Got> =>
  get(`${entrepot.url}/v2/team/app/${what}/${digest}`);

async function expectNothingWrong(image: Image): Promise<void> {
  for (const [what, content] of contentsOf(image)) {
    const got = await read(what, content);
    const isWrong = got.status === 200 && got.complete && `sha256:${got.sha256}` !== content.digest;
    expect(isWrong ? content.digest : 'nothing wrong').toBe('nothing wrong');
    await expectTellsToComeBack(got);
  }
}

async function expectWhole(image: Image): Promise<void> {
  for (const [what, content] of contentsOf(image)) {
    const got = await read(what, content);
    expect([got.status, got.complete, `sha256:${got.sha256}`]).toEqual([200, true, content.digest]);
  }
}

function contentsOf({ manifest, config, layers }: Image): (readonly ['blobs' | 'manifests', Content])[] {
  return [['manifests', manifest], ['blobs', config], ...layers.map(layer => ['blobs', layer] as const)];
}

/** What was refused has left nothing, and no page of the index is damaged. */
async function expectBlobsEqualRows(store: string): Promise<void> {
  const index = new Database(join(store, 'index.db'), { readonly: true });
  expect(index.pragma('integrity_check', { simple: true })).toBe('ok');
  const rows = index.prepare<[], { digest: string }>('SELECT digest FROM blobs').all();
  index.close();
  const kept = (await keptBlobs(store)).map(({ digest }) => digest);
  expect(kept.toSorted()).toEqual(rows.map(({ digest }) => digest).toSorted());
}

async function areAllMet(): Promise<boolean> {
  return new Set((await shim.met()).map(({ id }) => id)).size === KINDS.length;
}

describe.skipIf(!canPreload)('a file system in which any call may fail (needs gcc)', () => {
  it('loses nothing that was acknowledged, and nothing wrong is served complete', {
    timeout: MAX_MS + 900_000,
  }, async () => {
    const acknowledged: Image[] = [];
    const endMs = performance.now() + MAX_MS;
    let round = 0;
    // Which calls they meet is chance: it goes on until each kind has met one.
    for (; (round < ROUNDS || !(await areAllMet())) && performance.now() < endMs; round += 1) {
      await shim.set(...someFaults(round));
      await Promise.all(
        Array.from({ length: PUSHES_PER_ROUND }, async (_, at) => {
          const image = imageOf([randomBlob(1_000 + (round % 100) * 3_000, `${round}/${at}`)]);
          if (await insist(image, `v${round}-${at}`)) acknowledged.push(image);
          const earlier = acknowledged[Math.floor(Math.random() * acknowledged.length)];
          if (earlier !== undefined) await expectNothingWrong(earlier);
        }),
      );
      expect(entrepot.isRunning).toBe(true);
    }
    await shim.set();
    // It is well again at once, without a restart.
    const last = imageOf([randomBlob(100_000, 'last')]);
    expect(await push(last, 'last')).toBe(true);
    acknowledged.push(last);
    for (const image of acknowledged) await expectWhole(image);
    await entrepot.kill();
    entrepot = await entrepot.startAgain();
    for (const image of acknowledged) await expectWhole(image);
    expect(await entrepot.spawnCommand('scrub', '--rate', '1GiB')).toMatchObject({ code: 0 });
    expect(await entrepot.spawnCommand('gc', '--grace-period', '0s')).toMatchObject({ code: 0 });
    await entrepot.stop();
    await expectBlobsEqualRows(join(entrepot.folder, 'store'));
    // Else it proves nothing.
    const met = new Map<string, number>();
    for (const { id } of await shim.met()) met.set(id, (met.get(id) ?? 0) + 1);
    console.log(
      `${acknowledged.length} acknowledged of ${round * PUSHES_PER_ROUND};`,
      Object.fromEntries(met),
    );
    expect([...met.keys()].toSorted()).toEqual(KINDS.map(({ id }) => id).toSorted());
    expect(acknowledged.length).toBeGreaterThan(round);
    entrepot = await entrepot.startAgain();
  });
});
