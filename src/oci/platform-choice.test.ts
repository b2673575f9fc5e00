import { describe, expect, it } from 'vitest';
import {
  bytesOf,
  type Content,
  contentOf,
  descriptorOf,
  type Image,
  imageOf,
  indexOf,
  indexOfEntries,
  randomBlob,
} from '../../test/support/content.ts';
import { readerOfBytes } from '../lib/bytes-reader.ts';
import type { Descriptor } from './descriptor.ts';
import type { Manifest } from './manifest.ts';
import { DOCKER_MANIFEST_LIST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST } from './media-types.ts';
import { DEFAULT_PLATFORM, parsePlatform } from './platform.ts';
import { chooseChild, configPlatform, type ContentLookup, narrowToPlatform } from './platform-choice.ts';

const ARM64 = parsePlatform('linux/arm64');
const amd64 = imageOf([randomBlob(10, 'amd64')]);
const arm64 = imageOf([randomBlob(10, 'arm64')], { platform: ARM64 });
const manifestOf = (content: Content): Manifest => ({ ...content, bytes: bytesOf(content) });

/** Counts what is opened and closed. */
class Shelf implements ContentLookup {
  readonly #contents: ReadonlyMap<string, Content>;
  readonly asked: string[] = [];
  open = 0;

  constructor(...contents: readonly Content[]) {
    this.#contents = new Map(contents.map(content => [content.digest, content]));
  }

  manifest = async ({ digest }: Descriptor) => {
    const found = this.#contents.get(digest);
    return found && manifestOf(found);
  };

  config = async ({ digest }: Descriptor) => {
    const found = this.#contents.get(digest);
    if (found === undefined) return undefined;
    this.asked.push(digest);
    this.open += 1;
    return { ...readerOfBytes(bytesOf(found)), close: async () => void (this.open -= 1) };
  };
}

const shelfOf = (...images: readonly Image[]) =>
  new Shelf(...images.flatMap(({ manifest, config }) => [manifest, config]));

const bare = (content: Content): Descriptor => descriptorOf(content);
const named = (image: Image): Descriptor => ({ ...descriptorOf(image.manifest), platform: image.platform });

const wants = (accepted: readonly string[], platform?: string) => ({
  accepts: (type: string) => accepted.includes(type),
  platform,
});

/** An image whose config is these bytes. */
function imageWithConfig(bytes: Uint8Array | string): { manifest: Content; config: Content } {
  const config = contentOf(bytes, OCI_CONFIG);
  const document = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: descriptorOf(config),
    layers: amd64.layers.map(descriptorOf),
  };
  return { manifest: contentOf(JSON.stringify(document), OCI_MANIFEST), config };
}

describe('the child of an index', () => {
  const shelf = shelfOf(amd64, arm64);

  it('with a platform is chosen by that, without opening its config', async () => {
    const lying = { ...bare(arm64.manifest), platform: DEFAULT_PLATFORM };
    expect(await chooseChild([lying, named(amd64)], DEFAULT_PLATFORM, shelf)).toBe(lying);
    expect(shelf.asked).toEqual([]);
  });

  it('without a platform is chosen if its config suits, after all that have one', async () => {
    const [withPlatform, without] = [named(arm64), bare(amd64.manifest)];
    expect(await chooseChild([without], DEFAULT_PLATFORM, shelf)).toBe(without);
    expect(await chooseChild([without, withPlatform], DEFAULT_PLATFORM, shelf)).toBe(without);
    expect(await chooseChild([bare(arm64.manifest), withPlatform], ARM64, shelf)).toBe(withPlatform);
    expect(shelf.open).toBe(0);
  });

  it('without a platform is refused if its config has another one, and no second one is tried', async () => {
    const children = [bare(arm64.manifest), bare(amd64.manifest)];
    expect(await chooseChild(children, DEFAULT_PLATFORM, shelf)).toBeUndefined();
    expect(await chooseChild(children, ARM64, shelf)).toBe(children[0]);
    // A 64-bit host of ARM runs what is made for 32 bits.
    const arm = imageOf([randomBlob(10, 'arm')], { platform: parsePlatform('linux/arm/v7') });
    expect(await chooseChild([bare(arm.manifest)], ARM64, shelfOf(arm))).toEqual(bare(arm.manifest));
  });

  it.each([
    ['is not JSON', 'config'],
    ['is no object', '["linux"]'],
    ['names nothing', '{}'],
    ['names no architecture', '{"os":"linux"}'],
    ['has members of other types', '{"os":"linux","architecture":["amd64"]}'],
    ['has features of other types', '{"os":"linux","architecture":"amd64","os.features":"sse"}'],
    ['names itself unknown', '{"os":"unknown","architecture":"unknown"}'],
    ['is too large to be looked at', `{"os":"linux","architecture":"amd64","x":"${'x'.repeat(4 << 20)}"}`],
  ])('without a platform is refused when its config %s', async (_, text) => {
    const image = imageWithConfig(text);
    const held = new Shelf(image.manifest, image.config);
    expect(await chooseChild([bare(image.manifest)], DEFAULT_PLATFORM, held)).toBeUndefined();
    expect(held.asked).toEqual([image.config.digest]);
    expect(held.open).toBe(0);
  });

  it('is taken to be the host’s if its config has no operating system, as in old ones', async () => {
    const image = imageWithConfig('{"architecture":"amd64"}');
    const held = new Shelf(image.manifest, image.config);
    expect(await chooseChild([bare(image.manifest)], DEFAULT_PLATFORM, held)).toEqual(bare(image.manifest));
  });

  it('is chosen by the Windows version in its config, too', async () => {
    const image = imageWithConfig('{"os":"windows","architecture":"amd64","os.version":"10.0.17763.1"}');
    const held = new Shelf(image.manifest, image.config);
    const choose = (platform: string) => chooseChild([bare(image.manifest)], parsePlatform(platform), held);
    expect(await choose('windows/amd64:10.0.17763')).toEqual(bare(image.manifest));
    expect(await choose('windows/amd64:10.0.20348')).toBeUndefined();
  });

  it('that does not exist, or has no config, is chosen: a pull tells what is missing', async () => {
    const child = bare(amd64.manifest);
    expect(await chooseChild([child], DEFAULT_PLATFORM, new Shelf())).toBe(child);
    expect(await chooseChild([child], DEFAULT_PLATFORM, new Shelf(amd64.manifest))).toBe(child);
  });

  it('is never an attestation, whatever its config says', async () => {
    const annotations = { 'vnd.docker.reference.type': 'attestation-manifest' };
    const attestation = { ...bare(amd64.manifest), annotations };
    const children = [attestation, bare(arm64.manifest)];
    expect(await chooseChild(children, DEFAULT_PLATFORM, shelf)).toBeUndefined();
    expect(await chooseChild(children, ARM64, shelf)).toBe(children[1]);
  });

  it('cannot be chosen if its config cannot be read now, and the error is reported', async () => {
    const { manifest } = shelf;
    const broken = { manifest, config: () => Promise.reject(new Error('upstream is away')) };
    await expect(chooseChild([bare(amd64.manifest)], DEFAULT_PLATFORM, broken)).rejects.toThrow('away');
  });

  it('has the platform of its config', async () => {
    expect(await configPlatform(bare(arm64.manifest), shelf)).toMatchObject(ARM64);
    expect(await configPlatform(bare(indexOf([arm64]).manifest), shelf)).toBeUndefined();
  });
});

describe('a tag', () => {
  const inner = indexOf([amd64, arm64], DOCKER_MANIFEST_LIST).manifest;
  const outer = indexOfEntries([bare(inner)]);
  const shelf = new Shelf(inner, outer, ...[amd64, arm64].flatMap(image => [image.manifest, image.config]));
  const narrowed = async (manifest: Content, ...want: Parameters<typeof wants>) =>
    (await narrowToPlatform(manifestOf(manifest), wants(...want), shelf)).digest;

  it('means the index for a client that accepts any type of index, and its child for others', async () => {
    for (const type of [OCI_INDEX, DOCKER_MANIFEST_LIST]) {
      expect(await narrowed(inner, [OCI_MANIFEST, type])).toBe(inner.digest);
    }
    expect(await narrowed(inner, [OCI_MANIFEST])).toBe(amd64.manifest.digest);
    expect(await narrowed(inner, [OCI_INDEX, OCI_MANIFEST], 'linux/arm64')).toBe(arm64.manifest.digest);
  });

  it('means the child of a nested index, which needs no platform of its own', async () => {
    expect(await narrowed(outer, [OCI_MANIFEST])).toBe(amd64.manifest.digest);
    expect(await narrowed(outer, [], 'linux/arm64')).toBe(arm64.manifest.digest);
    await expect(narrowed(outer, [], 'linux/s390x')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
  });

  it('means an image that is not an index whatever its platform', async () => {
    expect(await narrowed(arm64.manifest, [OCI_MANIFEST], 'linux/amd64')).toBe(arm64.manifest.digest);
  });

  it('means nothing if a child does not exist, or if indexes are nested too deep', async () => {
    const absent = indexOf([imageOf([randomBlob(10, 'absent')])]).manifest;
    await expect(narrowed(absent, [])).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    const levels = [inner];
    while (levels.length < 4) levels.unshift(indexOfEntries([bare(levels[0]!)]));
    const deep = new Shelf(...levels, amd64.manifest);
    const narrow = (root: Content) => narrowToPlatform(manifestOf(root), wants([]), deep);
    expect((await narrow(levels[1]!)).digest).toBe(amd64.manifest.digest);
    await expect(narrow(levels[0]!)).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
  });

  it('with an invalid platform is an error of the client', async () => {
    await expect(narrowed(inner, [], 'amd64')).rejects.toMatchObject({ code: 'QUERY_INVALID' });
  });
});
