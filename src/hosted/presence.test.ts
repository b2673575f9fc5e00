// This process was suspended, and others have considered it dead: clients have gone to them, so what they sent here before
// must not be done any more.
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { bytesOf, imageOf, randomBlob } from '../../test/support/content.ts';
import { chunkOf, HostedBench } from '../../test/support/hosted-bench.ts';
import { Presence, PresenceEnded } from '../lib/lease.ts';
import { ANONYMOUS } from '../oci/requester.ts';

const repository = { upstream: '', name: 'team/app' };
const elsewhere = { upstream: '', name: 'team/other' };
const image = imageOf([randomBlob(1_000, 'layer')]);
const blob = randomBlob(1_000, 'another');

let bench: HostedBench;
/** The Presence in which a request arrived. */
let during: Presence;

beforeEach(async () => {
  bench = await HostedBench.open();
  await bench.pushImage(repository, image, 'v1');
  during = new Presence();
});

afterEach(() => bench.remove());

const end = () => void (during.isOver = true);

const publish = (tags: readonly string[]) =>
  bench.publication.publish(repository, {
    reference: image.manifest.digest,
    tags,
    contentType: image.manifest.mediaType,
    contentLength: image.manifest.size,
    body: chunkOf(bytesOf(image.manifest)).body,
    holder: { name: 'anonymous' },
    during,
  });

/** The blob, as a request sends it. */
const chunk = () => ({ ...chunkOf(bytesOf(blob)), during });

const tagsOf = async () =>
  (await bench.metadata.listTags(repository, { limit: 100, after: undefined })).entries;

it.each([
  ['push a manifest', () => publish(['v2'])],
  ['remove a tag', () => bench.removal.removeManifest(repository, 'v1', { during })],
  ['remove a manifest', () => bench.removal.removeManifest(repository, image.manifest.digest, { during })],
  ['remove a blob', () => bench.removal.removeBlob(repository, image.config.digest, { during })],
  ['mount a blob', () => bench.uploads.mount(elsewhere, image.config.digest, { from: repository, during })],
])('a request from before does not %s', async (_, act) => {
  end();
  await expect(act()).rejects.toThrow(PresenceEnded);
  expect(await tagsOf()).toEqual(['v1']);
  expect(await bench.metadata.isLinked(repository, image.config.digest)).toBe(true);
  expect(await bench.metadata.isLinked(elsewhere, image.config.digest)).toBe(false);
});

it('a push from before sets no further tags', async () => {
  const putManifest = bench.metadata.putManifest.bind(bench.metadata);
  vi.spyOn(bench.metadata, 'putManifest').mockImplementation(async (...parameters) => {
    const lacking = await putManifest(...parameters);
    end();
    return lacking;
  });
  await expect(publish(['v2', 'v3'])).rejects.toThrow(PresenceEnded);
  expect(await tagsOf()).toEqual(['v1', 'v2']);
});

it('a request from before does not append to an upload, complete it or cancel it', async () => {
  const { id } = await bench.uploads.begin(ANONYMOUS, repository);
  end();
  const { uploads } = bench;
  for (const act of [
    () => uploads.append(ANONYMOUS, repository, id, chunk()),
    () => uploads.complete(ANONYMOUS, repository, id, blob.digest, chunk()),
    () => uploads.cancel(ANONYMOUS, repository, id, { during }),
  ]) {
    await expect(act()).rejects.toThrow(PresenceEnded);
  }
  expect(await uploads.status(ANONYMOUS, repository, id)).toEqual({ id, offset: 0 });
});

it('a blob whose last bytes arrived before is not published', async () => {
  const put = bench.blobs.put.bind(bench.blobs);
  vi.spyOn(bench.blobs, 'put').mockImplementation(async (...parameters) => {
    end();
    return put(...parameters);
  });
  const pushing = bench.uploads.push(ANONYMOUS, repository, blob.digest, {
    ...chunkOf(bytesOf(blob)),
    during,
  });
  await expect(pushing).rejects.toThrow(PresenceEnded);
  expect(await bench.metadata.statBlob(blob.digest)).toBeUndefined();
});
