import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { SEED } from '../../test/support/chance.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import { type FileStores, openFileStores } from '../blobs/file-stores.ts';
import type { Spool } from '../blobs/spool.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { PresenceEnded } from '../lib/lease.ts';
import { silentLog } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import { MemoryIndex, type MemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import { stopCollecting } from '../metadata/store-identity.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { parseManifest } from '../oci/manifest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';
import { CollectingStopped } from './collecting-stopped.ts';
import { ImageRemoval, RemovalRefused } from './image-removal.ts';
import type { ThreadWork } from './survey-messages.ts';
import { threadWork } from './survey-work.ts';

const APP: Repository = { upstream: '', name: 'team/app' };
const OTHER: Repository = { upstream: 'docker.io', name: 'library/nginx' };

interface World {
  readonly images: readonly { readonly repository: Repository; readonly layers: readonly string[] }[];
  /** Each of some of the images. */
  readonly indexes: readonly (readonly number[])[];
  /** What each tag means: images, then indexes. */
  readonly tags: readonly number[];
  /** The tag that goes, or its digest. */
  readonly removed: number;
  readonly byDigest: boolean;
}

let folder: string;
let metadata: MemoryMetadataStore;
let files: FileStores;
let spool: Spool;
let blobs: BlobStore;
let survey: ThreadWork;
let removal: ImageRemoval;
/** Called when a name is about to be removed. */
let onName: () => void;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-removal-'));
  const memory = new MemoryIndex();
  metadata = memory.open();
  files = await openFileStores(folder, { log: silentLog });
  ({ spool, blobs } = files);
  survey = threadWork({ ...files, survey: memory.survey(), openRows: async () => memory.open() });
  const stores = { metadata, ...files, survey, rows: survey, log: silentLog, meter: silentMeter };
  onName = () => {};
  const announce = () => (onName(), []);
  removal = new ImageRemoval({ ...stores, deletesHosted: true, announce });
});

afterEach(async () => {
  await survey.close();
  await files.close();
  await metadata.close();
  await rm(folder, { recursive: true });
});

async function putBlob(repository: Repository, text: string) {
  const bytes = Buffer.from(text);
  const digest = digestOf(bytes);
  if ((await blobs.stat(digest)) === undefined) {
    const ingest = await spool.ingest(steadyLease('blob'), { digest });
    await ingest.write([bytes]);
    await blobs.put(digest, ingest);
    await ingest.close();
  }
  await metadata.putBlob(digest, bytes.length, repository);
  return { digest, size: bytes.length };
}

async function putManifest(repository: Repository, document: object, mediaType: string): Promise<Digest> {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, ...document }));
  const manifest = { digest: digestOf(bytes), mediaType, bytes };
  await metadata.putManifest(repository, manifest, parseManifest(bytes, mediaType), { atMs: 1 });
  return manifest.digest;
}

async function putImage(repository: Repository, layers: readonly string[]): Promise<Digest> {
  const config = { mediaType: OCI_CONFIG, ...(await putBlob(repository, `config of ${layers.join(' ')}`)) };
  const named = [];
  for (const layer of layers) named.push({ mediaType: OCI_LAYER, ...(await putBlob(repository, layer)) });
  return putManifest(repository, { config, layers: named }, OCI_MANIFEST);
}

function putIndex(repository: Repository, children: readonly Digest[]): Promise<Digest> {
  const manifests = children.map(digest => ({ mediaType: OCI_MANIFEST, digest, size: 1 }));
  return putManifest(repository, { manifests }, OCI_INDEX);
}

const tag = (repository: Repository, name: string, digest: Digest) =>
  metadata.putTag(repository, name, { digest, checkedAtMs: 1 });

/** What a repository holds of an image, and whether that is all of it. */
async function heldOf(repository: Repository, digest: Digest): Promise<readonly string[]> {
  const manifests = await survey.image(repository, digest);
  const contents = manifests.flatMap(manifest => [manifest, ...manifest.blobs]);
  const onDisk = await Promise.all(contents.map(async ({ digest: each }) => blobs.stat(each)));
  return contents.map(
    (content, at) =>
      `${content.digest} ${content.isHeld} ${'children' in content || onDisk[at] !== undefined}`,
  );
}

async function filesLeft(): Promise<Digest[]> {
  const digests: Digest[] = [];
  for await (const { digest } of blobs.list()) digests.push(digest);
  return digests.toSorted();
}

test('a child that another index lists stays, and is removed with the last one', async () => {
  const [one, two] = [await putImage(APP, ['shared', 'one']), await putImage(APP, ['shared', 'two'])];
  await tag(APP, 'both', await putIndex(APP, [one, two]));
  const rest = await putIndex(APP, [two]);
  await tag(APP, 'rest', rest);
  const before = await heldOf(APP, rest);
  await removal.remove(APP, 'both', { purge: true });
  expect(await metadata.isLinked(APP, one)).toBe(false);
  expect(await heldOf(APP, rest)).toEqual(before);
  await removal.remove(APP, 'rest', { purge: true });
  expect(await filesLeft()).toEqual([]);
});

test('a nested index is removed completely, in whatever order its parts are found', async () => {
  const image = await putImage(APP, ['layer']);
  const inner = await putIndex(APP, [image]);
  await tag(APP, 'v1', await putIndex(APP, [image, inner]));
  await removal.remove(APP, 'v1', { purge: true });
  expect(await filesLeft()).toEqual([]);
  expect(await metadata.hasRepository(APP)).toBe(false);
});

test('what is freed and what is still needed of the same bytes, as a manifest and as a blob, is told apart', async () => {
  const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] };
  const elsewhere: Repository = { upstream: '', name: 'team/other' };
  await putManifest(APP, { manifests: [] }, OCI_INDEX);
  for (const repository of [APP, elsewhere]) await putBlob(repository, JSON.stringify(index));
  const size = JSON.stringify(index).length;
  expect(await removal.remove(APP, undefined, { purge: true, force: true })).toMatchObject({
    freedBytes: size,
    neededBytes: size,
    neededBy: ['team/other'],
  });
});

test('nothing is removed if a purge is impossible', async () => {
  await tag(APP, 'v1', await putImage(APP, ['layer']));
  await stopCollecting(metadata, 'the index is new');
  await expect(removal.remove(APP, 'v1', { purge: true })).rejects.toThrow(CollectingStopped);
  expect(await metadata.readTag(APP, 'v1')).toBeDefined();
});

test('one that is cancelled removes nothing before the name, and nothing more after it', async () => {
  const image = await putImage(APP, ['layer']);
  for (const name of ['v1', 'v2']) await tag(APP, name, image);
  const aborting = new AbortController();
  const run = { purge: true, force: true, signal: aborting.signal };
  onName = () => aborting.abort(new Error('cancelled'));
  await expect(removal.remove(APP, undefined, run)).rejects.toThrow('cancelled');
  expect(await metadata.hasRepository(APP)).toBe(false);
  expect(await filesLeft()).toHaveLength(2);
  await tag(APP, 'v1', await putImage(APP, ['layer']));
  for (const reference of ['v1', image, undefined]) {
    await expect(removal.remove(APP, reference, run)).rejects.toThrow('cancelled');
  }
  expect(await metadata.readTag(APP, 'v1')).toBeDefined();
});

test('what was asked for before others considered this process dead is not done', async () => {
  const image = await putImage(APP, ['layer']);
  await tag(APP, 'v1', image);
  await metadata.putPin(APP, 'v1');
  const during = metadata.presence;
  metadata.seemDead();
  for (const reference of ['v1', image, undefined]) {
    const run = { during, force: true };
    await expect(removal.remove(APP, reference, run)).rejects.toThrow(PresenceEnded);
  }
  expect(await metadata.readTag(APP, 'v1')).toBeDefined();
  expect(await metadata.listPins(APP)).toEqual(['v1']);
});

test.each(['while it may purge', 'after the name'])(
  'nothing is purged that was pushed again since others considered this process dead (%s)',
  async when => {
    const image = await putImage(APP, ['layer']);
    await tag(APP, 'v1', image);
    const pushAgain = async () => {
      metadata.seemDead();
      await putImage(APP, ['layer']);
    };
    if (when === 'after the name') {
      const unlink = metadata.unlinkUnnamed.bind(metadata);
      vi.spyOn(metadata, 'unlinkUnnamed').mockImplementationOnce((...given) =>
        pushAgain().then(() => unlink(...given)),
      );
    } else {
      const read = metadata.readSetting.bind(metadata);
      vi.spyOn(metadata, 'readSetting').mockImplementationOnce((...given) =>
        pushAgain().then(() => read(...given)),
      );
    }
    await expect(removal.remove(APP, 'v1', { purge: true })).rejects.toThrow(PresenceEnded);
    expect(await metadata.isLinked(APP, image)).toBe(true);
    expect(await filesLeft()).toHaveLength(2);
  },
);

test('a mirrored blob is removed by its digest, unless a pin keeps it', async () => {
  const image = await putImage(OTHER, ['layer']);
  const layer = digestOf(Buffer.from('layer'));
  await metadata.putPin(OTHER, image);
  await expect(removal.remove(OTHER, layer)).rejects.toThrow(RemovalRefused);
  await metadata.removePin(OTHER, image);
  expect(await removal.remove(OTHER, layer)).toMatchObject({ digest: layer, removedTags: [] });
  expect(await removal.remove(OTHER, layer)).toBeUndefined();
});

test('a purge leaves every other image as it was, and no file that only the removed one had', async () => {
  const layers = fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 1, maxLength: 3 });
  const image = fc.record({ repository: fc.constantFrom(APP, OTHER), layers });
  const worlds: fc.Arbitrary<World> = fc.record({
    images: fc.array(image, { minLength: 2, maxLength: 5 }),
    indexes: fc.array(fc.uniqueArray(fc.nat(4), { minLength: 1, maxLength: 3 }), { maxLength: 3 }),
    tags: fc.array(fc.nat(7), { minLength: 1, maxLength: 6 }),
    removed: fc.nat(5),
    byDigest: fc.boolean(),
  });
  const removeOne = async ({ images, indexes, tags, removed, byDigest }: World) => {
    const manifests: { repository: Repository; digest: Digest }[] = [];
    for (const each of images) {
      manifests.push({ repository: each.repository, digest: await putImage(each.repository, each.layers) });
    }
    for (const children of indexes) {
      const listed = children.flatMap(at =>
        manifests[at]?.repository === APP ? [manifests[at].digest] : [],
      );
      if (listed.length > 0) manifests.push({ repository: APP, digest: await putIndex(APP, listed) });
    }
    const tagged = tags.flatMap((at, name) => {
      const manifest = manifests[at];
      return manifest === undefined ? [] : [{ ...manifest, name: `t${name}` }];
    });
    for (const { repository, name, digest } of tagged) await tag(repository, name, digest);
    const target = tagged[removed % Math.max(1, tagged.length)];
    fc.pre(target !== undefined);
    const { repository, name, digest } = target;
    const others = tagged.filter(
      one => one !== target && !(byDigest && one.repository === repository && one.digest === digest),
    );
    const before = await Promise.all(others.map(one => heldOf(one.repository, one.digest)));
    await removal.remove(repository, byDigest ? digest : name, { purge: true, force: true });
    // An index whose child was removed by force lacks it from then on, and it alone.
    const after = await Promise.all(others.map(one => heldOf(one.repository, one.digest)));
    const isUnder = before.map(held => byDigest && held.some(content => content.startsWith(digest)));
    expect(after.filter((_, at) => !isUnder[at])).toEqual(before.filter((_, at) => !isUnder[at]));
    const needed = new Set<string>();
    for (const { repository: place, digest: each } of manifests) {
      if (!(await metadata.isLinked(place, each))) continue;
      for (const manifest of await survey.image(place, each)) {
        for (const blob of manifest.blobs) needed.add(blob.digest);
      }
    }
    expect((await filesLeft()).filter(file => !needed.has(file))).toEqual([]);
  };
  const clear = async () => {
    for (const place of [APP, OTHER]) await removal.remove(place, undefined, { purge: true, force: true });
    expect(await filesLeft()).toEqual([]);
  };
  await fc.assert(fc.asyncProperty(worlds, removeOne).afterEach(clear), { numRuns: 25, seed: SEED });
}, 180_000);
