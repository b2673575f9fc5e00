import { beforeEach, expect, test, vi } from 'vitest';
import { MemoryRecordStore } from '../blobs/memory-record-store.fixture.ts';
import { MemoryIndex, type MemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import {
  mayBeIncomplete,
  stopCollecting,
  stopCollectingDuringRebuild,
  whyNotCollected,
} from '../metadata/store-identity.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { documents } from '../oci/documents.ts';
import { OCI_CONFIG, OCI_MANIFEST } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';
import { type RebuildReport, rebuildIndex } from './rebuild.ts';
import { RecordKeeping } from './record-keeping.ts';

/** In the order of their records, in which what follows a name is a slash. */
const REPOSITORIES = ['team/a-b', 'team/a', 'team/b'].map(name => ({ upstream: '', name }));
const IMAGES_EACH = 30;

let records: MemoryRecordStore;
/** What was lost. */
let lost: MemoryMetadataStore;
/** The images of each repository, in the order of their records. */
let images: ReadonlyMap<Repository, readonly Digest[]>;

beforeEach(async () => {
  lost = new MemoryIndex().open();
  records = new MemoryRecordStore();
  const pushed = new Map<Repository, Digest[]>();
  for (const repository of REPOSITORIES) {
    const digests = [];
    for (let at = 0; at < IMAGES_EACH; at += 1) digests.push(await push(lost, repository, at));
    pushed.set(repository, digests.toSorted());
  }
  images = pushed;
  await new RecordKeeping({ metadata: lost, records }).run();
});

async function push(index: MemoryMetadataStore, repository: Repository, at: number): Promise<Digest> {
  const content = Buffer.from(`config ${at}`);
  const config = { mediaType: OCI_CONFIG, digest: digestOf(content), size: content.length };
  await index.putBlob(config.digest, config.size, repository);
  const document = { schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers: [] };
  const bytes = Buffer.from(JSON.stringify(document));
  const digest = digestOf(bytes);
  const view = await documents.ask('view', bytes, OCI_MANIFEST);
  const manifest = { digest, mediaType: OCI_MANIFEST, bytes };
  await index.putManifest(repository, manifest, view, { tag: `v${at}`, atMs: 5 });
  await index.putTag(repository, `also-${at}`, { digest, checkedAtMs: 6 });
  await index.putPin(repository, `v${at}`);
  return digest;
}

/** One that a server, or the command, makes of a store whose index is gone. */
async function newIndex(): Promise<MemoryMetadataStore> {
  const index = new MemoryIndex().open();
  await stopCollecting(index, 'the index is new, and blobs/ is not empty');
  return index;
}

const blobs = {
  list: async function* () {
    for (let at = 0; at < IMAGES_EACH; at += 1) {
      const content = Buffer.from(`config ${at}`);
      yield { digest: digestOf(content), size: content.length, modifiedAtMs: 0 };
    }
  },
  rehash: async (digest: Digest) => digest,
};

function rebuild(
  metadata: MemoryMetadataStore,
  signal = new AbortController().signal,
): Promise<RebuildReport> {
  return rebuildIndex(
    { metadata, blobs, records },
    { signal, onProgress() {}, onDamaged: () => expect.unreachable() },
  );
}

/** Rebuilds until some images were added, and then is cut off. */
async function interrupted(metadata: MemoryMetadataStore): Promise<void> {
  const add = metadata.addRecordedImages.bind(metadata);
  const adding = vi.spyOn(metadata, 'addRecordedImages');
  adding.mockImplementationOnce(add).mockImplementationOnce(add).mockRejectedValue(new Error('cut off'));
  await expect(rebuild(metadata)).rejects.toThrow('cut off');
  adding.mockRestore();
}

/** Everything that an index says of hosted images. */
async function contentOf(index: MemoryMetadataStore) {
  return Promise.all(
    REPOSITORIES.map(async repository => {
      const { entries } = await index.listTags(repository, { limit: 1_000, after: undefined });
      const tags = await Promise.all(entries.map(async tag => [tag, await index.readTag(repository, tag)]));
      const known = await Promise.all(
        (images.get(repository) ?? []).map(digest => index.readLinkedManifest(repository, digest)),
      );
      return { tags, known, pins: await index.listPins(repository) };
    }),
  );
}

test('an index that was rebuilt in parts says until the end that it lacks something, and then is as the one that was lost', async () => {
  const index = await newIndex();
  await interrupted(index);
  expect(await whyNotCollected(index)).toMatchObject({
    reason: expect.stringMatching(/being rebuilt, or that was interrupted/),
    waysOut: expect.stringContaining('run `entrepot rebuild` again'),
    isExpected: false,
  });
  const [first, , last] = REPOSITORIES;
  expect((await index.listTags(last!, { limit: 1, after: undefined })).entries).toEqual([]);
  // What is there is whole.
  const [whole] = await contentOf(lost);
  const [part] = await contentOf(index);
  const held = part!.known.filter(manifest => manifest !== undefined);
  expect(held).toHaveLength(IMAGES_EACH);
  expect([part!.tags, part!.pins]).toEqual([whole!.tags, whole!.pins]);
  // A server that runs meanwhile leaves the records as they are.
  const before = new Map(records.records);
  const keeping = new RecordKeeping({ metadata: index, records });
  expect(await keeping.isDue()).toBe(false);
  await keeping.run();
  await keeping.sweep();
  expect(records.records).toEqual(before);
  const read = vi.spyOn(records, 'read');
  const { manifests } = await rebuild(index);
  expect(manifests).toBe(3 * IMAGES_EACH - 40);
  expect(read).toHaveBeenCalledTimes(2 * manifests);
  expect(await contentOf(index)).toEqual(await contentOf(lost));
  expect(await mayBeIncomplete(index)).toBe(false);
  expect(await index.isLinked(first!, digestOf(Buffer.from('config 1')))).toBe(true);
});

test('what was deleted between two parts of a rebuild does not come back', async () => {
  const index = await newIndex();
  await interrupted(index);
  const [first, second, third] = REPOSITORIES;
  const [deleted, other] = images.get(first!)!;
  await index.unlinkManifest(first!, deleted!);
  await index.removeTag(first!, 'also-7');
  await index.removePin(first!, 'v8');
  await index.removeTag(second!, (await index.listTags(second!, { limit: 1, after: undefined })).entries[0]!);
  await index.putTag(first!, 'v9', { digest: other!, checkedAtMs: 20 });
  const before = await contentOf(index);
  await rebuild(index);
  const [one, two, three] = await contentOf(index);
  expect(one).toEqual(before[0]);
  expect(two!.tags).toHaveLength(2 * IMAGES_EACH - 1);
  expect(three).toEqual((await contentOf(lost))[2]);
  expect(third).toBeDefined();
});

test('an image that was pushed again between two parts of a rebuild gets the tags and pins that it lacks', async () => {
  const index = await newIndex();
  await interrupted(index);
  const [, , third] = REPOSITORIES;
  await push(index, third!, 3);
  await index.removeTag(third!, 'also-3');
  await index.removePin(third!, 'v3');
  await rebuild(index);
  expect(await contentOf(index)).toEqual(await contentOf(lost));
});

test('a rebuild that is stopped adds nothing after that', async () => {
  const index = await newIndex();
  const stopping = new AbortController();
  const add = index.addRecordedImages.bind(index);
  const adding = vi.spyOn(index, 'addRecordedImages').mockImplementation(async (...given) => {
    const added = await add(...given);
    stopping.abort(new Error('stopped'));
    return added;
  });
  await expect(rebuild(index, stopping.signal)).rejects.toThrow('stopped');
  const calls = adding.mock.calls.length;
  expect(calls).toBeLessThanOrEqual(2);
  adding.mockRestore();
  await rebuild(index);
  expect(await contentOf(index)).toEqual(await contentOf(lost));
});

test('a rebuild of an index that is new in a bucket with nothing stops no collection', async () => {
  const index = new MemoryIndex().open();
  await stopCollectingDuringRebuild(index);
  const nothing = { list: async function* () {}, rehash: async () => undefined };
  const run = { signal: new AbortController().signal, onProgress() {}, onDamaged() {} };
  const stores = { metadata: index, blobs: nothing, records: new MemoryRecordStore() };
  expect(await rebuildIndex(stores, run)).toMatchObject({ isCollectingStopped: false });
  expect(await whyNotCollected(index)).toBeUndefined();
});

test('blobs are verified many at a time, and not more than that', async () => {
  const index = await newIndex();
  let [running, most] = [0, 0];
  const waiting = new Array<() => void>();
  const rehash = async (digest: Digest) => {
    running += 1;
    most = Math.max(most, running);
    await new Promise<void>(resolve => {
      waiting.push(resolve);
      // When nothing else is begun, they end.
      setImmediate(() => waiting.splice(0).forEach(each => each()));
    });
    running -= 1;
    return digest;
  };
  const run = { signal: new AbortController().signal, onProgress() {}, onDamaged() {} };
  const report = await rebuildIndex({ metadata: index, blobs: { ...blobs, rehash }, records }, run);
  expect(report).toMatchObject({ added: IMAGES_EACH });
  expect(most).toBe(16);
});

test('adds no blob that is damaged, or that was removed after it was listed', async () => {
  const index = await newIndex();
  const found = [];
  for await (const { digest } of blobs.list()) found.push(digest);
  const [removed, wrong] = found;
  const rehash = async (digest: Digest) => {
    if (digest === removed) return undefined;
    return digest === wrong ? digestOf(Buffer.from('other bytes')) : digest;
  };
  const damaged = new Array<unknown>();
  const run = {
    signal: new AbortController().signal,
    onProgress() {},
    onDamaged: (...damage: unknown[]) => void damaged.push(damage),
  };
  const stores = { metadata: index, blobs: { ...blobs, rehash }, records: new MemoryRecordStore() };
  expect(await rebuildIndex(stores, run)).toMatchObject({ added: IMAGES_EACH - 2, damaged: 2 });
  expect(damaged).toEqual([
    ['blob', removed, 'its file is missing'],
    ['blob', wrong, `its content has the digest ${digestOf(Buffer.from('other bytes'))}`],
  ]);
});
