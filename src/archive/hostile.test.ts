import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import {
  bytesOf,
  type Content,
  contentOf,
  descriptorOf,
  imageOf,
  indexOf,
  indexOfEntries,
  randomBlob,
  readAs,
} from '../../test/support/content.ts';
import { OCI_ARTIFACT_MANIFEST, OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import { parsePlatform } from '../oci/platform.ts';
import { ArchiveWorld, inPieces, layoutFiles, pathOf, type TarFile, tarOf } from './archive.fixture.ts';
import { ArchiveError } from './archive-error.ts';
import { readHaveList } from './have-list.ts';
import { importArchive } from './import.ts';
import { openArchive, readArchive } from './open-archive.ts';

const NAME = 'docker.io/library/app:v1';
const big = randomBlob(5_000_000, 'big');
const image = imageOf([randomBlob(20_000, 'small'), big]);
const arm = imageOf([randomBlob(30_000, 'arm')], { platform: parsePlatform('linux/arm64') });
const layout = layoutFiles(image, NAME);
const NOTHING = { repositories: 0, manifests: 0, blobs: 0, files: 0 };

let world: ArchiveWorld;

// Many small files are synced, which takes its time on a busy disk.
vi.setConfig({ testTimeout: 30_000 });

beforeEach(async () => {
  world = await ArchiveWorld.open();
});

afterEach(async () => {
  await world.remove();
});

/** The reason for which an archive is refused, once it has left nothing behind. */
async function refusal(files: readonly TarFile[] | Buffer): Promise<string> {
  const tar = Buffer.isBuffer(files) ? files : await tarOf(files);
  const error: unknown = await world.import(tar).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(ArchiveError);
  expect(await world.traces()).toEqual(NOTHING);
  return error instanceof ArchiveError ? error.message : '';
}

const withFile = (file: TarFile): TarFile[] => [...layout, file];
const changed = (name: string, bytes: Uint8Array | string): TarFile[] =>
  layout.map(file => (file.name === name ? { ...file, bytes } : file));
const without = (name: string): TarFile[] => layout.filter(file => file.name !== name);
const indexOfImage = (descriptor: object): string =>
  JSON.stringify({
    schemaVersion: 2,
    manifests: [{ ...descriptor, annotations: { 'io.containerd.image.name': NAME } }],
  });

const entryOf = ({ mediaType, digest, size }: Content, name: string) => ({
  mediaType,
  digest,
  size,
  annotations: { 'io.containerd.image.name': name },
});

const noPlace = (): never => {
  throw new Error('no such registry');
};

test.each([
  '/etc/passwd',
  '../blobs/sha256/x',
  'blobs/../../etc/passwd',
  '..\\..\\windows',
  'blobs\\sha256\\x',
  'blobs//sha256',
  'a\nb',
  `x/${'y'.repeat(2000)}`,
])('a file called %j is refused', async name => {
  expect(await refusal(withFile({ name }))).toMatch(/not a valid file name|too long/);
});

test('a folder with such a name is refused', async () => {
  expect(await refusal([{ name: '../../up/', type: 'directory' }, ...layout])).toMatch(
    'not a valid file name',
  );
});

test.each(['symlink', 'link', 'character-device', 'block-device', 'fifo'] as const)(
  'a %s is refused',
  async type => {
    expect(await refusal(withFile({ name: 'blobs/sha256/link', type, linkname: '/etc/passwd' }))).toMatch(
      `is a ${type}`,
    );
  },
);

test.each([
  ['a device', () => openArchive('/dev/zero'), 'it is not a tar archive'],
  ['a pipe, after an archive', () => readArchive(beforeZeros(layout)), 'bytes of zeros in a row'],
])('endless zeros are refused: those of %s', async (_, open, reason) => {
  await expect(importArchive(open(), world.options())).rejects.toThrow(reason);
  expect(await world.traces()).toEqual(NOTHING);
});

async function* beforeZeros(files: readonly TarFile[]): AsyncGenerator<Uint8Array, void> {
  yield await tarOf(files);
  for (;;) yield Buffer.alloc(1024 * 1024);
}

test('a symbolic link in a folder is refused', async () => {
  const folder = join(world.folder, 'layout');
  await mkdir(folder);
  await symlink('/etc/hostname', join(folder, 'oci-layout'));
  await expect(importArchive(openArchive(folder), world.options())).rejects.toThrow('is not a file');
});

test.each(['blobs', 'blobs/sha256'])('a link in place of the folder %s is refused', async name => {
  const folder = join(world.folder, 'layout');
  const elsewhere = join(world.folder, 'elsewhere');
  for (const file of layout) {
    const path = join(folder, file.name).replace(join(folder, name, '/'), join(elsewhere, '/'));
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, file.bytes ?? '');
  }
  await mkdir(dirname(join(folder, name)), { recursive: true });
  await symlink(elsewhere, join(folder, name));
  await expect(importArchive(openArchive(folder), world.options())).rejects.toThrow(`"${name}" is a link`);
  expect(await world.traces()).toEqual(NOTHING);
});

test('a file of a folder that cannot be opened fails its reader, and nothing before', async () => {
  await writeFile(join(world.folder, 'oci-layout'), 'x');
  const reading = async (): Promise<void> => {
    for await (const { name, body } of openArchive(world.folder)) {
      await rm(join(world.folder, name));
      await buffer(body);
    }
  };
  await expect(reading()).rejects.toMatchObject({ code: 'ENOENT' });
});

test('a manifest with a duplicate member is refused', async () => {
  const text = bytesOf(image.manifest).toString().replace('"layers":', '"layers":[],"layers":');
  const manifest = contentOf(text, image.manifest.mediaType);
  const files = [
    ...without('index.json').filter(({ name }) => name !== pathOf(image.manifest.digest)),
    { name: pathOf(manifest.digest), bytes: text },
    { name: 'index.json', bytes: indexOfImage({ ...descriptorOf(manifest) }) },
  ];
  expect(await refusal(files)).toMatch('"layers" occurs twice');
});

test('a duplicate name is refused, whichever comes first', async () => {
  expect(await refusal(withFile(layout[0]!))).toMatch('occurs twice');
  expect(await refusal(withFile({ ...layout.at(-1)!, name: './oci-layout' }))).toMatch('occurs twice');
});

test('bytes with another digest than their name are refused, small and large', async () => {
  expect(await refusal(changed(pathOf(image.config.digest), 'other'))).toMatch('has a different digest');
  expect(await refusal(changed(pathOf(big.digest), Buffer.alloc(big.size)))).toMatch(
    'has a different digest',
  );
  expect(await refusal(changed(pathOf(image.manifest.digest), '{"schemaVersion":2}'))).toMatch(
    'has a different digest',
  );
});

test('a blob with another size than its manifest declares is refused', async () => {
  const layer = image.layers[0]!;
  const manifest = contentOf(
    JSON.stringify({
      schemaVersion: 2,
      config: { mediaType: image.config.mediaType, digest: image.config.digest, size: image.config.size },
      layers: [{ mediaType: layer.mediaType, digest: layer.digest, size: layer.size + 1 }],
    }),
    OCI_MANIFEST,
  );
  const { mediaType, digest, size } = manifest;
  const files = [
    ...changed('index.json', indexOfImage({ mediaType, digest, size })),
    { name: pathOf(digest), bytes: bytesOf(manifest) },
  ];
  expect(await refusal(files)).toMatch(
    `declares ${layer.size + 1} bytes for ${layer.digest}, which has ${layer.size}`,
  );
  const index = changed(
    'index.json',
    indexOfImage({ mediaType: OCI_MANIFEST, digest: image.manifest.digest, size: 3 }),
  );
  expect(await refusal(index)).toMatch('is listed with 3 bytes');
});

test('a blob that is declared with two sizes is refused, even if the first one is right', async () => {
  const [layer] = image.layers.map(descriptorOf);
  const layers = [layer, { ...layer, size: layer!.size + 1 }];
  const view = { schemaVersion: 2, config: descriptorOf(image.config), layers };
  const manifest = contentOf(JSON.stringify(view), OCI_MANIFEST);
  const files = changed('index.json', indexOfImage(descriptorOf(manifest)));
  expect(await refusal([...files, { name: pathOf(manifest.digest), bytes: bytesOf(manifest) }])).toMatch(
    `is listed with ${layer!.size} bytes and with ${layer!.size + 1}`,
  );
});

test('an index.json with a duplicate member is refused, since other readers would find another image', async () => {
  const entry = JSON.stringify(entryOf(image.manifest, NAME));
  const doubled = entry.replace('"digest"', `"Digest":${JSON.stringify(big.digest)},"digest"`);
  const index = `{"schemaVersion":2,"manifests":[${doubled}]}`;
  expect(await refusal(changed('index.json', index))).toMatch('"digest" occurs twice');
});

test('a manifest with two media types in one repository is refused', async () => {
  const untyped = imageOf(image.layers, { isUntyped: true });
  const artifact = readAs(untyped.manifest, OCI_ARTIFACT_MANIFEST);
  const index = indexOfEntries([descriptorOf(artifact), descriptorOf(untyped.manifest)]);
  const files = layoutFiles({ ...untyped, manifest: index }, NAME);
  const whole = [...files, { name: pathOf(untyped.manifest.digest), bytes: bytesOf(untyped.manifest) }];
  const { digest } = untyped.manifest;
  expect(await refusal(whole)).toMatch(
    `${digest} is listed as ${OCI_ARTIFACT_MANIFEST} and as ${OCI_MANIFEST}`,
  );
  const entries = [entryOf(artifact, NAME), entryOf(untyped.manifest, NAME.replace('v1', 'v2'))];
  const bytes = JSON.stringify({ schemaVersion: 2, manifests: entries });
  const twice = layoutFiles(untyped, NAME).map(file =>
    file.name === 'index.json' ? { ...file, bytes } : file,
  );
  expect(await refusal(twice)).toMatch(
    `docker.io/library/app@${digest} has two media types, ${OCI_ARTIFACT_MANIFEST} and ${OCI_MANIFEST}`,
  );
});

test('an archive without a blob, a manifest, its index or its layout is refused', async () => {
  expect(await refusal(without(pathOf(big.digest)))).toMatch(`the blob ${big.digest} is not in the archive`);
  expect(await refusal(without(pathOf(image.config.digest)))).toMatch('is not in the archive');
  expect(await refusal(without(pathOf(image.manifest.digest)))).toMatch(/the manifest .* is missing/);
  expect(await refusal(without('index.json'))).toMatch('no index.json');
  expect(await refusal(without('oci-layout'))).toMatch('no oci-layout');
  expect(await refusal([])).toMatch('no oci-layout');
});

test('an index with missing children is refused, unless the requested platforms are complete', async () => {
  const both = indexOf([image, arm]);
  const files = layoutFiles(both, NAME).filter(({ name }) => name !== pathOf(arm.manifest.digest));
  expect(await refusal(files)).toMatch(/the manifest .* for linux\/arm64 is missing .*--platform/);
  const report = await world.import(await tarOf(files), { platforms: [parsePlatform('linux/amd64')] });
  expect(report.images).toHaveLength(1);
});

test('if one image is incomplete, none is imported', async () => {
  const other = imageOf([randomBlob(40_000, 'other')]);
  const first = entryOf(image.manifest, NAME);
  const second = entryOf(other.manifest, 'quay.io/org/other:1');
  const blobs = new Map([...layout, ...layoutFiles(other, NAME)].map(file => [file.name, file]));
  const lacking = pathOf(other.layers[0]!.digest);
  for (const manifests of [
    [first, second],
    [second, first],
  ]) {
    blobs.set('index.json', { name: 'index.json', bytes: JSON.stringify({ schemaVersion: 2, manifests }) });
    const files = [...blobs.values()];
    expect(await refusal(files.filter(({ name }) => name !== lacking))).toMatch('is not in the archive');
  }
  expect((await world.import(await tarOf([...blobs.values()]))).images).toHaveLength(2);
});

test('a truncated archive is refused, wherever it ends', async () => {
  const tar = await tarOf(layout);
  for (const share of [0.001, 0.2, 0.5, 0.9, 0.999]) {
    expect(await refusal(tar.subarray(0, Math.floor(tar.byteLength * share)))).toMatch(
      /damaged|no oci-layout|no index.json/,
    );
  }
  expect(await refusal(gzipSync(tar).subarray(0, 100_000))).toMatch('cannot be decompressed');
});

test('an archive that does not exist is refused like a broken one', async () => {
  const importing = importArchive(openArchive(join(world.folder, 'nowhere.tar')), world.options());
  await expect(importing).rejects.toThrow(expect.objectContaining({ name: 'ArchiveError' }));
});

test('a file that is not an archive is refused', async () => {
  expect(await refusal(Buffer.from('hello, world'))).toMatch(/damaged|no oci-layout/);
  expect(await refusal(Buffer.from(bytesOf(randomBlob(100_000, 'noise'))))).toMatch('damaged');
});

test('a decompression bomb is refused before it is decompressed', async () => {
  const zeros = Buffer.alloc(200 * 1024 * 1024);
  expect(await refusal(gzipSync(await tarOf([{ name: 'zeros', bytes: zeros }])))).toMatch(
    'expands to more than',
  );
});

test('a header that would need much memory is refused', async () => {
  const header = Buffer.from((await tarOf([{ name: 'x' }])).subarray(0, 512));
  // A pax header that says it is 8 GiB long (POSIX pax: size in octal at 124, type at 156, checksum at 148).
  header.write('77777777777\0', 124);
  header.write('x', 156);
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  expect(await refusal(Buffer.concat([header, Buffer.alloc(4096)]))).toMatch('damaged');
});

test('a header whose size is not a number is refused at once', async () => {
  const tar = await tarOf(layout);
  // In base 256 (POSIX pax, "size"), only 0x80 and 0xff may begin it.
  tar[124] = 0x81;
  tar.fill(' ', 148, 156);
  const sum = tar.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  tar.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  expect(await refusal(tar)).toMatch(/damaged or malformed: .* has an invalid size/);
});

test('an archive with too many files is refused', async () => {
  const header = (await tarOf([{ name: 'folder', type: 'directory' }])).subarray(0, 512);
  const thousand = Buffer.concat(Array.from({ length: 1000 }, () => header));
  const endless = async function* () {
    for (let count = 0; count <= 250; count += 1) yield thousand;
    yield Buffer.alloc(1024);
  };
  await expect(importArchive(readArchive(endless()), world.options())).rejects.toThrow(
    'more than 250000 files',
  );
});

test('manifests that would fill the memory together are refused', async () => {
  const manifests = Array.from({ length: 17 }, (_, at) => {
    const text = JSON.stringify({ schemaVersion: 2, padding: String(at).padEnd(4_000_000, 'x') });
    return contentOf(text, OCI_MANIFEST);
  });
  const files = manifests.map(manifest => ({ name: pathOf(manifest.digest), bytes: bytesOf(manifest) }));
  expect(await refusal([...files, ...layout])).toMatch('its manifests exceed');
});

test('indexes that are nested too deep are refused', async () => {
  let inner = contentOf(JSON.stringify({ schemaVersion: 2, manifests: [] }), OCI_INDEX);
  const files: TarFile[] = [{ name: pathOf(inner.digest), bytes: bytesOf(inner) }];
  for (let depth = 0; depth < 6; depth += 1) {
    const { mediaType, digest, size } = inner;
    inner = contentOf(
      JSON.stringify({ schemaVersion: 2, manifests: [{ mediaType, digest, size }] }),
      OCI_INDEX,
    );
    files.push({ name: pathOf(inner.digest), bytes: bytesOf(inner) });
  }
  const { mediaType, digest, size } = inner;
  expect(
    await refusal([...files, ...changed('index.json', indexOfImage({ mediaType, digest, size }))]),
  ).toMatch('deep');
});

test('an ambiguous manifest is refused', async () => {
  const both = contentOf(JSON.stringify({ schemaVersion: 2, manifests: [], layers: [] }), OCI_INDEX);
  const { mediaType, digest, size } = both;
  const files = changed('index.json', indexOfImage({ mediaType, digest, size }));
  expect(await refusal([...files, { name: pathOf(digest), bytes: bytesOf(both) }])).toMatch(
    'may not have layers',
  );
});

test('a name for two different images is refused', async () => {
  const named = (...contents: Content[]) => ({
    name: 'index.json',
    bytes: JSON.stringify({ schemaVersion: 2, manifests: contents.map(one => entryOf(one, NAME)) }),
  });
  const files = [
    ...without('index.json'),
    ...layoutFiles(arm, NAME).filter(({ name }) => name.startsWith('blobs/')),
  ];
  expect(await refusal([...files, named(image.manifest, arm.manifest)])).toMatch(
    `${NAME} would mean two images, ${image.manifest.digest} and ${arm.manifest.digest}`,
  );
  const tar = await tarOf([...files, named(image.manifest, image.manifest)]);
  expect((await world.import(tar)).images).toHaveLength(2);
});

test('a name that means nothing here, or contains another digest, is refused', async () => {
  const other = `docker.io/library/app@${big.digest}`;
  expect(await refusal(layoutFiles(image, other))).toMatch('names a digest other than its own');
  const importing = world.import(await tarOf(layout), { placeOf: noPlace });
  await expect(importing).rejects.toThrow(new ArchiveError(`${NAME}: no such registry`));
  expect(await world.traces()).toEqual(NOTHING);
});

test('wrong names are refused as soon as the index is read', async () => {
  let bytes = 0;
  const tar = await tarOf([layout.find(({ name }) => name === 'index.json')!, ...without('index.json')]);
  const importing = world.import(tar, { placeOf: noPlace, progress: more => (bytes += more) });
  await expect(importing).rejects.toThrow('no such registry');
  expect(bytes).toBeLessThan(1000);
});

test('the refusal of a Docker archive without a layout says what to do', async () => {
  expect(await refusal([{ name: 'manifest.json', bytes: '[]' }])).toMatch('skopeo copy');
  const name = `${'a'.repeat(64)}/layer.tar`;
  expect(await refusal([{ name, type: 'symlink', linkname: '../b/layer.tar' }])).toMatch('skopeo copy');
});

test('an invalid index or layout is refused', async () => {
  expect(await refusal(changed('index.json', 'nonsense'))).toMatch('cannot be read');
  expect(await refusal(changed('index.json', '{"schemaVersion":2,"manifests":[]}'))).toMatch(
    'contains no images',
  );
  expect(await refusal(changed('oci-layout', '{"imageLayoutVersion":"2.0.0"}'))).toMatch('version');
  expect(await refusal(changed('index.json', Buffer.alloc(5_000_000)))).toMatch('larger than');
});

test('an invalid have-list is refused', async () => {
  const type = '"mediaType":"application/vnd.entrepot.have.v1+json"';
  for (const text of ['', '{}', `{${type},"blobs":[]}`, `{${type},"seal":"a","blobs":["x"]}`]) {
    await expect(readHaveList(Readable.from([Buffer.from(text)]))).rejects.toThrow('entrepot have');
  }
  // Reading stops at the limit, even if the source never ends, like a device.
  let bytes = 0;
  const endless = async function* () {
    for (const piece = Buffer.alloc(1024 * 1024, ' '); ; bytes += piece.byteLength) yield piece;
  };
  await expect(readHaveList(endless())).rejects.toThrow('is larger than');
  expect(bytes).toBeLessThan(128 * 1024 * 1024);
});

test('a failing source is not mistaken for the end of the archive', async () => {
  const tar = await tarOf(layout);
  const broken = async function* () {
    yield* inPieces(tar.subarray(0, 1_000_000));
    throw new Error('the cable was pulled');
  };
  await expect(importArchive(readArchive(broken()), world.options())).rejects.toThrow('the cable was pulled');
  expect(await world.traces()).toMatchObject({ repositories: 0, manifests: 0 });
});
