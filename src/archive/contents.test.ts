import { expect, test } from 'vitest';
import { bytesOf, descriptorOf, imageOf, indexOf } from '../../test/support/content.ts';
import { openMemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import type { Digest } from '../oci/digest.ts';
import { type BlobTaker, settleAll } from './contents.ts';
import type { BundleImage } from './layout.ts';

const COUNT = 30;

test('a manifest is read as often as the archive lists it, however many images and artifacts are refused', async () => {
  const indexes = Array.from({ length: COUNT }, (_, at) =>
    indexOf([imageOf([], { annotations: { at: `${at}` } })]),
  );
  const signatures = Array.from({ length: COUNT }, (_, at) =>
    imageOf([], { subject: imageOf([], { annotations: { of: `${at}` } }).manifest }),
  );
  const contents = [...indexes, ...signatures].map(({ manifest }) => manifest);
  const bytes = new Map(contents.map(content => [content.digest, bytesOf(content)]));
  const images = contents.map(
    (content): BundleImage => ({
      descriptor: descriptorOf(content),
      name: undefined,
      platforms: undefined,
      isPrivate: false,
    }),
  );
  const reads = new Map<Digest, number>();
  const taker: BlobTaker = {
    take: () => expect.unreachable(),
    settle: async () => {},
    carriedSize: digest => signatures.find(({ config }) => config.digest === digest)?.config.size,
    manifestBytes: digest => {
      if (bytes.has(digest)) reads.set(digest, (reads.get(digest) ?? 0) + 1);
      return bytes.get(digest);
    },
    isHeld: async () => false,
    open: async () => undefined,
    keepAsBlob: async () => {},
  };
  const unplaced = images.slice(COUNT).map(image => ({ image, place: undefined }));
  const refused: BundleImage[] = [];
  const metadata = openMemoryMetadataStore();
  const options = { metadata, platforms: undefined };
  const index = { images, have: undefined };
  expect(await settleAll(index, unplaced, taker, options, image => refused.push(image))).toEqual([]);
  expect(refused).toHaveLength(COUNT);
  // To follow it, and as something that is refused.
  expect(Math.max(...reads.values())).toBe(2);
  await metadata.close();
});
