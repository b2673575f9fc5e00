// Imports while upkeep removes whatever it may.
import { once } from 'node:events';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Chance, SEED } from '../../test/support/chance.ts';
import { type Image, imageOf, randomBlob } from '../../test/support/content.ts';
import { surveyOfFolder } from '../upkeep/survey.fixture.ts';
import { PresenceEnded } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { MemoryIndex } from '../metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { stopCollecting } from '../metadata/store-identity.ts';
import type { Digest } from '../oci/digest.ts';
import type { SurveyThread } from '../upkeep/survey-thread.ts';
import { upkeepOf } from '../upkeep/upkeep.fixture.ts';
import type { Upkeep, UpkeepOptions } from '../upkeep/upkeep.ts';
import { ArchiveError } from './archive-error.ts';
import { ArchiveWorld, layoutFiles, placeOf, tarOf } from './archive.fixture.ts';
import type { ImagePlace } from './placement.ts';

const NAME = 'docker.io/library/app:v1';
const OTHER_NAME = 'docker.io/library/other:v1';
const base = randomBlob(200_000, 'base');
const app = imageOf([base, randomBlob(50_000, 'app')]);
const other = imageOf([base, randomBlob(60_000, 'other')]);

let world: ArchiveWorld;
let survey: SurveyThread;

vi.setConfig({ testTimeout: 60_000 });

beforeEach(async () => {
  world = await ArchiveWorld.open({ isIndexOnDisk: true });
  survey = surveyOfFolder(world.folder);
});

afterEach(async () => {
  await survey.close();
  await world.remove();
});

/** Everything that may be evicted is, and nothing has a grace period. */
function upkeep(options: Partial<UpkeepOptions> = {}): Upkeep {
  return upkeepOf(world.stores, survey, { maxBytes: 1, ...options });
}

/** The index, with something that happens just before each call of `method`. */
function before(method: keyof MetadataStore, act: () => Promise<unknown>): MetadataStore {
  return new Proxy(world.metadata, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      return async (...args: unknown[]) => {
        if (name === method) await act();
        return Reflect.apply(value, target, args);
      };
    },
  });
}

/** The names of these tests, as hosted repositories. */
function hosted(name = ''): ImagePlace {
  return { repository: { upstream: '', name: placeOf(name).repository.name }, tag: 'v1' };
}

const blobsOf = ({ config, layers }: Image) => [config, ...layers].map(({ digest }) => digest);

async function missingOf(name: string, image: Image): Promise<readonly Digest[]> {
  const { metadata, blobs } = world;
  const { repository, tag = '' } = placeOf(name);
  const { manifest } = await metadata.readForPull(repository, tag);
  const missing = manifest?.digest === image.manifest.digest ? [] : [image.manifest.digest];
  for (const digest of blobsOf(image)) {
    const isHeld =
      (await metadata.statBlob(digest)) !== undefined && (await blobs.stat(digest)) !== undefined;
    if (!isHeld) missing.push(digest);
  }
  return missing;
}

/** Does it as if a while ago. */
async function earlier(work: () => Promise<unknown>): Promise<void> {
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 10_000 });
  try {
    await work();
  } finally {
    vi.useRealTimers();
  }
}

test('a refused import leaves files that an incomplete index does not know: a rebuild may need them', async () => {
  const ingest = await world.spool.ingest(steadyLease('upload-1'), { digest: base.digest });
  for (const piece of base.slice()) await ingest.write([piece]);
  await world.blobs.put(base.digest, ingest);
  await ingest.close();
  await stopCollecting(world.metadata, 'the index is new');
  const importing = world.import(await tarOf(layoutFiles(app, NAME)), {
    placeOf: () => {
      throw new Error('no such registry');
    },
  });
  await expect(importing).rejects.toBeInstanceOf(ArchiveError);
  expect(await world.blobs.stat(base.digest)).toEqual({ size: base.size });
});

test('what an import has linked stays until it is pinned, even if nothing else may be evicted', async () => {
  const metadata = before('publish', () => upkeep().evict());
  await world.import(await tarOf(layoutFiles(app, NAME)), { metadata });
  expect(await missingOf(NAME, app)).toEqual([]);
});

test('what an import found stored counts as used, however long nobody has requested it', async () => {
  // A use may be recorded to the second.
  await earlier(() => world.hold(OTHER_NAME, other));
  const newer = imageOf([randomBlob(100_000, 'newer')]);
  await world.hold('docker.io/library/newer:v1', newer);
  const evicted = vi.fn<() => Promise<unknown>>(async () => {
    const { blobBytes, manifestBytes } = await world.metadata.readTotals();
    return upkeep({ maxBytes: blobBytes + manifestBytes - 1 }).evict();
  });
  const metadata = before('putContent', evicted);
  await world.import(await tarOf(layoutFiles(app, NAME)), { metadata });
  expect(evicted).toHaveBeenCalledOnce();
  expect(await missingOf(NAME, app)).toEqual([]);
  expect(await missingOf(OTHER_NAME, other)).toContain(blobsOf(other)[2]);
});

test('a manifest that an import found stored stays until it is pinned', async () => {
  await world.hold(OTHER_NAME, app);
  const metadata = before('publish', () => upkeep().evict());
  await world.import(await tarOf(layoutFiles(app, NAME)), { metadata });
  expect(await missingOf(NAME, app)).toEqual([]);
});

test('an import that takes longer than the grace period loses nothing to a collection', async () => {
  const metadata = before('putContent', () => upkeep().collect());
  await world.import(await tarOf(layoutFiles(app, NAME)), { metadata });
  expect(await missingOf(NAME, app)).toEqual([]);
  expect(await upkeep().collect()).toMatchObject({ blobs: { items: 0 } });
});

test('a refused import leaves what another one has found stored', async () => {
  const tar = await tarOf(layoutFiles(app, NAME));
  const isRefused = new AbortController();
  const untilRefused = once(isRefused.signal, 'abort');
  let importing: Promise<unknown> = Promise.resolve();
  const refused = world.import(tar, {
    metadata: before('putContent', async () => {
      await new Promise<void>(resolve => {
        importing = world.import(tar, {
          metadata: before('putContent', () => {
            resolve();
            return untilRefused;
          }),
        });
      });
      throw new ArchiveError('refused');
    }),
  });
  await expect(refused).rejects.toThrow('refused');
  isRefused.abort();
  await importing;
  expect(await missingOf(NAME, app)).toEqual([]);
});

test('garbage is removed before images even while an import runs', async () => {
  const wanted = imageOf([randomBlob(100_000, 'wanted')]);
  const forgotten = imageOf([randomBlob(600_000, 'forgotten')]);
  // An import may need what was used within the last second.
  await earlier(async () => {
    await world.hold(OTHER_NAME, wanted);
    await world.hold('docker.io/library/forgotten:v1', forgotten);
    await world.metadata.removeRepository({ upstream: 'docker.io', name: 'library/forgotten' });
  });
  const { blobBytes, manifestBytes } = await world.metadata.readTotals();
  const maxBytes = blobBytes + manifestBytes - 1;
  const evicted = vi.fn<() => Promise<unknown>>(() => upkeep({ maxBytes, gracePeriodMs: 3_600_000 }).evict());
  await world.import(await tarOf(layoutFiles(app, NAME)), { metadata: before('putContent', evicted) });
  expect(evicted).toHaveBeenCalledOnce();
  expect(await missingOf(OTHER_NAME, wanted)).toEqual([]);
  expect(await world.metadata.statBlob(blobsOf(forgotten)[1]!)).toBeUndefined();
});

test('an import that lost a blob while it was suspended links none of its images', async () => {
  const images = [other, app];
  const manifests = images.map(({ manifest: { mediaType, digest, size } }, at) => ({
    mediaType,
    digest,
    size,
    annotations: { 'org.opencontainers.image.ref.name': `here.example/team/image-${at}:v1` },
  }));
  const files = new Map(images.flatMap(image => layoutFiles(image, '')).map(file => [file.name, file]));
  files.set('index.json', { name: 'index.json', bytes: JSON.stringify({ schemaVersion: 2, manifests }) });
  const lose = async () => void (await world.metadata.removeBlob(blobsOf(app)[2]!));
  const quota = { reserve: vi.fn<() => Promise<void>>(lose), release: () => {} };
  const importing = world.import(await tarOf([...files.values()]), { placeOf: hosted, quota });
  await expect(importing).rejects.toThrow('run it again');
  expect(quota.reserve).toHaveBeenCalled();
  expect(await world.metadata.readTotals()).toMatchObject({ repositories: 0, manifests: 0 });
});

test('an import that was suspended, and lost what it had linked, does not claim to have succeeded', async () => {
  const lost = blobsOf(app)[1]!;
  const metadata = before('publish', () => world.metadata.removeBlob(lost));
  const tar = await tarOf(layoutFiles(app, NAME));
  await expect(world.import(tar, { metadata })).rejects.toThrow(`${lost} was removed during the import`);
  await world.import(tar);
  expect(await missingOf(NAME, app)).toEqual([]);
});

test('an import that has begun before others considered its process dead sets no name', async () => {
  const index = new MemoryIndex();
  const metadata = index.open();
  const reading = (name?: string) => {
    metadata.seemDead();
    return hosted(name);
  };
  const tar = await tarOf(layoutFiles(app, NAME));
  await expect(world.import(tar, { metadata, placeOf: reading })).rejects.toThrow(PresenceEnded);
  expect(await metadata.readTotals()).toMatchObject({ repositories: 0, manifests: 0 });
});

test('imports, evictions and collections in any order leave every imported image complete', async () => {
  const chance = new Chance(SEED);
  const shared = [0, 1, 2].map(at => randomBlob(30_000 + at, `shared ${at}`));
  const images = Array.from({ length: 12 }, (_, at) =>
    imageOf([shared[at % 3]!, shared[(at + 1) % 3]!, randomBlob(20_000 + at, `own ${at}`)]),
  );
  // One after the other, and before anything is removed: this holds no Lease.
  for (const at of [3, 7, 11]) await world.hold(`docker.io/library/image-${at}:v1`, images[at]!);
  const failures: unknown[] = [];
  const done = new AbortController();
  const removing = (async () => {
    while (!done.signal.aborted) {
      if (chance.in(0.7)) await upkeep().evict();
      else await upkeep().collect();
    }
  })();
  const importing = images.map(async (image, at) => {
    await new Promise(resolve => setTimeout(resolve, chance.below(400)));
    const name = `docker.io/library/image-${at}:v1`;
    if (at % 4 === 3) await world.metadata.removeRepository(placeOf(name).repository);
    const options = at % 3 === 2 ? { grantee: 'team-a' } : {};
    await world
      .import(await tarOf(layoutFiles(image, name)), options)
      .catch((error: unknown) => failures.push(error));
  });
  await Promise.all(importing);
  done.abort();
  await removing;
  await upkeep().evict();
  expect({ seed: SEED, failures }).toEqual({ seed: SEED, failures: [] });
  for (const [at, image] of images.entries()) {
    expect({ seed: SEED, missing: await missingOf(`docker.io/library/image-${at}:v1`, image) }).toEqual({
      seed: SEED,
      missing: [],
    });
  }
});
