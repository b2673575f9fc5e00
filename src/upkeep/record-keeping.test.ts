import { beforeEach, expect, test, vi } from 'vitest';
import { MemoryRecordStore } from '../blobs/memory-record-store.fixture.ts';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { MemoryIndex, type MemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import { stopCollecting } from '../metadata/store-identity.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { OCI_CONFIG, OCI_LAYER, OCI_MANIFEST } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';
import { rebuildIndex } from './rebuild.ts';
import { RecordKeeping } from './record-keeping.ts';

const APP: Repository = { upstream: '', name: 'team/app' };
const OTHER: Repository = { upstream: '', name: 'team/other' };
const MIRRORED: Repository = { upstream: 'docker.io', name: 'team/app' };

const NO_BLOBS = { list: async function* () {}, rehash: async () => undefined };

let metadata: MemoryMetadataStore;
let store: MemoryRecordStore;
let keeping: RecordKeeping;

beforeEach(() => {
  metadata = new MemoryIndex().open();
  store = new MemoryRecordStore();
  keeping = new RecordKeeping({ metadata, records: store });
});

const described = (text: string, mediaType: string) => ({
  mediaType,
  digest: digestOf(Buffer.from(text)),
  size: text.length,
});

/** Pushes an image of a config and two layers, of which one is not distributable. */
async function push(repository: Repository, tag: string | undefined, of: string, atMs = 5): Promise<Digest> {
  const own = [described(`config ${of}`, OCI_CONFIG), described(`layer ${of}`, OCI_LAYER)] as const;
  for (const { digest, size } of own) await metadata.putBlob(digest, size, repository);
  const foreign = described('foreign', 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip');
  const [config, layer] = own;
  const document = { schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [layer, foreign] };
  const bytes = Buffer.from(JSON.stringify(document));
  const digest = digestOf(bytes);
  const view = await documents.ask('view', bytes, OCI_MANIFEST);
  await metadata.putManifest(repository, { digest, mediaType: OCI_MANIFEST, bytes }, view, {
    atMs,
    ...(tag !== undefined && { tag }),
  });
  return digest;
}

const manifestsKept = () => [...store.records.keys()].filter(name => name.startsWith('manifests/')).length;
const imagesKept = () =>
  [...store.records.keys()]
    .filter(name => name.startsWith('images/') && name !== 'images/index@')
    .map(name => name.split('/')[1])
    .toSorted((a = '', b = '') => (a < b ? -1 : 1));

/** A new index, of what is recorded. */
async function rebuilt() {
  const index = new MemoryIndex().open();
  const damaged: unknown[] = [];
  const report = await rebuildIndex(
    { metadata: index, blobs: NO_BLOBS, records: store },
    {
      signal: new AbortController().signal,
      onProgress() {},
      onDamaged: (kind, digest, reason) => void damaged.push([kind, digest, reason]),
    },
  );
  return { index, report, damaged };
}

test('files that others put among the records are neither read nor removed', async () => {
  const digest = await push(APP, 'v1', 'app');
  await keeping.run();
  const others = ['Team', 'team@', 'team@@app', 'a b', '..'].map(
    name => `images/${name}/sha256-${digest.slice(7)}`,
  );
  for (const name of others) store.records.set(name, Buffer.from('{}'));
  await keeping.sweep();
  expect([...store.records.keys()]).toEqual(expect.arrayContaining(others));
  const { report, damaged } = await rebuilt();
  expect([report.manifests, damaged.map(each => String(each).split(',')[0])]).toEqual([1, ['blob', 'blob']]);
});

test('a store that only mirrors has no records, and nothing is due', async () => {
  await push(MIRRORED, 'v1', 'mirrored');
  expect(await keeping.isDue()).toBe(false);
  await keeping.run();
  await keeping.sweep();
  expect(store.records.size).toBe(0);
});

test('a new index has manifests, tags, pins and Links of the hosted images that were recorded', async () => {
  const [one, two] = [await push(APP, 'v1', 'one'), await push(APP, undefined, 'two')];
  await push(OTHER, 'v1', 'one');
  await metadata.putTag(APP, 'stable', { digest: one, checkedAtMs: 7 });
  await metadata.putPin(APP, two);
  await metadata.putPin(APP, 'v1');
  expect(await keeping.isDue()).toBe(true);
  await keeping.run();
  expect(await keeping.isDue()).toBe(false);
  expect([imagesKept(), manifestsKept()]).toEqual([['team@app', 'team@app', 'team@other'], 2]);
  const { index, report } = await rebuilt();
  expect(report).toMatchObject({ manifests: 3, tags: 3 });
  expect(await index.readLinkedManifest(APP, one)).toEqual(await metadata.readLinkedManifest(APP, one));
  expect(await index.readTag(APP, 'stable')).toEqual({ digest: one, checkedAtMs: 7 });
  expect(await index.readTag(OTHER, 'v1')).toEqual({ digest: one, checkedAtMs: 5 });
  expect(await index.listPins(APP)).toEqual([two, 'v1']);
  const [layer, foreign] = ['layer two', 'foreign'].map(text => digestOf(Buffer.from(text)));
  expect([await index.isLinked(APP, layer!), await index.isLinked(OTHER, layer!)]).toEqual([true, false]);
  // Whoever could push a manifest that names it had not to have it.
  expect(await index.isLinked(APP, foreign!)).toBe(false);
});

test('records follow what is deleted, and manifests are kept as long as a hosted repository has them', async () => {
  const digest = await push(APP, 'v1', 'one');
  await push(OTHER, 'v1', 'one');
  await push(MIRRORED, 'v1', 'one');
  await keeping.run();
  await metadata.unlinkManifest(APP, digest);
  await keeping.run();
  expect([imagesKept(), manifestsKept()]).toEqual([['team@other'], 1]);
  await metadata.removeRepository(OTHER);
  await keeping.run();
  expect([imagesKept(), manifestsKept()]).toEqual([[], 0]);
});

test('a tag that moved while the records were kept means the newer image', async () => {
  const old = await push(APP, 'v1', 'old', 5);
  await keeping.run();
  const before = new Map(store.records);
  await push(APP, 'v1', 'new', 6);
  await keeping.run();
  // As after a crash between the two.
  for (const [name, bytes] of before) if (name.includes(old.slice(7))) store.records.set(name, bytes);
  const { index } = await rebuilt();
  expect(await index.readTag(APP, 'v1')).toEqual({
    digest: (await metadata.readTag(APP, 'v1'))?.digest,
    checkedAtMs: 6,
  });
});

test('what fails is tried again, and what was done is not forgotten', async () => {
  await push(APP, 'v1', 'one');
  await push(APP, 'v2', 'two');
  const put = vi.spyOn(store, 'put').mockRejectedValueOnce(new Error('away'));
  await expect(keeping.run()).rejects.toThrow('away');
  put.mockRestore();
  expect(await keeping.isDue()).toBe(true);
  await keeping.run();
  expect(imagesKept()).toHaveLength(2);
});

test('an image whose record cannot be kept keeps no other waiting, and is tried again', async () => {
  for (let at = 0; at < 35; at += 1) await push(APP, `v${at}`, `${at}`);
  const [first] = await metadata.listUnrecorded(1);
  const put = store.put.bind(store);
  const putting = vi.spyOn(store, 'put').mockImplementation(async (name, bytes) => {
    if (name.startsWith('images/') && name.includes(first!.digest.slice(7))) throw new Error('not this one');
    await put(name, bytes);
  });
  for (let round = 0; round < 2; round += 1) {
    await expect(keeping.run()).rejects.toThrow('not this one');
    expect([imagesKept().length, await metadata.countUnrecorded(100)]).toEqual([34, 1]);
  }
  putting.mockRestore();
  await keeping.run();
  expect([imagesKept().length, await metadata.countUnrecorded(100)]).toEqual([35, 0]);
});

test('while no record can be kept, each run tries a few, and not the same ones', async () => {
  for (let at = 0; at < 35; at += 1) await push(APP, `v${at}`, `${at}`);
  await keeping.isDue();
  const tried = new Set<string>();
  const putting = vi.spyOn(store, 'put').mockImplementation(async name => {
    if (name === 'images/index@') return;
    tried.add(name);
    throw new Error('away');
  });
  const counts = [];
  for (let round = 0; round < 4; round += 1) {
    await expect(keeping.run()).rejects.toThrow('away');
    counts.push(tried.size);
  }
  expect(counts).toEqual([10, 20, 30, 35]);
  putting.mockRestore();
  await keeping.run();
  expect(imagesKept()).toHaveLength(35);
});

test('it is known how many images wait for their records, and for how long one has', async () => {
  const clock = vi.spyOn(performance, 'now').mockReturnValue(1_000);
  expect(await keeping.lag()).toEqual({ waiting: 0, seconds: 0 });
  await push(APP, 'v1', 'one');
  const late = await push(OTHER, 'v1', 'two');
  expect(await keeping.isDue()).toBe(true);
  clock.mockReturnValue(61_000);
  expect(await keeping.lag()).toEqual({ waiting: 2, seconds: 60 });
  // The one that it had seen is kept; the other one is not, however many come before it.
  const [image] = await metadata.listUnrecorded(1);
  await metadata.noteRecorded(image!);
  expect(await keeping.lag()).toEqual({ waiting: 1, seconds: 0 });
  await push(APP, 'v3', 'three');
  clock.mockReturnValue(181_000);
  expect(await keeping.lag()).toEqual({ waiting: 2, seconds: 120 });
  await metadata.unlinkManifest(OTHER, late);
  clock.mockRestore();
  await keeping.run();
  expect(await keeping.lag()).toEqual({ waiting: 0, seconds: 0 });
});

test('if the records are of another index, or missing, those of all images are written again', async () => {
  await push(APP, 'v1', 'one');
  await keeping.run();
  store.records.clear();
  const next = new RecordKeeping({ metadata, records: store });
  expect(await next.isDue()).toBe(true);
  await next.run();
  expect([imagesKept(), manifestsKept()]).toEqual([['team@app'], 1]);
  // A restored index lacks what was removed since.
  store.records.set('images/index@', Buffer.from('that of another index'));
  store.records.delete([...store.records.keys()].find(name => name.startsWith('images/team@app'))!);
  await new RecordKeeping({ metadata, records: store }).run();
  expect(imagesKept()).toEqual(['team@app']);
});

test('a sweep removes records of images that the index does not have', async () => {
  const { index } = await rebuilt();
  await push(APP, 'v1', 'one');
  await keeping.run();
  const other = new RecordKeeping({ metadata: index, records: store });
  await other.run();
  expect(imagesKept()).toEqual(['team@app']);
  await other.sweep();
  expect([imagesKept(), manifestsKept()]).toEqual([[], 0]);
});

test('a sweep removes nothing once others have taken over its collection, as a rebuild does', async () => {
  const { index } = await rebuilt();
  await push(APP, 'v1', 'one');
  await keeping.run();
  const other = new RecordKeeping({ metadata: index, records: store });
  const lease: Lease = { ...steadyLease('collection'), confirm: () => Promise.reject(new LeaseLost('it')) };
  await expect(other.sweep({ lease })).rejects.toBeInstanceOf(LeaseLost);
  expect([imagesKept(), manifestsKept()]).toEqual([['team@app'], 1]);
  expect(await index.listUnrecorded(1)).toEqual([]);
  for (const name of store.records.keys()) if (name.startsWith('images/')) store.records.delete(name);
  await expect(other.sweep({ lease })).rejects.toBeInstanceOf(LeaseLost);
  expect([imagesKept(), manifestsKept()]).toEqual([[], 1]);
});

test('bytes that are intact in the record replace damaged ones of the index', async () => {
  const digest = await push(APP, 'v1', 'one');
  await keeping.run();
  await metadata.quarantine({ kind: 'manifest', digest }, 'wrong bytes');
  await metadata.putTag(APP, 'v2', { digest, checkedAtMs: 6 });
  await keeping.run();
  expect(manifestsKept()).toBe(1);
  const run = { signal: new AbortController().signal, onProgress() {}, onDamaged() {} };
  await rebuildIndex({ metadata, blobs: NO_BLOBS, records: store }, run);
  expect(await metadata.readLinkedManifest(APP, digest)).toMatchObject({ digest });
  expect(await metadata.countDamaged()).toBe(0);
});

test('a rebuild reports what is damaged or missing, and adds the rest', async () => {
  const [one, two, three] = [
    await push(APP, 'v1', 'one'),
    await push(APP, 'v2', 'two'),
    await push(APP, 'v3', 'three'),
  ];
  await keeping.run();
  for (const [name] of store.records) {
    if (name.startsWith('manifests/') && name.includes(one.slice(7)))
      store.records.set(name, Buffer.from('{}'));
    if (name.startsWith('images/') && name.includes(two.slice(7))) store.records.set(name, Buffer.from('{}'));
  }
  const { index, report, damaged } = await rebuilt();
  expect(report).toMatchObject({ manifests: 1, damaged: 4 });
  expect(damaged).toEqual(
    expect.arrayContaining([
      ['manifest', one, 'its copy is missing or damaged'],
      ['manifest', two, 'its record in team/app is missing or damaged'],
      ['blob', digestOf(Buffer.from('layer three')), 'it is missing, and belongs to team/app'],
      ['blob', digestOf(Buffer.from('config three')), 'it is missing, and belongs to team/app'],
    ]),
  );
  expect(await index.readTag(APP, 'v3')).toMatchObject({ digest: three });
});

test('a rebuild reports what cannot be read, and adds the rest', async () => {
  const [one, two] = [await push(APP, 'v1', 'one'), await push(APP, 'v2', 'two')];
  await push(APP, 'v3', 'three');
  await keeping.run();
  const read = store.read.bind(store);
  vi.spyOn(store, 'read').mockImplementation(async (name, maxBytes) => {
    if (name.includes(two.slice(7))) throw Object.assign(new Error('i/o error'), { code: 'EIO' });
    return read(name, maxBytes);
  });
  for (const name of store.records.keys()) {
    if (name.startsWith('manifests/') && name.includes(one.slice(7)))
      store.records.set(name, Buffer.alloc(MAX_MANIFEST_BYTES + 1));
  }
  const { index, report, damaged } = await rebuilt();
  expect(report).toMatchObject({ manifests: 1, tags: 1 });
  expect(damaged).toEqual(
    expect.arrayContaining([
      ['manifest', one, 'its copy is missing or damaged'],
      ['manifest', two, 'its copy is missing or damaged'],
    ]),
  );
  expect(await index.readTag(APP, 'v3')).toBeDefined();
});

test('a rebuild brings no image back that is deleted while it runs', async () => {
  const [one, two] = [await push(APP, 'v1', 'one'), await push(APP, 'v2', 'two')];
  await keeping.run();
  const list = store.list.bind(store);
  vi.spyOn(store, 'list').mockImplementation(async function* (folder) {
    for (const digest of [one, two]) await metadata.unlinkManifest(APP, digest);
    yield* list(folder);
  });
  const run = { signal: new AbortController().signal, onProgress() {}, onDamaged() {} };
  const report = await rebuildIndex({ metadata, blobs: NO_BLOBS, records: store }, run);
  expect(report).toMatchObject({ manifests: 0, tags: 0, damaged: 0 });
  expect(await metadata.isLinked(APP, one)).toBe(false);
});

test('an index that may lack something leaves the records as they are for a rebuild', async () => {
  const one = await push(APP, 'v1', 'one');
  await metadata.putTag(APP, 'stable', { digest: one, checkedAtMs: 7 });
  const both = await push(APP, 'v1', 'two');
  await push(OTHER, 'v1', 'two');
  await keeping.run();
  const before = new Map(store.records);
  // A server was started without the index, and used.
  metadata = new MemoryIndex().open();
  await stopCollecting(metadata, 'the index is new, and blobs/ is not empty');
  await push(APP, 'v2', 'two');
  await metadata.unlinkManifest(APP, both);
  // As indexes do that keep what has changed: this one compares with what was recorded.
  await metadata.noteUnrecorded([{ name: APP.name, digest: both }]);
  await push(APP, 'v3', 'one');
  const next = new RecordKeeping({ metadata, records: store });
  expect(await next.isDue()).toBe(false);
  await next.run();
  expect(store.records).toEqual(before);
  const run = { signal: new AbortController().signal, onProgress() {}, onDamaged() {} };
  await rebuildIndex({ metadata, blobs: NO_BLOBS, records: store }, run);
  expect(await metadata.readTag(OTHER, 'v1')).toMatchObject({ digest: both });
  expect(await metadata.isLinked(APP, both)).toBe(false);
  expect(await metadata.readTag(APP, 'stable')).toEqual({ digest: one, checkedAtMs: 7 });
  expect(await next.isDue()).toBe(true);
  await next.run();
  expect([imagesKept(), manifestsKept()]).toEqual([['team@app', 'team@other'], 2]);
});

test('a rebuild leaves what the index knows as it is, deleted images included', async () => {
  const [one, two] = [await push(APP, 'v1', 'one'), await push(APP, 'v2', 'two')];
  await keeping.run();
  await metadata.unlinkManifest(APP, two);
  await metadata.removeTag(APP, 'v1');
  const run = { signal: new AbortController().signal, onProgress() {}, onDamaged() {} };
  expect(await rebuildIndex({ metadata, blobs: NO_BLOBS, records: store }, run)).toMatchObject({
    manifests: 0,
    tags: 0,
  });
  expect(await metadata.listTags(APP, { limit: 10, after: undefined })).toMatchObject({ entries: [] });
  expect(await metadata.isLinked(APP, one)).toBe(true);
});
