import { mkdir, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import {
  contentOf,
  descriptorOf,
  type Image,
  imageOf,
  indexOf,
  indexOfEntries,
  randomBlob,
  readAs,
} from '../../test/support/content.ts';
import { heldContent, heldPlatforms } from '../metadata/held-tree.ts';
import { digestHex, digestOf } from '../oci/digest.ts';
import { OCI_ARTIFACT_MANIFEST, OCI_MANIFEST } from '../oci/media-types.ts';
import { formatPlatform, parsePlatform } from '../oci/platform.ts';
import { ArchiveError } from './archive-error.ts';
import { type ExportImage, planBundle } from './export.ts';
import {
  ArchiveWorld,
  filesOf,
  gathered,
  inPieces,
  layoutFiles,
  pathOf,
  placeOf,
  tarOf,
} from './archive.fixture.ts';
import { missingOfImage } from '../prepull/image-check.ts';
import { haveListOf, readHaveList } from './have-list.ts';
import { importArchive } from './import.ts';
import { inspectArchive } from './inspection.ts';
import { openArchive, readArchive } from './open-archive.ts';

const NAME = 'docker.io/library/app:v1';
const amd64 = imageOf([randomBlob(300_000, 'base'), randomBlob(5_000_000, 'amd64')]);
const arm64 = imageOf([randomBlob(300_000, 'base'), randomBlob(70_000, 'arm64')], {
  platform: parsePlatform('linux/arm64'),
});
const app = indexOf([amd64, arm64]);

let sender: ArchiveWorld;
let receiver: ArchiveWorld;

// Many small files are synced, which takes its time on a busy disk.
vi.setConfig({ testTimeout: 30_000 });

beforeEach(async () => {
  sender = await ArchiveWorld.open();
  receiver = await ArchiveWorld.open();
});

afterEach(async () => {
  await sender.remove();
  await receiver.remove();
});

async function exported(...args: Parameters<typeof planBundle>): Promise<Buffer> {
  return gathered((await planBundle(...args)).tar());
}

test('the same bytes with two media types keep, in each repository, the type that they had at the sender', async () => {
  const image = imageOf([randomBlob(5_000, 'untyped')], { isUntyped: true });
  const artifact = readAs(image.manifest, OCI_ARTIFACT_MANIFEST);
  const { digest } = image.manifest;
  const images = [
    await sender.hold('docker.io/library/a:v1', image),
    await sender.hold('docker.io/library/b:v1', { ...image, manifest: artifact, layers: [] }),
  ];
  for (const order of [images, images.toReversed()]) {
    const world = await ArchiveWorld.open();
    await world.import(await exported(order, { ...sender.stores, dockerManifest: true }));
    const inRepository = async (name: string) =>
      (await world.metadata.readForPull(placeOf(name).repository, 'v1')).manifest;
    expect(await inRepository('docker.io/library/a')).toMatchObject({ digest, mediaType: OCI_MANIFEST });
    expect(await inRepository('docker.io/library/b')).toMatchObject({
      digest,
      mediaType: OCI_ARTIFACT_MANIFEST,
    });
    await world.remove();
  }
});

test('a referrer with different media types in two repositories needs two bundles', async () => {
  const subject = imageOf([randomBlob(3_000, 'subject')]);
  const referrer = imageOf([randomBlob(3_000, 'referrer')], { isUntyped: true, subject: subject.manifest });
  const artifact = readAs(referrer.manifest, OCI_ARTIFACT_MANIFEST);
  const images = [
    await sender.hold('docker.io/library/a:v1', subject),
    await sender.hold('docker.io/library/b:v1', subject),
  ];
  await sender.hold('docker.io/library/a', referrer);
  await sender.hold('docker.io/library/b', { ...referrer, manifest: artifact, layers: [] });
  const options = { ...sender.stores, referrers: true };
  await expect(planBundle(images, options)).rejects.toThrow('make two bundles');
  for (const image of images) await receiver.import(await exported([image], options));
  for (const [at, { mediaType }] of [referrer.manifest, artifact].entries()) {
    const { repository } = images[at]!;
    expect(await receiver.metadata.readLinkedManifest(repository, artifact.digest)).toMatchObject({
      mediaType,
    });
  }
});

test('exported images are stored by the receiver under the same name, pinned and readable by everybody', async () => {
  const image = await sender.hold(NAME, app);
  const report = await receiver.import(await exported([image], sender.stores));
  expect(report.images).toEqual([{ name: NAME, digest: app.manifest.digest }]);
  expect(report.addedBlobs).toBe(5);

  const { repository } = image;
  const tagged = await receiver.metadata.readForPull(repository, 'v1');
  const sent = await sender.metadata.readForPull(repository, 'v1');
  expect(tagged?.manifest).toEqual(sent?.manifest);
  for (const { manifest, config, layers } of app.images) {
    expect(await receiver.metadata.readLinkedManifest(repository, manifest.digest)).toBeDefined();
    for (const { digest, size } of [config, ...layers]) {
      expect(await receiver.metadata.isLinked(repository, digest)).toBe(true);
      expect(await receiver.metadata.statBlob(digest)).toEqual({ size });
      expect(await receiver.blobs.rehash(digest, { bytesPerSecond: 1e9 })).toBe(digest);
    }
  }
  expect(await receiver.metadata.listPins(repository)).toEqual(['v1']);
  expect(await receiver.metadata.readGrants(repository)).toEqual([]);
  expect(await receiver.metadata.listPreloads(repository)).toMatchObject([{ grantee: '' }]);
  for (const { manifest, config, layers } of app.images) {
    for (const { digest } of [manifest, config, ...layers]) {
      expect(await receiver.metadata.isPreloaded(repository, digest, [''])).toBe(true);
    }
  }
});

test('the same images make the same bytes, in any order', async () => {
  const one = await sender.hold(NAME, app);
  const two = await sender.hold('quay.io/org/other:1', amd64);
  const tar = await exported([one, two], sender.stores);
  expect(tar.equals(await exported([two, one], sender.stores))).toBe(true);
  // On every machine and at any time: no time, owner or order of a file system is in it.
  expect(digestOf(tar)).toBe('sha256:725ddddbca6c140e73b0593bfc053f7cb537ae8ea11817e178fa9b5a6b41a750');
});

test('a bundle that is imported again writes nothing', async () => {
  const tar = await exported([await sender.hold(NAME, app)], sender.stores);
  await receiver.import(tar);
  const before = await receiver.traces();
  expect(await receiver.import(tar)).toMatchObject({ addedBlobs: 0, addedBytes: 0, heldBlobs: 5 });
  expect(await receiver.traces()).toEqual(before);
});

test('a bundle for one platform keeps the index and its digest, and omits the rest', async () => {
  const image = await sender.hold(NAME, app);
  const tar = await exported([{ ...image, platforms: [parsePlatform('linux/arm64')] }], sender.stores);
  const files = await filesOf(tar);
  expect(files.has(pathOf(app.manifest.digest))).toBe(true);
  expect(files.has(pathOf(arm64.manifest.digest))).toBe(true);
  expect(files.has(pathOf(amd64.manifest.digest))).toBe(false);
  expect(files.has(pathOf(amd64.layers[1]!.digest))).toBe(false);
  const report = await receiver.import(tar);
  expect(report.images).toEqual([{ name: NAME, digest: app.manifest.digest }]);
});

test('the platform in the config of a child decides if the index declares none', async () => {
  const inner = indexOfEntries([descriptorOf(arm64.manifest)]);
  await sender.hold(NAME, { manifest: inner, images: [arm64] });
  const outer = { manifest: indexOfEntries([descriptorOf(inner)]), images: [] };
  const image = await sender.hold(NAME, outer);
  const options = { ...sender.stores, dockerManifest: true };
  const tar = await exported([{ ...image, platforms: [parsePlatform('linux/arm64')] }], options);
  expect(String((await filesOf(tar)).get('manifest.json'))).toContain(pathOf(arm64.config.digest));
  const nothing = [{ ...image, platforms: [parsePlatform('linux/amd64')] }];
  await expect(planBundle(nothing, options)).rejects.toThrow('an image for linux/amd64');

  const amd64Only = { platforms: [parsePlatform('linux/amd64')] };
  await expect(receiver.import(tar, amd64Only)).rejects.toThrow('no image for linux/amd64');
  expect(await receiver.traces()).toMatchObject({ repositories: 0, blobs: 0, files: 0 });
  await receiver.import(tar);
  const missing = (platform: string) =>
    missingOfImage(receiver, image.repository, 'v1', [parsePlatform(platform)]);
  expect(await missing('linux/arm64')).toEqual([]);
  expect(await missing('linux/amd64')).toEqual([expect.stringContaining('an image for linux/amd64')]);
  await receiver.metadata.removeBlob(arm64.config.digest);
  expect(await missing('linux/arm64')).toEqual([arm64.config.digest]);
});

test('the platforms that are completely stored are those that a pull would choose, by index or config', async () => {
  const other = imageOf([randomBlob(10, 'other')]);
  const entries = [
    { ...descriptorOf(amd64.manifest), platform: amd64.platform },
    { ...descriptorOf(other.manifest), platform: other.platform },
    descriptorOf(arm64.manifest),
  ];
  const index = { manifest: indexOfEntries(entries), images: [amd64, other, arm64] };
  const { repository, digest } = await sender.hold(NAME, index);
  const root = (await sender.metadata.readLinkedManifest(repository, digest))!;
  const lookup = heldContent(repository, sender.metadata, blob => sender.blobs.open(blob));
  const held = async () =>
    (await heldPlatforms(root, repository, sender.stores, lookup))?.map(formatPlatform);
  expect(await held()).toBeUndefined();
  await sender.metadata.removeBlob(other.config.digest);
  expect(await held()).toEqual(['linux/amd64', 'linux/arm64']);
  // The other one would suit as well, and nobody pulls it.
  await sender.metadata.removeBlob(amd64.layers[1]!.digest);
  expect(await held()).toEqual(['linux/arm64']);
});

const on = (os: string, version: string, ...features: string[]) =>
  imageOf([randomBlob(10, `${os} ${version} ${features.join()}`)], {
    platform: {
      os,
      architecture: 'amd64',
      ...(version && { 'os.version': version }),
      ...(features.length > 0 && { 'os.features': features }),
    },
  });

test('all members of a platform are passed on to the receiver, whatever they contain', async () => {
  const plain = on('linux', '');
  const held = [
    on('linux', '', 'nydus.remoteimage.v1'),
    on('darwin', 'macOS 13, (Ventura)'),
    on('windows', '10.0.20348.1', 'win32k', 'other'),
    on('', '', 'a'),
  ];
  const index = indexOf([plain, ...held]);
  const image = await sender.hold(NAME, index);
  await sender.metadata.removeBlob(plain.config.digest);
  const root = (await sender.metadata.readLinkedManifest(image.repository, image.digest))!;
  const lookup = heldContent(image.repository, sender.metadata, blob => sender.blobs.open(blob));
  const platforms = await heldPlatforms(root, image.repository, sender.stores, lookup);
  expect(platforms?.map(formatPlatform)).toEqual([
    'linux(+nydus.remoteimage.v1)/amd64',
    'darwin(macOS%2013%2c%20%28Ventura%29)/amd64',
    'windows(10.0.20348.1+other+win32k)/amd64',
    'linux(+a)/amd64',
  ]);
  await receiver.import(await exported([{ ...image, platforms }], sender.stores));
  for (const { config } of held) expect(await receiver.metadata.statBlob(config.digest)).toBeDefined();
  expect(await receiver.metadata.statBlob(plain.config.digest)).toBeUndefined();
});

test('an incomplete image is not exported, and the error says what is missing', async () => {
  const image = await sender.hold(NAME, app);
  await sender.metadata.removeBlob(arm64.config.digest);
  await expect(planBundle([image], sender.stores)).rejects.toThrow(arm64.config.digest);
  await expect(
    planBundle([{ ...image, platforms: [parsePlatform('linux/s390x')] }], sender.stores),
  ).rejects.toThrow('an image for linux/s390x');
  expect(
    await planBundle([{ ...image, platforms: [parsePlatform('linux/amd64')] }], sender.stores),
  ).toBeDefined();
});

test('an image is not exported if its blob is lost or truncated on disk, before or during the export', async () => {
  const image = await sender.hold(NAME, amd64);
  const [, layer] = amd64.layers;
  const bundle = await planBundle([image], sender.stores);
  const hex = digestHex(layer!.digest);
  const path = join(sender.folder, 'blobs', 'sha256', hex.slice(0, 2), hex);
  await truncate(path, 1_000_000);
  await expect(gathered(bundle.tar())).rejects.toThrow('ends at byte 1000000 of');
  await expect(planBundle([image], sender.stores)).rejects.toThrow(layer!.digest);
  expect(await missingOfImage(sender.stores, image.repository, 'v1', undefined)).toEqual([layer!.digest]);
  await rm(path);
  await expect(planBundle([image], sender.stores)).rejects.toThrow(layer!.digest);
  expect(await missingOfImage(sender.stores, image.repository, 'v1', undefined)).toEqual([layer!.digest]);
});

test('a delta bundle contains only what the receiver lacks', async () => {
  const base = [randomBlob(400_000, 'b1'), randomBlob(500_000, 'b2'), randomBlob(100_000, 'b3')];
  const first: Image[] = Array.from({ length: 10 }, (_, n) =>
    imageOf([...base, randomBlob(30_000, `top ${n}`)]),
  );
  const old: ExportImage[] = [];
  for (const [n, image] of first.entries()) old.push(await sender.hold(`docker.io/org/app-${n}:1`, image));
  await receiver.import(await exported(old, sender));

  const changed = imageOf([...base, randomBlob(31_000, 'changed')]);
  const all = [await sender.hold('docker.io/org/app-0:1', changed), ...old.slice(1)];
  const { bytes } = await haveListOf(receiver.blobs, receiver.metadata);
  const have = await readHaveList(Readable.from([bytes]));
  const thin = await planBundle(all, { ...sender.stores, have });
  expect(thin.blobCount).toBe(2);
  expect(thin.blobBytes).toBe(31_000 + changed.config.size);
  const tar = await gathered(thin.tar());
  // Manifests are always carried: they are what completeness is proved with.
  expect(tar.byteLength).toBeLessThan(31_000 + 30_000);
  const report = await receiver.import(tar);
  expect(report).toMatchObject({ addedBlobs: 2, addedBytes: thin.blobBytes });

  const stranger = await ArchiveWorld.open();
  await expect(stranger.import(tar)).rejects.toThrow('made for a registry that already has it');
  expect(await stranger.traces()).toMatchObject({ repositories: 0, blobs: 0, files: 0 });
  await stranger.remove();
});

test('images whose manifests exceed the limit of an import cannot be bundled', async () => {
  const images: ExportImage[] = [];
  for (let n = 0; n < 17; n += 1) {
    const annotations = { padding: String(n).padEnd(4_000_000, 'x') };
    images.push(
      await sender.hold(`docker.io/org/app-${n}:1`, imageOf([randomBlob(100, 'one')], { annotations })),
    );
  }
  expect((await planBundle(images.slice(0, 16), sender.stores)).blobCount).toBe(2);
  await expect(planBundle(images, sender.stores)).rejects.toThrow('make several bundles');
});

test.each([undefined, '', '0'.repeat(32)])(
  'an archive with the seal %j cannot claim stored content of others by naming its digest',
  async seal => {
    await receiver.hold('docker.io/secret/app:1', amd64, { isPublic: false });
    if (seal !== undefined) await haveListOf(receiver.blobs, receiver.metadata);
    const files = layoutFiles(amd64, NAME).filter(({ name }) => name !== pathOf(amd64.layers[1]!.digest));
    const thin = files.map(file => {
      if (file.name !== 'index.json' || seal === undefined) return file;
      const annotations = { 'io.entrepot.bundle.have': seal };
      return { ...file, bytes: JSON.stringify({ ...JSON.parse(String(file.bytes)), annotations }) };
    });
    await expect(receiver.import(await tarOf(thin))).rejects.toThrow('is not in the archive');
    expect(await receiver.metadata.hasRepository(placeOf(NAME).repository)).toBe(false);
  },
);

test('an archive cannot claim stored content by containing other bytes under its digest', async () => {
  await receiver.hold('docker.io/secret/app:1', amd64, { isPublic: false });
  const held = pathOf(amd64.layers[1]!.digest);
  const files = layoutFiles(amd64, NAME).map(file =>
    file.name === held ? { ...file, bytes: Buffer.alloc(amd64.layers[1]!.size) } : file,
  );
  await expect(receiver.import(await tarOf(files))).rejects.toThrow('has a different digest');
  expect(await receiver.blobs.rehash(amd64.layers[1]!.digest, { bytesPerSecond: 1e9 })).toBe(
    amd64.layers[1]!.digest,
  );
});

test('content of private repositories is marked, and is not made public unless that is requested', async () => {
  const image = await sender.hold(NAME, app, { isPublic: false });
  const tar = await exported([image], sender.stores);
  await expect(receiver.import(tar)).rejects.toThrow('is marked as private');
  expect(await receiver.traces()).toMatchObject({ repositories: 0, manifests: 0, files: 0 });
  expect((await receiver.import(tar, { mayPublish: true })).images).toHaveLength(1);
});

test('signatures are exported with their subjects, and imported into the same repositories', async () => {
  const image = await sender.hold(NAME, app);
  const signature = imageOf([randomBlob(100, 'signature')], {
    artifactType: 'application/vnd.example.signature',
    subject: amd64.manifest,
  });
  await sender.hold('docker.io/library/app:sig', signature);
  await receiver.import(await exported([image], { ...sender.stores, referrers: true }));
  const { entries } = await receiver.metadata.listReferrers(
    image.repository,
    amd64.manifest.digest,
    undefined,
    { limit: 10, after: undefined },
  );
  expect(entries.map(({ digest }) => digest)).toEqual([signature.manifest.digest]);
  expect(await receiver.metadata.isLinked(image.repository, signature.layers[0]!.digest)).toBe(true);
});

/** As where no registry is configured. */
function refuseAll(name: string | undefined): undefined {
  if (name !== undefined) throw new Error('no such registry');
}

test('a signature is refused with its image, also if it signs a child of it', async () => {
  const image = await sender.hold(NAME, app);
  const signatures = [app, amd64].map(({ manifest }, at) =>
    imageOf([randomBlob(100, `signature ${at}`)], { subject: manifest }),
  );
  for (const [at, each] of signatures.entries()) await sender.hold(`docker.io/library/app:${at}`, each);
  const tar = await exported([image], { ...sender.stores, referrers: true });
  const { images } = await inspectArchive(
    readArchive(inPieces(tar)),
    receiver.options({ placeOf: refuseAll }),
  );
  const refusals = new Map(images.map(({ digest, refusal }) => [digest, refusal]));
  expect(refusals.get(app.manifest.digest)).toBe(`${NAME}: no such registry`);
  for (const { manifest } of signatures) {
    expect(refusals.get(manifest.digest)).toBe(`${manifest.digest} belongs to ${NAME}, which is refused`);
  }
});

test('a dry run asks the store once for each blob, however many images name it', async () => {
  const names = ['one', 'two', 'three'].map(name => `docker.io/library/${name}:v1`);
  const images = [];
  for (const name of names) images.push(await sender.hold(name, amd64));
  const tar = await exported(images, sender.stores);
  const stat = vi.spyOn(receiver.metadata, 'statBlob');
  await inspectArchive(readArchive(inPieces(tar)), receiver.options());
  const asked = stat.mock.calls.map(([digest]) => digest);
  expect(asked.toSorted()).toEqual([amd64.config, ...amd64.layers].map(({ digest }) => digest).toSorted());
});

test('all reasons are reported, for the archive and for each image', async () => {
  const images = [await sender.hold(NAME, amd64), await sender.hold('docker.io/library/other:v1', arm64)];
  const tar = await exported(images, sender.stores);
  vi.spyOn(receiver.metadata, 'readTag').mockRejectedValue(new ArchiveError('as a whole'));
  const inspection = await inspectArchive(readArchive(inPieces(tar)), {
    ...receiver.options(),
    placeOf: name => {
      if (name === NAME) throw new Error('no such registry');
      return name === undefined ? undefined : placeOf(name);
    },
  });
  const reasons = [`${NAME}: no such registry`, 'as a whole'];
  expect(inspection.images.map(({ refusal }) => refusal)).toEqual(reasons);
  expect(inspection.refusals).toEqual(reasons);
});

test('signatures that two images share are included and reported once', async () => {
  const images = [await sender.hold(NAME, amd64), await sender.hold('docker.io/library/app:latest', amd64)];
  const tag = amd64.manifest.digest.replace(':', '-');
  await sender.hold(`docker.io/library/app:${tag}.sig`, imageOf([randomBlob(100, 'cosign')]));
  const referrer = imageOf([randomBlob(100, 'signature')], { subject: amd64.manifest });
  await sender.hold('docker.io/library/app:referrer', referrer);
  const tar = await exported(images, { ...sender.stores, referrers: true });
  const names = (await receiver.import(tar)).images.map(({ name }) => name);
  expect(names.sort()).toEqual([
    'docker.io/library/app:latest',
    `docker.io/library/app:${tag}.sig`,
    NAME,
    `docker.io/library/app@${referrer.manifest.digest}`,
  ]);
});

test("Docker's manifest.json names the config and layers of the first platform", async () => {
  const image = await sender.hold(NAME, app);
  const tar = await exported([image], { ...sender.stores, dockerManifest: true });
  const files = await filesOf(tar);
  expect(JSON.parse(String(files.get('manifest.json')))).toEqual([
    {
      Config: pathOf(amd64.config.digest),
      RepoTags: [NAME],
      Layers: amd64.layers.map(({ digest }) => pathOf(digest)),
    },
  ]);
});

test("Docker's manifest.json is the same in whatever order images with one config are named", async () => {
  const recompressed = randomBlob(60_000, 'the same files, with another compression');
  const view = {
    schemaVersion: 2,
    config: descriptorOf(arm64.config),
    layers: [descriptorOf(recompressed)],
  };
  const twin = {
    ...arm64,
    manifest: contentOf(JSON.stringify(view), OCI_MANIFEST),
    layers: [recompressed],
  };
  const one = await sender.hold('quay.io/org/one:1', arm64);
  const two = await sender.hold('quay.io/org/two:1', twin);
  const options = { ...sender.stores, dockerManifest: true };
  const tar = await exported([one, two], options);
  expect(tar.equals(await exported([two, one], options))).toBe(true);
});

test('an archive can be compressed with gzip, be a folder, or have its index at the end', async () => {
  const files = layoutFiles(app, NAME);
  const tar = await tarOf(files);
  const folder = join(sender.folder, 'layout');
  for (const { name, bytes = '' } of files) {
    const path = join(folder, name);
    await mkdir(join(path, '..'), { recursive: true });
    await writeFile(path, bytes);
  }
  const sources = [
    () => readArchive(inPieces(gzipSync(tar))),
    () => readArchive(inPieces(tar, 511)),
    () => openArchive(folder),
  ];
  for (const source of sources) {
    const world = await ArchiveWorld.open();
    const report = await importArchive(source(), world.options());
    expect(report.images).toEqual([{ name: NAME, digest: app.manifest.digest }]);
    await world.remove();
  }
});

test('an image without a full name gets one from the importer', async () => {
  const tar = await tarOf(layoutFiles(amd64, 'v1'));
  await expect(receiver.import(tar)).rejects.toThrow('--rename');
  const report = await receiver.import(tar, { placeOf: () => placeOf('quay.io/org/renamed:2') });
  expect(report.images).toEqual([{ name: 'quay.io/org/renamed:2', digest: amd64.manifest.digest }]);
});

test('files that no image names are not kept', async () => {
  const stray = randomBlob(6_000_000, 'stray');
  const files = [
    { name: pathOf(stray.digest), bytes: await gathered(toAsync(stray.slice())) },
    { name: 'README', bytes: 'hello' },
    ...layoutFiles(amd64, NAME),
  ];
  await receiver.import(await tarOf(files));
  expect(await receiver.metadata.statBlob(stray.digest)).toBeUndefined();
  expect(await receiver.blobs.stat(stray.digest)).toBeUndefined();
});

test('an interrupted import keeps what it has, and the next one continues', async () => {
  const tar = await exported([await sender.hold(NAME, app)], sender.stores);
  const stop = new AbortController();
  let seen = 0;
  const importing = receiver.import(tar, {
    signal: stop.signal,
    progress: bytes => {
      seen += bytes;
      if (seen > tar.byteLength * 0.9) stop.abort(new Error('stopped'));
    },
  });
  await expect(importing).rejects.toThrow('stopped');
  expect(await receiver.metadata.hasRepository(placeOf(NAME).repository)).toBe(false);
  const { blobs: kept } = await receiver.metadata.readTotals();
  expect(kept).toBeGreaterThan(0);
  const report = await receiver.import(tar);
  expect(report.addedBlobs + kept).toBe(5);
  expect(await receiver.traces()).toEqual({ repositories: 1, manifests: 3, blobs: 5, files: 5 });
});

async function* toAsync(chunks: Iterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  yield* chunks;
}
