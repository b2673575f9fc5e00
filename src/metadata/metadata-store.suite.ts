import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { LeaseLost } from '../lib/lease.ts';
import { leaseOf, leasesSuite } from '../lib/lease.suite.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import type { Repository } from '../oci/repository.ts';
import { MIN_COUNTED_BYTES } from '../oci/counted-bytes.ts';
import type { RecordedImage } from './image-record.ts';
import { acquireImportLease } from './import-lease.ts';
import type { MetadataStore, Topic } from './metadata-store.ts';
import {
  resumeCollecting,
  stopCollecting,
  stopCollectingAfterRebuild,
  stopCollectingDuringRebuild,
} from './store-identity.ts';

/** A place where metadata is stored. Each call of `open` is another process's view of it. */
export interface MetadataPlace {
  open(): Promise<MetadataStore>;
  /** Lets a second pass, in which processes poll notifications. */
  passSecond(): Promise<void>;
  remove(): Promise<void>;
}

const NGINX: Repository = { upstream: 'docker.io', name: 'library/nginx' };
const OTHER: Repository = { upstream: 'docker.io', name: 'library/other' };
const HOSTED: Repository = { upstream: '', name: 'library/nginx' };
const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const ARTIFACT_TYPE = 'application/vnd.oci.artifact.manifest.v1+json';
const BLOB = digestOf(Buffer.from('blob'));
const ALL = { limit: 100, after: undefined };

const always = () => true;
/** A request with a credential that may also have the name `x`. */
const asked = (agoMs: number, credentialId = 'c') => ({ credentialIds: [credentialId, 'x'], agoMs });
const object = (key: string) => ({ digest: BLOB, key });
const bytesIn = (key: string) => ({ key, isSame: always, takeAway: () => {} });

/** Stores the blob in this object. */
async function putObject(store: MetadataStore, key: string, to = NGINX): Promise<boolean> {
  const lease = await leaseOf(store, `upload-${key}`);
  await store.announceObject(object(key), lease);
  return store.putBlob(BLOB, 4, to, { lease, isThere: always, key });
}

/** The hosted images whose records have to be kept. */
async function unrecordedIn(store: MetadataStore): Promise<readonly [string, Digest][]> {
  return (await store.listUnrecorded(10)).map(({ name, digest }) => [name, digest]);
}

/** Keeps their records, as upkeep does; returns these. */
async function keepRecords(store: MetadataStore): Promise<readonly unknown[]> {
  const kept = new Array<unknown>();
  for (const each of await store.listUnrecorded(10)) {
    kept.push(await store.readImageRecord(each));
    await store.noteRecorded(each);
  }
  return kept;
}

/** The contract of MetadataStore, as tests for any implementation. */
export function metadataStoreSuite(makePlace: () => Promise<MetadataPlace>): void {
  leasesSuite(async () => {
    const place = await makePlace();
    return {
      open: async () => {
        const leases = await place.open();
        return { leases, close: () => leases.close() };
      },
      remove: () => place.remove(),
    };
  });

  describe('a MetadataStore', () => {
    let place: MetadataPlace;
    let store: MetadataStore;

    beforeEach(async () => {
      place = await makePlace();
      store = await place.open();
    });

    afterEach(async () => {
      await store.close();
      await place.remove();
    });

    const addRecorded = (images: readonly RecordedImage[], completesKnown = true) =>
      store.addRecordedImages(images, { atMs: 9, completesKnown });

    test('what is unknown is undefined, false or empty', async () => {
      const digest = digestOf(Buffer.from('nothing'));
      expect(await store.readManifestBytes(digest)).toBeUndefined();
      expect(await store.readLinkedManifest(NGINX, digest)).toBeUndefined();
      expect(await store.readTag(NGINX, 'latest')).toBeUndefined();
      expect(await store.readForPull(NGINX, 'latest', { grantees: [''] })).toEqual({
        isPreloaded: false,
        grants: [],
      });
      expect(await store.statBlob(digest)).toBeUndefined();
      expect(await store.namedSize(NGINX, digest)).toBeUndefined();
      expect(await store.readReferrersList(NGINX, digest)).toBeUndefined();
      expect(await store.readUpload('1')).toBeUndefined();
      expect(await store.readSetting('key')).toBeUndefined();
      expect(await store.readGrants(NGINX)).toEqual([]);
      expect(await store.listTags(NGINX, ALL)).toEqual({ entries: [], more: false });
      expect(await store.listTagsOf(NGINX, digest, ALL)).toEqual({ entries: [], more: false });
      expect(await store.listPinsOver(NGINX, digest)).toEqual([]);
      expect(await store.hasRepository(NGINX)).toBe(false);
      expect(await store.isLinked(NGINX, digest)).toBe(false);
      expect(await store.readLease('fill-1')).toBeUndefined();
      expect(await store.unlinkManifest(NGINX, digest)).toBe(false);
      expect(await store.unlinkUnnamed(NGINX, digest)).toBe(true);
      expect(await store.unlinkBlob(NGINX, digest)).toBe(false);
      expect(await store.removeTag(NGINX, 'latest')).toBe(false);
      expect(await store.removeBlob(digest)).toBe(false);
      expect(await store.removeUpload('1')).toBe(false);
      await store.endGrant(NGINX, 'nobody');
      await store.removeRepository(NGINX);
    });

    test('a manifest is stored byte for byte, once, and belongs only where it is linked', async () => {
      const { manifest, view } = image('one');
      await store.putManifest(NGINX, manifest, view, { tag: 'latest', atMs: 5 });
      expect(await store.readManifestBytes(manifest.digest)).toEqual(manifest.bytes);
      expect(await store.readLinkedManifest(NGINX, manifest.digest)).toEqual(manifest);
      expect(await store.readLinkedManifest(OTHER, manifest.digest)).toBeUndefined();
      expect(await store.readLinkedManifest(HOSTED, manifest.digest)).toBeUndefined();
      await store.putManifest(OTHER, manifest, view, { atMs: 6 });
      expect(await store.readLinkedManifest(OTHER, manifest.digest)).toEqual(manifest);
      expect(await store.readTotals()).toMatchObject({ manifests: 1, repositories: 2 });
      expect(await store.readTag(NGINX, 'latest')).toEqual({ digest: manifest.digest, checkedAtMs: 5 });
      expect(await store.readTag(OTHER, 'latest')).toBeUndefined();
    });

    describe('of the same bytes under two media types', () => {
      const LATER_MS = Date.now() + 3_600_000;
      const one = image('one');
      const { digest, bytes } = one.manifest;
      const subject = image('subject').manifest;
      const layer = digestOrFail(one.blobs[1]);
      /** Names nothing but its subject. */
      const artifact: Manifest = { digest, bytes, mediaType: ARTIFACT_TYPE };
      const artifactView: ManifestView = {
        ...one.view,
        mediaType: ARTIFACT_TYPE,
        blobs: [],
        subject: { mediaType: MANIFEST_TYPE, digest: subject.digest, size: 1 },
        artifactType: 'sig',
      };
      const put = {
        image: (repository: Repository, tag?: string) =>
          store.putManifest(repository, one.manifest, one.view, { atMs: 1, ...(tag && { tag }) }),
        artifact: (repository: Repository, tag?: string) =>
          store.putManifest(repository, artifact, artifactView, { atMs: 1, ...(tag && { tag }) }),
      };
      const idle = [
        { repository: HOSTED, digest: layer },
        { repository: OTHER, digest: layer },
      ];

      test.each(['image', 'artifact'] as const)(
        'each repository has its own, whichever came first (%s)',
        async first => {
          await put[first](first === 'image' ? HOSTED : OTHER, 'v1');
          await put[first === 'image' ? 'artifact' : 'image'](first === 'image' ? OTHER : HOSTED, 'v1');
          expect(await store.readLinkedManifest(HOSTED, digest)).toEqual(one.manifest);
          expect((await store.readForPull(HOSTED, 'v1')).manifest).toEqual(one.manifest);
          expect(await store.readLinkedManifest(OTHER, digest)).toEqual(artifact);
          expect((await store.readForPull(OTHER, 'v1')).manifest).toEqual(artifact);
          expect(await store.namedSize(HOSTED, layer)).toBe(20);
          expect(await store.namedSize(OTHER, layer)).toBeUndefined();
          const referrers = async (repository: Repository) =>
            (await store.listReferrers(repository, subject.digest, 'sig', ALL)).entries;
          expect(await referrers(HOSTED)).toEqual([]);
          expect(await referrers(OTHER)).toMatchObject([
            { digest, mediaType: ARTIFACT_TYPE, artifactType: 'sig' },
          ]);
          expect(await store.readTotals()).toMatchObject({ manifests: 1, manifestBytes: bytes.byteLength });
        },
      );

      test('an import into one repository does not change another', async () => {
        await put.image(HOSTED, 'v1');
        const imported = { manifests: [{ manifest: artifact, view: artifactView }], blobs: [] };
        expect(await store.putContent(OTHER, imported, 5)).toEqual([]);
        expect(await store.readLinkedManifest(HOSTED, digest)).toEqual(one.manifest);
        expect(await store.readLinkedManifest(OTHER, digest)).toEqual(artifact);
      });

      test('what one needs stays, and what only the other needed is removed with it', async () => {
        await put.artifact(OTHER);
        await put.image(HOSTED);
        await store.putBlob(layer, 20, HOSTED);
        await store.linkBlob(OTHER, layer, 20);
        expect(await store.expireLinks(idle, LATER_MS)).toBe(1);
        expect(await store.isLinked(HOSTED, layer)).toBe(true);
        await store.unlinkManifest(OTHER, digest);
        expect(await store.removeUnneeded([blobOf(layer), manifestOf(one)], LATER_MS)).toEqual([]);
        await put.artifact(OTHER);
        await store.unlinkManifest(HOSTED, digest);
        expect(await store.expireLinks(idle, LATER_MS)).toBe(1);
        expect(await store.removeUnneeded([blobOf(layer), manifestOf(one)], LATER_MS)).toEqual([
          blobOf(layer),
        ]);
      });

      test('one that was unlinked long ago keeps nothing once the other is linked', async () => {
        await put.artifact(OTHER);
        await put.image(HOSTED);
        await store.unlinkManifest(OTHER, digest);
        await store.unlinkManifest(HOSTED, digest);
        await store.putBlob(layer, 20);
        await put.artifact(OTHER);
        expect(await store.removeUnneeded([blobOf(layer)], LATER_MS)).toEqual([blobOf(layer)]);
      });

      test('a newer one replaces the repository’s', async () => {
        await put.image(HOSTED, 'v1');
        await put.artifact(HOSTED);
        await store.putBlob(layer, 20, HOSTED);
        expect((await store.readForPull(HOSTED, 'v1')).manifest).toEqual(artifact);
        expect((await store.listReferrers(HOSTED, subject.digest, undefined, ALL)).entries).toHaveLength(1);
        expect(await store.readUsage('library', HOSTED)).toMatchObject({ bytes: 2 * MIN_COUNTED_BYTES });
        expect(await store.expireLinks(idle, LATER_MS)).toBe(1);
        await put.image(HOSTED);
        expect((await store.readForPull(HOSTED, 'v1')).manifest).toEqual(one.manifest);
        expect((await store.listReferrers(HOSTED, subject.digest, undefined, ALL)).entries).toEqual([]);
      });

      test('the usage tells which parts of a coming manifest are there already', async () => {
        await put.image(HOSTED, 'v1');
        const ask = (repository: Repository) =>
          store.readUsage('library', repository, { digest, tags: ['v1', 'v2', 'v2'] });
        expect(await ask(HOSTED)).toMatchObject({ isKnown: true, tags: 1, hasManifest: true, newTags: 1 });
        const elsewhere = { ...HOSTED, name: `${HOSTED.name}/elsewhere` };
        expect(await ask(elsewhere)).toMatchObject({ isKnown: false, hasManifest: false, newTags: 2 });
        await store.unlinkManifest(HOSTED, digest);
        expect(await ask(HOSTED)).toMatchObject({ tags: 0, hasManifest: false, newTags: 2 });
      });

      test('an evicted one is absent until it is stored again, even if the bytes are back', async () => {
        await put.image(NGINX);
        await put.artifact(OTHER);
        expect(await store.evict([manifestOf(one)], LATER_MS)).toEqual([manifestOf(one)]);
        await put.artifact(OTHER);
        expect(await store.readLinkedManifest(NGINX, digest)).toBeUndefined();
        expect(await store.readLinkedManifest(OTHER, digest)).toEqual(artifact);
        expect(await store.readManifestBytes(digest)).toEqual(bytes);
        await put.image(NGINX);
        expect(await store.readLinkedManifest(NGINX, digest)).toEqual(one.manifest);
        expect(await store.namedSize(NGINX, layer)).toBe(20);
      });

      test('both are damaged together, keep what they need, and are complete when anybody stores the bytes', async () => {
        await put.image(HOSTED);
        await store.putBlob(layer, 20, HOSTED);
        await put.artifact(OTHER);
        expect(await store.quarantine(manifestOf(one), 'wrong bytes')).toBe('hosted');
        expect(await store.readLinkedManifest(HOSTED, digest)).toBeUndefined();
        expect(await store.expireLinks(idle, LATER_MS)).toBe(0);
        await put.artifact(OTHER);
        expect(await store.readLinkedManifest(HOSTED, digest)).toEqual(one.manifest);
        expect(await store.expireLinks(idle, LATER_MS)).toBe(0);
        expect(await store.removeUnneeded([blobOf(layer)], LATER_MS)).toEqual([]);
      });
    });

    test('an import links all of an image or nothing, and names all of its images at once', async () => {
      const one = image('one');
      const blobs = one.view.blobs.map(({ digest, size }) => ({ digest, size }));
      const content = { manifests: [one], blobs };
      const { digest } = one.manifest;
      const missing = blobs.map(blob => blob.digest);
      expect(await store.putContent(NGINX, content, 5)).toEqual(missing);
      expect(await store.hasRepository(NGINX)).toBe(false);
      for (const blob of blobs) await store.putBlob(blob.digest, blob.size);
      expect(await store.putContent(NGINX, content, 5)).toEqual([]);
      expect(await store.readLinkedManifest(NGINX, digest)).toEqual(one.manifest);
      for (const blob of missing) expect(await store.isLinked(NGINX, blob)).toBe(true);

      await store.publish(
        [
          { repository: NGINX, digest, tag: 'v1' },
          { repository: NGINX, digest, tag: undefined },
        ],
        6,
      );
      expect(await store.readTag(NGINX, 'v1')).toEqual({ digest, checkedAtMs: 6 });
      expect(new Set(await store.listPins(NGINX))).toEqual(new Set(['v1', digest]));
    });

    test('a tag returns its manifest if that is stored and linked here', async () => {
      const { manifest, view } = image('one');
      const tag = { digest: manifest.digest, checkedAtMs: 7 };
      await store.putTag(NGINX, 'latest', tag);
      expect(await store.readForPull(NGINX, 'latest')).toEqual({ tag, isPreloaded: false, grants: [] });
      await store.putManifest(OTHER, manifest, view, { atMs: 1 });
      expect(await store.readForPull(NGINX, 'latest')).toEqual({ tag, isPreloaded: false, grants: [] });
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      expect(await store.readForPull(NGINX, 'latest')).toEqual({
        tag,
        manifest,
        isPreloaded: false,
        grants: [],
      });
    });

    test('a manifest whose bytes do not match its digest is absent from the first read on, and damage', async () => {
      const { view, manifest } = image('one');
      for (const { digest, size } of view.blobs) await store.putBlob(digest, size);
      const damaged = { ...manifest, digest: digestOf(Buffer.from('other bytes')) };
      const { digest } = damaged;
      const content = { manifests: [{ manifest: damaged, view }], blobs: [], grantee: '' };
      const tag = { digest, checkedAtMs: 1 };
      await store.putTag(NGINX, 'v1', tag);
      for (const read of [
        () => store.readManifestBytes(digest),
        () => store.readLinkedManifest(NGINX, digest),
        async () => (await store.readForPull(NGINX, 'v1')).manifest,
      ]) {
        await store.putContent(NGINX, content, 1);
        expect(await store.readDamage(digest)).toBeUndefined();
        expect(await read()).toBeUndefined();
        expect(await store.readDamage(digest)).toMatchObject({ reason: expect.stringContaining('digest') });
      }
      await store.putContent(NGINX, content, 1);
      const pull = await store.readForPull(NGINX, 'v1', { grantees: [''] });
      expect(pull).toEqual({ tag, isPreloaded: false, grants: [] });
    });

    test('a tag can be moved', async () => {
      const [first, second] = [image('one'), image('two')];
      await store.putManifest(NGINX, first.manifest, first.view, { tag: 'latest', atMs: 1 });
      await store.putManifest(NGINX, second.manifest, second.view, { tag: 'latest', atMs: 2 });
      expect((await store.readForPull(NGINX, 'latest')).manifest).toEqual(second.manifest);
      await store.putTag(NGINX, 'latest', { digest: first.manifest.digest, checkedAtMs: 3 });
      expect((await store.readForPull(NGINX, 'latest')).manifest).toEqual(first.manifest);
    });

    test('a manifest whose required content is not linked here is not written', async () => {
      const { manifest, view, blobs } = image('one');
      const required = blobs.map(({ digest, size }) => ({ digest, size }));
      const [config, layer] = blobs;
      await store.putBlob(digestOrFail(config), 10, OTHER);
      await store.putBlob(digestOrFail(layer), 20, NGINX);
      const options = { tag: 'latest', atMs: 1, required };
      expect(await store.putManifest(NGINX, manifest, view, options)).toEqual([
        { digest: config?.digest, size: 10, linkedSize: undefined },
      ]);
      expect(await store.readManifestBytes(manifest.digest)).toBeUndefined();
      expect(await store.readTag(NGINX, 'latest')).toBeUndefined();
      await store.linkBlob(NGINX, digestOrFail(config), 11);
      expect(await store.putManifest(NGINX, manifest, view, options)).toEqual([
        { digest: config?.digest, size: 10, linkedSize: 11 },
      ]);
      await store.unlinkBlob(NGINX, digestOrFail(config));
      await store.linkBlob(NGINX, digestOrFail(config), 10);
      expect(await store.putManifest(NGINX, manifest, view, options)).toEqual([]);
      expect((await store.readForPull(NGINX, 'latest')).manifest).toEqual(manifest);
    });

    test('unlinking a manifest removes its tags in that repository, and the content stays for others', async () => {
      const { manifest, view } = image('one');
      await store.putManifest(NGINX, manifest, view, { tag: 'a', atMs: 1 });
      await store.putManifest(NGINX, manifest, view, { tag: 'b', atMs: 1 });
      await store.putManifest(OTHER, manifest, view, { tag: 'a', atMs: 1 });
      expect(await store.unlinkManifest(NGINX, manifest.digest)).toBe(true);
      expect(await store.readLinkedManifest(NGINX, manifest.digest)).toBeUndefined();
      expect(await store.listTags(NGINX, ALL)).toEqual({ entries: [], more: false });
      expect((await store.readForPull(OTHER, 'a')).manifest).toEqual(manifest);
    });

    test('a manifest is unlinked as unnamed only if no tag, pin or manifest of its repository names it', async () => {
      const [one, two] = [image('one'), image('two')];
      const { digest } = one.manifest;
      const index: ManifestView = {
        ...two.view,
        kind: 'index',
        blobs: [],
        manifests: [{ mediaType: MANIFEST_TYPE, digest, size: 1 }],
      };
      for (const repository of [NGINX, OTHER]) {
        await store.putManifest(repository, one.manifest, one.view, { tag: 'v1', atMs: 1 });
      }
      await store.putManifest(NGINX, two.manifest, index, { tag: 'all', atMs: 1 });
      await store.putPin(NGINX, digest);
      expect(await store.unlinkUnnamed(NGINX, digest)).toBe(false);
      await store.removeTag(NGINX, 'v1');
      expect(await store.unlinkUnnamed(NGINX, digest)).toBe(false);
      await store.removePin(NGINX, digest);
      expect(await store.unlinkUnnamed(NGINX, digest)).toBe(false);
      await store.unlinkManifest(NGINX, two.manifest.digest);
      await store.putTag(OTHER, 'v2', { digest, checkedAtMs: 1 });
      await store.linkBlob(NGINX, BLOB, 4);
      expect(await store.isLinked(NGINX, digest)).toBe(true);
      expect(await store.unlinkUnnamed(NGINX, digest)).toBe(true);
      expect(await store.isLinked(NGINX, digest)).toBe(false);
      expect(await store.readLinkedManifest(OTHER, digest)).toEqual(one.manifest);
    });

    test('the tags of a digest are those of one repository, paged in ASCII order', async () => {
      const [digest, another] = [digestOf(Buffer.from('x')), digestOf(Buffer.from('y'))];
      for (const tag of ['v1', 'latest', 'v2']) await store.putTag(NGINX, tag, { digest, checkedAtMs: 1 });
      await store.putTag(NGINX, 'other', { digest: another, checkedAtMs: 1 });
      await store.putTag(OTHER, 'v3', { digest, checkedAtMs: 1 });
      const first = await store.listTagsOf(NGINX, digest, { limit: 2, after: undefined });
      expect(first).toEqual({ entries: ['latest', 'v1'], more: true });
      const rest = await store.listTagsOf(NGINX, digest, { limit: 2, after: 'v1' });
      expect(rest).toEqual({ entries: ['v2'], more: false });
    });

    test('a manifest that names a blob gives its size and proves nothing', async () => {
      const { manifest, view, blobs } = image('one');
      const layer = digestOrFail(blobs[1]);
      await store.putBlob(layer, 20);
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      expect(await store.isLinked(NGINX, layer)).toBe(false);
      expect(await store.namedSize(NGINX, layer)).toBe(20);
      expect(await store.namedSize(OTHER, layer)).toBeUndefined();
      expect(await store.namedSize(NGINX, manifest.digest)).toBe(manifest.bytes.byteLength);
      expect(await store.listNamings(layer)).toEqual([{ repository: NGINX, size: 20 }]);
      await store.unlinkManifest(NGINX, manifest.digest);
      expect(await store.namedSize(NGINX, layer)).toBeUndefined();
      expect(await store.listNamings(layer)).toEqual([]);
    });

    test('a manifest that names a blob many times hides no older one that names it', async () => {
      const { manifest, view, blobs } = image('one');
      const layer = digestOrFail(blobs[1]);
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      const newer = image('newer');
      const repeated = Array.from({ length: 300 }, () => ({ ...blobs[1]!, size: 21 }));
      await store.putManifest(OTHER, newer.manifest, { ...newer.view, blobs: repeated }, { atMs: 1 });
      expect(await store.namedSize(NGINX, layer)).toBe(20);
      expect(await store.namedSize(OTHER, layer)).toBe(21);
      expect(await store.listNamings(layer)).toEqual([
        { repository: OTHER, size: 21 },
        { repository: NGINX, size: 20 },
      ]);
    });

    test('a Link alone does not count as being named by a manifest', async () => {
      const { manifest, view, blobs } = image('one');
      const layer = digestOrFail(blobs[1]);
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      await store.linkBlob(OTHER, layer, 20);
      expect(await store.isNamed(NGINX, layer)).toBe(true);
      expect(await store.isNamed(OTHER, layer)).toBe(false);
      await store.unlinkManifest(NGINX, manifest.digest);
      expect(await store.isNamed(NGINX, layer)).toBe(false);
    });

    test('a Link says where content belongs, whether it is stored or not', async () => {
      const digest = digestOf(Buffer.from('blob'));
      await store.linkBlob(NGINX, digest, 4);
      expect(await store.isLinked(NGINX, digest)).toBe(true);
      expect(await store.namedSize(NGINX, digest)).toBe(4);
      expect(await store.statBlob(digest)).toBeUndefined();
      await store.putBlob(digest, 4);
      expect(await store.statBlob(digest)).toEqual({ size: 4 });
      expect(await store.isLinked(OTHER, digest)).toBe(false);
      expect(await store.removeBlob(digest)).toBe(true);
      expect(await store.isLinked(NGINX, digest)).toBe(true);
      expect(await store.unlinkBlob(NGINX, digest)).toBe(true);
      expect(await store.isLinked(NGINX, digest)).toBe(false);
    });

    test('a blob that is stored again has its new size', async () => {
      const digest = digestOf(Buffer.from('blob'));
      await store.putBlob(digest, 3, NGINX);
      await store.putBlob(digest, 4, NGINX);
      expect(await store.statBlob(digest)).toEqual({ size: 4 });
      expect(await store.readTotals()).toMatchObject({ blobs: 1, blobBytes: 4 });
    });

    test('a Link that is written again has its new size, and counts with it', async () => {
      const size = MIN_COUNTED_BYTES + 1;
      await store.linkBlob(HOSTED, BLOB, 3);
      await store.putBlob(BLOB, size, HOSTED);
      expect(await store.namedSize(HOSTED, BLOB)).toBe(size);
      expect(await store.readBlobForPull(HOSTED, BLOB)).toMatchObject({ linkedSize: size, storedSize: size });
      expect(await store.readUsage('library', HOSTED)).toMatchObject({ bytes: size });
      await store.unlinkBlob(HOSTED, BLOB);
      expect(await store.readUsage('library', HOSTED)).toMatchObject({ bytes: 0, uncollectedBytes: size });
    });

    test('the same digest can be linked as blob and as manifest, independently', async () => {
      const { manifest, view } = image('one');
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      await store.linkBlob(NGINX, manifest.digest, manifest.bytes.byteLength);
      await store.unlinkManifest(NGINX, manifest.digest);
      expect(await store.isLinked(NGINX, manifest.digest)).toBe(true);
      expect(await store.readLinkedManifest(NGINX, manifest.digest)).toBeUndefined();
    });

    test('tags and repositories are paged in ASCII order', async () => {
      const digest = digestOf(Buffer.from('x'));
      for (const tag of ['b', 'B', 'a', '1', '_', 'a-1', 'a.1']) {
        await store.putTag(NGINX, tag, { digest, checkedAtMs: 1 });
      }
      const ordered = ['1', 'B', '_', 'a', 'a-1', 'a.1', 'b'];
      expect(await store.listTags(NGINX, ALL)).toEqual({ entries: ordered, more: false });
      expect(await store.listTags(NGINX, { limit: 3, after: undefined })).toEqual({
        entries: ['1', 'B', '_'],
        more: true,
      });
      expect(await store.listTags(NGINX, { limit: 3, after: '_' })).toEqual({
        entries: ['a', 'a-1', 'a.1'],
        more: true,
      });
      expect(await store.listTags(NGINX, { limit: 3, after: 'a.0' })).toEqual({
        entries: ['a.1', 'b'],
        more: false,
      });
      expect(await store.listTags(NGINX, { limit: 0, after: undefined })).toEqual({
        entries: [],
        more: true,
      });
      expect((await store.listTags(NGINX, { limit: 1e9, after: undefined })).entries).toEqual(ordered);
      for (const name of ['b', 'a/b', 'a-b', 'a']) {
        await store.putTag({ upstream: 'quay.io', name }, 'v1', { digest, checkedAtMs: 1 });
      }
      const page = await store.listRepositories('quay.io', { limit: 3, after: undefined });
      expect(page).toEqual({ entries: ['a', 'a-b', 'a/b'], more: true });
      expect(await store.listRepositories('quay.io', { limit: 3, after: 'a/b' })).toEqual({
        entries: ['b'],
        more: false,
      });
      expect(await store.listRepositories('', ALL)).toEqual({ entries: [], more: false });
    });

    test('a repository exists from its first link or tag to its last', async () => {
      const digest = digestOf(Buffer.from('x'));
      await store.putGrant(NGINX, { credentialId: 'c', verifiedAtMs: 1 });
      expect(await store.hasRepository(NGINX)).toBe(false);
      expect(await store.listRepositories('docker.io', ALL)).toEqual({ entries: [], more: false });
      await store.putTag(NGINX, 'a', { digest, checkedAtMs: 1 });
      await store.linkBlob(NGINX, digest, 1);
      expect(await store.readGrants(NGINX)).toHaveLength(1);
      expect(await store.removeTag(NGINX, 'a')).toBe(true);
      expect(await store.hasRepository(NGINX)).toBe(true);
      expect(await store.unlinkBlob(NGINX, digest)).toBe(true);
      expect(await store.hasRepository(NGINX)).toBe(false);
      expect(await store.readTotals()).toMatchObject({ repositories: 0 });
      await store.linkBlob(NGINX, digest, 1);
      expect(await store.readGrants(NGINX)).toEqual([]);
    });

    test('content smaller than a block counts for its owner as a block, linked or not collected yet', async () => {
      const used = async () => {
        const { bytes, uncollectedBytes } = await store.readUsage('library', HOSTED);
        return [bytes, uncollectedBytes];
      };
      const one = image('one');
      const [large, bytes] = [digestOf(Buffer.from('large')), MIN_COUNTED_BYTES + 1];
      await store.putBlob(BLOB, 3, HOSTED);
      expect(await used()).toEqual([MIN_COUNTED_BYTES, 0]);
      await store.putManifest(HOSTED, one.manifest, one.view, { atMs: 1 });
      expect(await used()).toEqual([2 * MIN_COUNTED_BYTES, 0]);
      await store.putBlob(large, bytes, HOSTED);
      expect(await used()).toEqual([2 * MIN_COUNTED_BYTES + bytes, 0]);
      await store.linkBlob({ ...HOSTED, name: 'other' }, BLOB, 3);
      await store.linkBlob({ ...HOSTED, name: 'unasked' }, BLOB, 3);
      expect(await store.readOwnerBytes(['library', 'other', 'nobody'])).toEqual(
        new Map([
          ['library', { bytes: 2 * MIN_COUNTED_BYTES + bytes, uncollectedBytes: 0 }],
          ['other', { bytes: MIN_COUNTED_BYTES, uncollectedBytes: 0 }],
        ]),
      );
      await store.unlinkBlob({ ...HOSTED, name: 'unasked' }, BLOB);
      await store.unlinkBlob({ ...HOSTED, name: 'other' }, BLOB);
      await store.linkBlob({ ...HOSTED, name: 'library/second' }, BLOB, 3);
      expect(await used()).toEqual([3 * MIN_COUNTED_BYTES + bytes, 0]);
      await store.unlinkBlob({ ...HOSTED, name: 'library/second' }, BLOB);
      await store.unlinkBlob(HOSTED, BLOB);
      await store.unlinkManifest(HOSTED, one.manifest.digest);
      await store.unlinkBlob(HOSTED, large);
      expect(await used()).toEqual([0, 2 * MIN_COUNTED_BYTES + bytes]);
      const contents = [blobOf(BLOB), blobOf(large), manifestOf(one)];
      await store.removeUnneeded(contents, Number.MAX_SAFE_INTEGER);
      expect(await used()).toEqual([0, 0]);
      expect(await store.readOwnerBytes(['library', 'other'])).toEqual(new Map());
    });

    test('content of a removed repository counts for its owner until it is collected', async () => {
      const { manifest, view } = image('one');
      const second = { ...HOSTED, name: 'library/second' };
      for (const repository of [HOSTED, second]) await store.putBlob(BLOB, 3, repository);
      await store.putManifest(second, manifest, view, { tag: 'v1', atMs: 1 });
      const used = () => store.readUsage('library', HOSTED);
      await store.removeRepository(second);
      await expect.poll(used).toMatchObject({ repositories: 1, uncollectedBytes: MIN_COUNTED_BYTES });
      await store.removeRepository(HOSTED);
      await expect.poll(used).toMatchObject({
        repositories: 0,
        bytes: 0,
        uncollectedBytes: 2 * MIN_COUNTED_BYTES,
      });
      await store.removeUnneeded([blobOf(BLOB), manifestOf({ manifest })], Number.MAX_SAFE_INTEGER);
      expect(await used()).toMatchObject({ uncollectedBytes: 0 });
    });

    test('a repository is known, and its owner’s, from the first thing that is recorded in it', async () => {
      await store.putPin(HOSTED, 'v1');
      expect(await store.hasRepository(HOSTED)).toBe(false);
      expect(await store.readUsage('library', HOSTED)).toMatchObject({ isKnown: true, repositories: 1 });
      await store.putTag(HOSTED, 'v1', { digest: BLOB, checkedAtMs: 1 });
      await store.removeTag(HOSTED, 'v1');
      expect(await store.readUsage('library', HOSTED)).toMatchObject({ isKnown: false, repositories: 0 });
      expect(await store.listPins(HOSTED)).toEqual([]);
    });

    test('a repository that was removed starts again empty', async () => {
      const { manifest, view } = image('one');
      await Promise.all(
        Array.from({ length: 50 }, (_, index) =>
          store.putManifest(NGINX, manifest, view, { tag: `v${index}`, atMs: 1 }),
        ),
      );
      await store.putGrant(NGINX, { credentialId: 'c', verifiedAtMs: 1 });
      await store.removeRepository(NGINX);
      expect(await store.hasRepository(NGINX)).toBe(false);
      expect(await store.readTag(NGINX, 'v1')).toBeUndefined();
      expect(await store.readTotals()).toMatchObject({ repositories: 0 });
      await store.putTag(NGINX, 'v1', { digest: manifest.digest, checkedAtMs: 9 });
      expect(await store.readForPull(NGINX, 'v1')).toMatchObject({
        tag: { checkedAtMs: 9 },
        manifest: undefined,
      });
      expect((await store.listTags(NGINX, ALL)).entries).toEqual(['v1']);
      expect(await store.readGrants(NGINX)).toEqual([]);
    });

    test('pins are tags and digests of one repository, and are removed with it', async () => {
      const digest = digestOf(Buffer.from('x'));
      await store.putTag(NGINX, 'latest', { digest, checkedAtMs: 1 });
      await store.putPin(NGINX, 'latest');
      await store.putPin(NGINX, digest);
      await store.putPin(NGINX, 'latest');
      expect(await store.listPins(NGINX)).toEqual(['latest', digest]);
      expect(await store.listPins(OTHER)).toEqual([]);
      expect(await store.removePin(NGINX, 'latest')).toBe(true);
      expect(await store.removePin(NGINX, 'latest')).toBe(false);
      expect(await store.removePin(OTHER, 'latest')).toBe(false);
      expect(await store.listPins(NGINX)).toEqual([digest]);
      await store.removeRepository(NGINX);
      expect(await store.listPins(NGINX)).toEqual([]);
    });

    test('the pins over content are those of its repository on it or on what names it there', async () => {
      const [one, two] = [image('one'), image('two')];
      const { digest } = one.manifest;
      const children = [{ mediaType: MANIFEST_TYPE, digest, size: 1 }];
      const index: ManifestView = { ...two.view, kind: 'index', blobs: [], manifests: children };
      for (const repository of [NGINX, OTHER]) {
        await store.putManifest(repository, one.manifest, one.view, { tag: 'v1', atMs: 1 });
      }
      await store.putManifest(NGINX, two.manifest, index, { tag: 'all', atMs: 1 });
      for (const pin of ['all', 'other', two.manifest.digest]) await store.putPin(NGINX, pin);
      await store.putPin(OTHER, 'v1');
      const layer = digestOrFail(one.blobs[1]);
      for (const under of [layer, digest, two.manifest.digest]) {
        expect(await store.listPinsOver(NGINX, under)).toEqual(['all', two.manifest.digest]);
      }
      expect(await store.listPinsOver(OTHER, layer)).toEqual(['v1']);
      expect(await store.listPinsOver(OTHER, two.manifest.digest)).toEqual([]);
    });

    describe('upkeep', () => {
      const LATER_MS = Date.now() + 3_600_000;
      const blob = digestOf(Buffer.from('blob'));

      test('what is linked, named or new is needed, and nothing else', async () => {
        const one = image('one');
        const layer = digestOrFail(one.blobs[1]);
        await store.putBlob(blob, 4, HOSTED);
        await store.putBlob(layer, 20);
        await store.putManifest(NGINX, one.manifest, one.view, { atMs: 1 });
        const all = [blobOf(blob), blobOf(layer), manifestOf(one)];
        expect(await store.removeUnneeded(all, LATER_MS)).toEqual([]);
        await store.unlinkBlob(HOSTED, blob);
        expect(await store.removeUnneeded(all, Date.now() - 1000)).toEqual([]);
        expect(await store.removeUnneeded(all, LATER_MS)).toEqual([blobOf(blob)]);
        await store.unlinkManifest(NGINX, one.manifest.digest);
        expect(await store.removeUnneeded(all, LATER_MS)).toEqual([manifestOf(one)]);
        expect(await store.removeUnneeded(all, LATER_MS)).toEqual([blobOf(layer)]);
        expect(await store.readTotals()).toMatchObject({ blobs: 0, manifests: 0 });
      });

      test('the Links that an eviction left keep nothing that came back through another repository', async () => {
        const one = image('one');
        const [config, layer] = one.blobs.map(digestOrFail);
        const all = [manifestOf(one), blobOf(config!), blobOf(layer!)];
        const putAll = async (repository: Repository) => {
          for (const each of [config!, layer!]) await store.putBlob(each, 20, repository);
          await store.putManifest(repository, one.manifest, one.view, { atMs: 1 });
        };
        await putAll(NGINX);
        expect(await store.evict(all, LATER_MS)).toHaveLength(3);
        await putAll(HOSTED);
        await store.unlinkManifest(HOSTED, one.manifest.digest);
        for (const each of [config!, layer!]) await store.unlinkBlob(HOSTED, each);
        expect(await store.removeUnneeded(all, Date.now() - 1000)).toEqual([manifestOf(one)]);
        expect(await store.removeUnneeded(all, LATER_MS)).toEqual(all.slice(1));
        expect(await store.isLinked(NGINX, layer!)).toBe(true);
      });

      test('an unlinked manifest is kept while it is new, since an index may come to name it', async () => {
        const young = image('young');
        await store.putManifest(NGINX, young.manifest, young.view, { atMs: Date.now() });
        await store.unlinkManifest(NGINX, young.manifest.digest);
        expect(await store.removeUnneeded([manifestOf(young)], Date.now() - 1000)).toEqual([]);
        expect(await store.removeUnneeded([manifestOf(young)], LATER_MS)).toEqual([manifestOf(young)]);
      });

      test('content of a removed repository is not linked any more', async () => {
        await store.putBlob(blob, 4, NGINX);
        await store.removeRepository(NGINX);
        expect(await store.removeUnneeded([blobOf(blob)], LATER_MS)).toEqual([blobOf(blob)]);
      });

      test('a blob that is being downloaded is not removed', async () => {
        await store.putBlob(blob, 4);
        const filling = await leaseOf(store, `fill-0123-${blob.replace(':', '-')}`);
        expect(await store.removeUnneeded([blobOf(blob)], LATER_MS)).toEqual([]);
        expect(await store.ifStray([blob], () => {})).toEqual([]);
        await store.linkBlob(NGINX, blob, 4);
        expect(await store.evict([blobOf(blob)], LATER_MS)).toEqual([]);
        await store.unlinkBlob(NGINX, blob);
        await store.release(filling);
        expect(await store.removeUnneeded([blobOf(blob)], LATER_MS)).toEqual([blobOf(blob)]);
        expect(await store.ifStray([blob], () => {})).toEqual([blob]);
      });

      test('content without a Link is removed at once if asked to, but not a Link', async () => {
        const [one, linked] = [image('one'), digestOrFail(image('two').blobs[1])];
        const layer = digestOrFail(one.blobs[1]);
        await store.putBlob(layer, 20);
        await store.putBlob(linked, 20, NGINX);
        await store.putManifest(HOSTED, one.manifest, one.view, { atMs: 1 });
        const all = [manifestOf(one), blobOf(layer), blobOf(linked)];
        expect(await store.removeUnlinked(all, LATER_MS)).toEqual([]);
        await store.unlinkManifest(HOSTED, one.manifest.digest);
        const filling = await leaseOf(store, `fill-0123-${layer.replace(':', '-')}`);
        expect(await store.removeUnlinked(all, LATER_MS)).toEqual([manifestOf(one)]);
        await store.release(filling);
        expect(await store.removeUnlinked(all, LATER_MS)).toEqual([blobOf(layer)]);
      });

      test('while an import runs, what was stored or used since it began stays', async () => {
        const [old, found, stored] = ['old', 'found', 'stored'].map(name => digestOf(Buffer.from(name)));
        const all = [blobOf(old!), blobOf(found!), blobOf(stored!)];
        // A use within a second of another may not be recorded.
        vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 10_000 });
        await store.putBlob(old!, 4);
        await store.putBlob(found!, 4);
        vi.useRealTimers();
        const importing = await acquireImportLease(store);
        const shorter = await acquireImportLease(store);
        expect(importing.key).not.toBe(shorter.key);
        await store.putUse(found!);
        await store.putBlob(stored!, 4);
        await store.release(shorter);
        await store.putSetting(shorter.key, '1');
        const since = await store.importingSinceMs();
        expect(since).toBeLessThan(Date.now());
        expect(await store.removeUnlinked(all, LATER_MS)).toEqual([blobOf(old!)]);
        expect(await store.removeUnneeded(all, LATER_MS)).toEqual([]);
        await store.release(importing);
        expect(await store.importingSinceMs()).toBeGreaterThan(LATER_MS);
        expect(await store.removeUnneeded(all, LATER_MS)).toEqual(all.slice(1));
      });

      test('if the clock was set back since an import began, all content may be what it needs', async () => {
        await store.putBlob(blob, 4);
        const importing = await acquireImportLease(store);
        await store.putSetting(importing.key, String(Date.now() + 3_600_000));
        expect(await store.removeUnlinked([blobOf(blob)], LATER_MS)).toEqual([]);
        await store.release(importing);
        expect(await store.removeUnlinked([blobOf(blob)], LATER_MS)).toEqual([blobOf(blob)]);
      });

      test('while an import runs, what it has imported is not evicted', async () => {
        const one = image('one');
        const [config, layer] = one.blobs.map(digestOrFail);
        const all = [manifestOf(one), blobOf(config!), blobOf(layer!)];
        for (const digest of [config!, layer!]) await store.putBlob(digest, 20);
        await store.putBlob(blob, 4, NGINX);
        const importing = await acquireImportLease(store);
        const blobs = [config!, layer!].map(digest => ({ digest, size: 20 }));
        const content = { manifests: [{ manifest: one.manifest, view: one.view }], blobs, grantee: '' };
        await store.putContent(NGINX, content, Date.now());
        expect(await store.evict([...all, blobOf(blob)], LATER_MS)).toEqual([blobOf(blob)]);
        await store.release(importing);
        expect(await store.evict(all, LATER_MS)).toEqual(all);
      });

      test('the bytes of a blob that is being imported are no stray', async () => {
        const storing = await leaseOf(store, `import-${blob.replace(':', '-')}`);
        expect(await store.ifStray([blob], () => {})).toEqual([]);
        await store.release(storing);
        expect(await store.ifStray([blob], () => {})).toEqual([blob]);
      });

      test('a Link is kept by a manifest of its repository, a pin, or its age', async () => {
        const one = image('one');
        const layer = digestOrFail(one.blobs[1]);
        await store.putBlob(layer, 20, HOSTED);
        await store.linkBlob(OTHER, layer, 20);
        await store.putBlob(blob, 4, HOSTED);
        await store.putPin(HOSTED, blob);
        await store.putManifest(HOSTED, one.manifest, one.view, { atMs: 1 });
        const links = [
          { repository: HOSTED, digest: layer },
          { repository: OTHER, digest: layer },
          { repository: HOSTED, digest: blob },
        ];
        expect(await store.expireLinks(links, Date.now() - 1000)).toBe(0);
        expect(await store.expireLinks(links, LATER_MS)).toBe(1);
        expect(await store.isLinked(OTHER, layer)).toBe(false);
        await store.unlinkManifest(HOSTED, one.manifest.digest);
        await store.removePin(HOSTED, blob);
        expect(await store.expireLinks(links, LATER_MS)).toBe(2);
      });

      test('a Link is set back, but never forward', async () => {
        const links = [{ repository: HOSTED, digest: blob }];
        await store.linkBlob(HOSTED, blob, 4);
        await store.lowerLinks(links, 10);
        await store.lowerLinks(links, 20);
        expect(await store.expireLinks(links, 10)).toBe(0);
        expect(await store.expireLinks(links, 11)).toBe(1);
      });

      test('a Link that is written again counts as new', async () => {
        const madeAgain = { repository: HOSTED, digest: blob };
        await store.linkBlob(HOSTED, blob, 4);
        const betweenMs = Date.now() + 1;
        while (Date.now() <= betweenMs) {
          await new Promise(resolve => setTimeout(resolve, 1));
        }
        await store.linkBlob(HOSTED, blob, 4);
        expect(await store.expireLinks([madeAgain], betweenMs)).toBe(0);
      });

      test('only mirrored content is evicted, its Links stay, and a pin protects everything below it', async () => {
        const one = image('one');
        const [config, layer] = one.blobs.map(({ digest }) => digest);
        if (config === undefined || layer === undefined) {
          throw new Error('the image has too few blobs');
        }
        await store.putBlob(config, 10, NGINX);
        await store.putBlob(layer, 20, NGINX);
        await store.putBlob(blob, 4);
        await store.putManifest(NGINX, one.manifest, one.view, { tag: 'latest', atMs: 1 });
        const all = [blobOf(config), blobOf(layer), blobOf(blob), manifestOf(one)];
        await store.putPin(NGINX, 'latest');
        expect(await store.evict(all, LATER_MS)).toEqual([]);
        await store.removePin(NGINX, 'latest');
        await store.linkBlob(HOSTED, layer, 20);
        expect(await store.evict(all, Date.now() - 1000)).toEqual([manifestOf(one)]);
        expect(await store.evict(all, LATER_MS)).toEqual([blobOf(config)]);
        expect(await store.isLinked(NGINX, config)).toBe(true);
        expect(await store.readForPull(NGINX, 'latest')).toMatchObject({ manifest: undefined });
      });

      test('damaged content is absent until it is stored again', async () => {
        await store.putBlob(blob, 4, NGINX);
        expect(await store.quarantine(blobOf(blob), 'wrong bytes')).toBe('mirrored');
        expect(await store.quarantine(blobOf(blob), 'wrong bytes')).toBeUndefined();
        expect(await store.statBlob(blob)).toBeUndefined();
        expect(await store.readDamage(blob)).toMatchObject({ reason: 'wrong bytes' });
        expect([await store.countDamaged(), await store.ifStray([blob], () => {})]).toEqual([1, []]);
        await store.putBlob(blob, 4, HOSTED);
        expect([await store.readDamage(blob), await store.countDamaged()]).toEqual([undefined, 0]);
        expect(await store.quarantine(blobOf(blob), 'gone')).toBe('hosted');
        await store.endDamage(blob);
        expect(await store.readDamage(blob)).toBeUndefined();
      });

      test('damaged bytes are taken away only if they are the same, and can be downloaded again', async () => {
        const taken: string[] = [];
        const bytes = (isSame: boolean) => ({ isSame: () => isSame, takeAway: () => taken.push('taken') });
        await store.putBlob(blob, 4, NGINX);
        expect(await store.quarantine(blobOf(blob), 'wrong bytes', bytes(false))).toBeUndefined();
        expect(await store.statBlob(blob)).toEqual({ size: 4 });
        expect(await store.quarantine(blobOf(blob), 'wrong bytes', bytes(true))).toBe('mirrored');
        expect(taken).toEqual(['taken']);
        expect(await store.quarantine(blobOf(blob), 'wrong bytes', bytes(true))).toBeUndefined();
        await store.putBlob(blob, 4, HOSTED);
        expect(await store.quarantine(blobOf(blob), 'wrong bytes', bytes(true))).toBe('hosted');
        expect(taken).toEqual(['taken']);
      });

      test('what is below a pinned index, however deep, is never evicted', async () => {
        const [one, inner, outer] = ['one', 'inner', 'outer'].map(name => image(name));
        const listing = (child: Manifest, { view }: typeof one & object): ManifestView => ({
          ...view,
          kind: 'index',
          blobs: [],
          manifests: [{ mediaType: MANIFEST_TYPE, digest: child.digest, size: 1 }],
        });
        const layer = digestOrFail(one!.blobs[1]);
        await store.putBlob(layer, 20, NGINX);
        await store.putManifest(NGINX, one!.manifest, one!.view, { atMs: 1 });
        await store.putManifest(NGINX, inner!.manifest, listing(one!.manifest, inner!), { atMs: 1 });
        await store.putManifest(NGINX, outer!.manifest, listing(inner!.manifest, outer!), { atMs: 1 });
        const all = [blobOf(layer), manifestOf(one!), manifestOf(inner!)];
        await store.putPin(NGINX, outer!.manifest.digest);
        expect(await store.evict(all, LATER_MS)).toEqual([]);
        await store.removePin(NGINX, outer!.manifest.digest);
        await store.putPin(NGINX, inner!.manifest.digest);
        await store.unlinkManifest(NGINX, outer!.manifest.digest);
        expect(await store.evict(all, LATER_MS)).toEqual([]);
        await store.removePin(NGINX, inner!.manifest.digest);
        expect(await store.evict(all, LATER_MS)).toEqual(all);
      });

      test('a setting replaces its former value', async () => {
        await store.putSetting('scrub', 'a');
        await store.putSetting('scrub', 'b');
        expect(await store.readSetting('scrub')).toBe('b');
      });
    });

    test('some Grants can be read without the others', async () => {
      const grant = { credentialId: 'c', verifiedAtMs: 1 };
      await store.putGrant(NGINX, grant);
      await store.putGrant(NGINX, { credentialId: 'd', verifiedAtMs: 2 });
      expect(await store.readGrants(NGINX, ['c', 'e'])).toEqual([grant]);
      expect(await store.readGrants(NGINX, [])).toEqual([]);
      expect(await store.readGrants(OTHER, ['c'])).toEqual([]);
    });

    test('imported content is preloaded for its grantee, in its repository and as long as it is linked', async () => {
      const [one, two] = [image('one'), image('two')];
      for (const { view } of [one, two]) {
        for (const { digest, size } of view.blobs) await store.putBlob(digest, size);
      }
      const content = (of: typeof one) => ({ manifests: [of], blobs: of.view.blobs });
      await store.putContent(NGINX, { ...content(one), grantee: '' }, 5);
      await store.putContent(NGINX, { ...content(two), grantee: 'tenant:a' }, 6);
      await store.putContent(OTHER, content(one), 7);
      const { digest } = one.manifest;
      const layer = one.view.blobs[1]!.digest;
      for (const each of [digest, layer]) {
        expect(await store.isPreloaded(NGINX, each, ['tenant:a', ''])).toBe(true);
        expect(await store.isPreloaded(NGINX, each, ['tenant:a'])).toBe(false);
        expect(await store.isPreloaded(NGINX, each, [])).toBe(false);
        expect(await store.isPreloaded(OTHER, each, [''])).toBe(false);
      }
      expect(await store.listPreloads(NGINX)).toEqual([
        { grantee: '', atMs: 5 },
        { grantee: 'tenant:a', atMs: 6 },
      ]);

      await store.putTag(NGINX, 'v1', { digest, checkedAtMs: 1 });
      await store.putTag(NGINX, 'v2', { digest: two.manifest.digest, checkedAtMs: 1 });
      expect((await store.listTags(NGINX, ALL, [''])).entries).toEqual(['v1']);
      expect((await store.listTags(NGINX, ALL, ['', 'tenant:a'])).entries).toEqual(['v1', 'v2']);
      expect((await store.listTags(NGINX, ALL, [])).entries).toEqual([]);

      await store.unlinkManifest(NGINX, digest);
      await store.putManifest(NGINX, one.manifest, one.view, { atMs: 8 });
      expect(await store.isPreloaded(NGINX, digest, [''])).toBe(false);
      expect(await store.isPreloaded(NGINX, layer, [''])).toBe(true);
      await store.endPreloadsOf('tenant:a');
      expect(await store.isPreloaded(NGINX, two.manifest.digest, ['', 'tenant:a'])).toBe(false);
      expect(await store.isPreloaded(NGINX, layer, [''])).toBe(true);
      await store.removeRepository(NGINX);
      await store.linkBlob(NGINX, layer, 1);
      expect(await store.isPreloaded(NGINX, layer, [''])).toBe(false);
    });

    test('all that a pull needs to know is one question for a manifest, and one for a blob', async () => {
      const [imported, pulled] = [image('one'), image('two')];
      for (const { digest, size } of imported.blobs) await store.putBlob(digest, size);
      await store.putContent(NGINX, { manifests: [imported], blobs: imported.blobs, grantee: 'tenant:a' }, 1);
      await store.putManifest(NGINX, pulled.manifest, pulled.view, { tag: 'pulled', atMs: 2 });
      const tag = { digest: imported.manifest.digest, checkedAtMs: 3 };
      await store.putTag(NGINX, 'imported', tag);
      const { manifest } = imported;
      const forA = { grantees: ['', 'tenant:a'] };
      const none = { grants: [], isPreloaded: false };
      expect(await store.readForPull(NGINX, 'imported', forA)).toEqual({
        ...none,
        tag,
        manifest,
        isPreloaded: true,
      });
      const byDigest = { ...none, manifest, isPreloaded: true };
      expect(await store.readForPull(NGINX, manifest.digest, forA)).toEqual(byDigest);
      const forAll = { grantees: [''] };
      expect(await store.readForPull(NGINX, 'imported', forAll)).toEqual({ ...none, tag, manifest });
      const other = { manifest: pulled.manifest, isPreloaded: false };
      expect(await store.readForPull(NGINX, 'pulled', forA)).toMatchObject(other);
      expect(await store.readForPull(OTHER, manifest.digest, forA)).toEqual(none);

      const layer = digestOrFail(imported.blobs[1]);
      const size = imported.blobs[1]?.size;
      const sizes = { linkedSize: size, storedSize: size };
      expect(await store.readBlobForPull(NGINX, layer, forA)).toEqual({
        ...none,
        ...sizes,
        isPreloaded: true,
      });
      expect(await store.readBlobForPull(OTHER, layer, forA)).toEqual({ ...none, storedSize: size });

      const grant = { credentialId: 'c', verifiedAtMs: 4 };
      await store.putGrant(NGINX, grant);
      await store.putGrant(NGINX, { ...grant, credentialId: 'd' });
      const withGrants = { ...forA, credentialIds: ['c', 'e'] };
      const decided = { grants: [grant], isPreloaded: false };
      expect(await store.readForPull(NGINX, 'imported', withGrants)).toEqual({ ...decided, tag, manifest });
      expect(await store.readBlobForPull(NGINX, layer, withGrants)).toEqual({ ...decided, ...sizes });
      const withNone = { ...forA, credentialIds: ['e'] };
      expect(await store.readForPull(NGINX, 'imported', withNone)).toMatchObject({
        ...none,
        isPreloaded: true,
      });

      await store.removeBlob(layer);
      expect(await store.readBlobForPull(NGINX, layer)).toEqual({ ...none, linkedSize: size });
      const linkedSize = manifest.bytes.byteLength;
      expect(await store.readBlobForPull(NGINX, manifest.digest)).toEqual({ ...none, linkedSize });
    });

    test('a requester with imports only sees the referrers that were imported for it', async () => {
      const subject = image('subject');
      const [imported, pulled] = ['a', 'b'].map(name => image(name, subject.manifest, 'sig'));
      for (const { digest, size } of imported!.view.blobs) await store.putBlob(digest, size);
      await store.putContent(NGINX, { manifests: [imported!], blobs: imported!.view.blobs, grantee: '' }, 1);
      await store.putManifest(NGINX, pulled!.manifest, pulled!.view, { atMs: 1 });
      const digests = async (...grantees: readonly (readonly string[])[]) =>
        (await store.listReferrers(NGINX, subject.manifest.digest, undefined, ALL, ...grantees)).entries.map(
          ({ digest }) => digest,
        );
      expect(await digests()).toHaveLength(2);
      expect(await digests([''])).toEqual([imported!.manifest.digest]);
      expect(await digests(['tenant:a'])).toEqual([]);
    });

    test('an evicted referrer is not listed until its bytes are stored again', async () => {
      const subject = image('subject');
      const { manifest, view } = image('signature', subject.manifest, 'sig');
      const listed = async () =>
        (await store.listReferrers(NGINX, subject.manifest.digest, 'sig', ALL)).entries.length;
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      expect(await listed()).toBe(1);
      expect(await store.evict([manifestOf({ manifest })], Date.now() + 1000)).toHaveLength(1);
      expect(await listed()).toBe(0);
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      expect(await listed()).toBe(1);
    });

    test('referrers are those linked here, of the requested type, by digest', async () => {
      const subject = image('subject');
      const referrers = ['sig', 'sbom', 'sig'].map((type, index) =>
        image(`referrer ${index}`, subject.manifest, type),
      );
      for (const { manifest, view } of referrers) {
        await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      }
      const elsewhere = image('elsewhere', subject.manifest, 'sig');
      await store.putManifest(OTHER, elsewhere.manifest, elsewhere.view, { atMs: 1 });
      const expected = referrers
        .map(({ manifest, view }) => ({
          mediaType: MANIFEST_TYPE,
          digest: manifest.digest,
          size: manifest.bytes.byteLength,
          artifactType: view.artifactType,
          annotations: { made: 'here' },
        }))
        .sort((a, b) => (a.digest < b.digest ? -1 : 1));
      const { digest } = subject.manifest;
      expect(await store.listReferrers(NGINX, digest, undefined, ALL)).toEqual({
        entries: expected,
        more: false,
      });
      const signatures = await store.listReferrers(NGINX, digest, 'sig', ALL);
      expect(signatures.entries).toEqual(expected.filter(({ artifactType }) => artifactType === 'sig'));
      const first = await store.listReferrers(NGINX, digest, undefined, { limit: 2, after: undefined });
      expect(first).toEqual({ entries: expected.slice(0, 2), more: true });
      const after = expected[1]?.digest;
      expect((await store.listReferrers(NGINX, digest, undefined, { limit: 2, after })).entries).toEqual(
        expected.slice(2),
      );
    });

    test('totals follow every change', async () => {
      const { manifest, view } = image('one');
      const digest = digestOf(Buffer.from('blob'));
      await store.putBlob(digest, 40, NGINX);
      await store.putBlob(digest, 40, OTHER);
      await store.putManifest(NGINX, manifest, view, { tag: 'a', atMs: 1 });
      const manifestBytes = manifest.bytes.byteLength;
      expect(await store.readTotals()).toEqual({
        repositories: 2,
        manifests: 1,
        manifestBytes,
        blobs: 1,
        blobBytes: 40,
      });
      await store.removeBlob(digest);
      await store.unlinkBlob(OTHER, digest);
      expect(await store.readTotals()).toEqual({
        repositories: 1,
        manifests: 1,
        manifestBytes,
        blobs: 0,
        blobBytes: 0,
      });
    });

    test('a list of referrers is replaced', async () => {
      const { manifest, view } = image('subject');
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      await store.putManifest(OTHER, manifest, view, { atMs: 1 });
      const list = { mediaType: 'a/b', bytes: Buffer.from('one'), checkedAtMs: 1 };
      await store.putReferrersList(NGINX, manifest.digest, list);
      expect(await store.readReferrersList(NGINX, manifest.digest)).toEqual(list);
      expect(await store.readReferrersList(OTHER, manifest.digest)).toBeUndefined();
      const newer = { mediaType: 'a/c', bytes: Buffer.from('two'), checkedAtMs: 2 };
      await store.putReferrersList(NGINX, manifest.digest, newer);
      expect(await store.readReferrersList(NGINX, manifest.digest)).toEqual(newer);
    });

    test('a list of referrers is stored only where the manifest is stored and linked', async () => {
      const { manifest, view } = image('subject');
      const list = { mediaType: 'a/b', bytes: Buffer.from('list'), checkedAtMs: 1 };
      const put = async (repository: Repository) => {
        await store.putReferrersList(repository, manifest.digest, list);
        return store.readReferrersList(repository, manifest.digest);
      };
      expect(await put(NGINX)).toBeUndefined();
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      expect(await put(NGINX)).toEqual(list);
      expect(await put(OTHER)).toBeUndefined();
      await store.evict([manifestOf({ manifest })], Date.now() + 1000);
      expect(await put(NGINX)).toBeUndefined();
      await store.putManifest(NGINX, manifest, view, { atMs: 1 });
      await store.unlinkManifest(NGINX, manifest.digest);
      expect(await put(NGINX)).toBeUndefined();
      expect((await store.readTotals()).manifestBytes).toBe(manifest.bytes.byteLength);
    });

    test('a list of referrers counts as stored, and is removed with the manifest that it is about', async () => {
      const { manifest, view } = image('subject');
      const list = { mediaType: 'a/b', bytes: Buffer.alloc(1000), checkedAtMs: 1 };
      const bytes = async () => (await store.readTotals()).manifestBytes;
      const ofManifest = manifest.bytes.byteLength;
      const put = async () => {
        await store.putManifest(NGINX, manifest, view, { atMs: 1 });
        await store.putReferrersList(NGINX, manifest.digest, list);
      };
      await put();
      expect(await bytes()).toBe(ofManifest + 1000);
      await store.putReferrersList(NGINX, manifest.digest, { ...list, bytes: Buffer.alloc(400) });
      expect(await bytes()).toBe(ofManifest + 400);
      expect(await store.evict([manifestOf({ manifest })], Date.now() + 1000)).toHaveLength(1);
      expect(await bytes()).toBe(0);
      await put();
      await store.unlinkManifest(NGINX, manifest.digest);
      expect(await store.readReferrersList(NGINX, manifest.digest)).toBeUndefined();
      expect(await bytes()).toBe(ofManifest);
    });

    test('known tenants and issued credentials are stored, replaced and read as a whole', async () => {
      expect(await store.listKnownTenants()).toEqual([]);
      await store.putKnownTenants([
        { name: 'team-b', uid: 'uid-1' },
        { name: 'team-a', uid: undefined },
      ]);
      await store.putKnownTenants([{ name: 'team-b', uid: 'uid-2' }]);
      expect(await store.listKnownTenants()).toEqual([
        { name: 'team-a', uid: undefined },
        { name: 'team-b', uid: 'uid-2' },
      ]);
      await store.removeKnownTenant('team-b');
      expect(await store.listKnownTenants()).toEqual([{ name: 'team-a', uid: undefined }]);

      const first = {
        id: 'id-1',
        tenant: 'team-a',
        username: 'team-a',
        server: 'registry.example:5000/team-a',
        readOnly: true,
        issuedAtMs: 1,
        endsAtMs: Number.POSITIVE_INFINITY,
      };
      const second = { ...first, id: 'id-2', readOnly: false, issuedAtMs: 2, endsAtMs: 9 };
      await store.putIssuedCredentials([second, first]);
      expect(await store.listIssuedCredentials()).toEqual([first, second]);
      await store.putIssuedCredentials([{ ...first, endsAtMs: 5 }]);
      expect(await store.listIssuedCredentials()).toEqual([{ ...first, endsAtMs: 5 }, second]);
      // Whoever has read it before writes it as it was.
      for (const endsAtMs of [first.endsAtMs, 7]) await store.putIssuedCredentials([{ ...first, endsAtMs }]);
      expect(await store.listIssuedCredentials()).toEqual([{ ...first, endsAtMs: 5 }, second]);
      const other = { ...second, id: 'id-3', tenant: `team-b'"` };
      await store.putIssuedCredentials([other]);
      expect(await store.listIssuedCredentials([other.tenant, 'nobody'])).toEqual([other]);
      expect(await store.listIssuedCredentials([])).toEqual([]);
    });

    test('of the times of a credential the later ones count, until it is removed', async () => {
      await store.putCredentialUsage([
        { credentialId: 'b', usedAtMs: 5, refusedAtMs: 2 },
        { credentialId: 'a', usedAtMs: 1 },
        { credentialId: 'c', refusedAtMs: 3 },
      ]);
      await store.putCredentialUsage([{ credentialId: 'b', usedAtMs: 4, refusedAtMs: 6 }]);
      expect(await store.listCredentialUsage()).toEqual([
        { credentialId: 'a', usedAtMs: 1 },
        { credentialId: 'b', usedAtMs: 5, refusedAtMs: 6 },
        { credentialId: 'c', refusedAtMs: 3 },
      ]);
      await store.removeCredentialUsage(['c', 'a', 'unknown']);
      expect(await store.listCredentialUsage()).toEqual([{ credentialId: 'b', usedAtMs: 5, refusedAtMs: 6 }]);
    });

    test('Grants are renewed, ended one by one, and ended for a credential everywhere', async () => {
      const grant = { credentialId: 'c', verifiedAtMs: 1 } as const;
      const anybody = { credentialId: '', verifiedAtMs: 1 } as const;
      await store.putGrant(NGINX, grant);
      await store.putGrant(NGINX, anybody);
      await store.putGrant(NGINX, { ...grant, verifiedAtMs: 2 });
      expect(await store.readGrants(NGINX)).toEqual([anybody, { ...grant, verifiedAtMs: 2 }]);
      expect(await store.readGrants(HOSTED)).toEqual([]);
      await store.endGrant(NGINX, '');
      expect(await store.readGrants(NGINX)).toHaveLength(1);
      const many = Array.from({ length: 250 }, (_, index) => ({
        upstream: 'docker.io',
        name: `many/r${index}`,
      }));
      await Promise.all(many.map(repository => store.putGrant(repository, grant)));
      await store.endGrantsOf('c');
      const left = await Promise.all([NGINX, ...many].map(repository => store.readGrants(repository)));
      expect(left.flat()).toEqual([]);
    });

    describe('the end of a right', () => {
      const grant = { credentialId: 'c', verifiedAtMs: 1 };
      let other: MetadataStore;

      beforeEach(async () => {
        other = await place.open();
      });

      afterEach(() => other.close());

      const isRecorded = (by: MetadataStore, agoMs: number, of = grant, where = NGINX) =>
        by.putGrant(where, of, { unlessEnded: asked(agoMs, of.credentialId) });

      test.each([true, false])(
        'in one process is no Grant of what another has asked before, with a Grant (%s) or not',
        async hadGrant => {
          if (hadGrant) await store.putGrant(NGINX, grant);
          await other.endGrant(NGINX, 'c');
          expect(await isRecorded(store, 60_000)).toBe(false);
          expect(await store.hasEndedGrant(NGINX, asked(60_000))).toBe(true);
          expect(await store.readGrants(NGINX)).toEqual([]);
          expect(await isRecorded(store, 60_000, grant, OTHER)).toBe(true);
          expect(await isRecorded(store, 60_000, { ...grant, credentialId: 'd' })).toBe(true);
          expect(await store.hasEndedGrant(NGINX, asked(60_000, 'd'))).toBe(false);
        },
      );

      test('under another name of the credential counts, too', async () => {
        await other.endGrant(NGINX, 'x');
        expect(await isRecorded(store, 60_000)).toBe(false);
      });

      test('everywhere counts in each repository', async () => {
        await other.endGrantsOf('c');
        expect([await isRecorded(store, 60_000), await isRecorded(store, 60_000, grant, OTHER)]).toEqual([
          false,
          false,
        ]);
      });

      test('is for others to know, unless several have seen it', async () => {
        await store.endGrant(NGINX, 'c');
        expect([await isRecorded(store, 60_000), await isRecorded(other, 60_000)]).toEqual([true, false]);
        await other.endGrant(NGINX, 'c');
        expect([await isRecorded(store, 60_000), await isRecorded(other, 60_000)]).toEqual([false, false]);
      });

      test('does not count against what was asked afterwards', async () => {
        await other.endGrant(NGINX, 'c');
        await place.passSecond();
        await expect.poll(() => isRecorded(store, 0), { timeout: 20_000 }).toBe(true);
        expect(await store.readGrants(NGINX)).toEqual([grant]);
      });
    });

    test('old Grants end, a page at a time, and newer ones stay', async () => {
      const ages = Array.from({ length: 1_200 }, (_, index) => index);
      await Promise.all(
        ages.map(at =>
          store.putGrant(NGINX, { credentialId: `c${at}`, verifiedAtMs: at % 2 === 0 ? 10 : 20 }),
        ),
      );
      let ended = 0;
      let pages = 0;
      for (let at = await store.endGrantsBefore(20); ; at = await store.endGrantsBefore(20, at.next)) {
        ended += at.ended;
        pages += 1;
        if (at.next === undefined) break;
      }
      expect(ended).toBe(600);
      expect(pages).toBeGreaterThan(1);
      const left = await store.readGrants(NGINX);
      expect(left).toHaveLength(600);
      expect(left.every(({ verifiedAtMs }) => verifiedAtMs === 20)).toBe(true);
    });

    test('uploads are counted, found when nobody uses them, and removed', async () => {
      const upload = { repository: HOSTED, requester: 'team-a', startedAtMs: 10 };
      await store.putUpload({ ...upload, id: '1', touchedAtMs: 10 });
      await store.putUpload({ ...upload, id: '2', touchedAtMs: 20 });
      await store.putUpload({
        ...upload,
        id: '3',
        touchedAtMs: 30,
        repository: { upstream: '', name: 'other' },
      });
      expect(await store.countUploads(HOSTED)).toBe(2);
      expect(await store.countUploadsOf('team-a')).toBe(3);
      expect(await store.countUploadsOf('team-b')).toBe(0);
      expect((await store.listUploads(30, 10)).map(({ id }) => id)).toEqual(['1', '2']);
      expect((await store.listUploads(30, 1)).map(({ id }) => id)).toEqual(['1']);
      await store.putUpload({ ...upload, id: '1', touchedAtMs: 40 });
      expect(await store.readUpload('1')).toEqual({ ...upload, id: '1', touchedAtMs: 40 });
      expect(await store.removeUpload('1')).toBe(true);
      expect(await store.readUpload('1')).toBeUndefined();
    });

    test('the first to set a setting wins, and everybody gets its value', async () => {
      const other = await place.open();
      const [mine, theirs] = await Promise.all([
        store.initSetting('key', 'a'),
        other.initSetting('key', 'b'),
      ]);
      expect(mine).toBe(theirs);
      expect(await store.readSetting('key')).toBe(mine);
      await other.close();
    });

    test('a blob’s row is written only under its Lease, and while its bytes exist', async () => {
      const lease = await leaseOf(store, 'upload-1');
      const proof = { lease, isThere: () => false };
      expect(await store.putBlob(BLOB, 4, HOSTED, proof)).toBe(false);
      expect(await store.isLinked(HOSTED, BLOB)).toBe(false);
      await store.release(lease);
      const late = store.putBlob(BLOB, 4, HOSTED, { lease, isThere: () => true });
      await expect(late).rejects.toThrow(LeaseLost);
      await expect(store.removeUpload('1', lease)).rejects.toThrow(LeaseLost);
      expect(await store.statBlob(BLOB)).toBeUndefined();
    });

    test('bytes are removed only while nothing says that they should exist', async () => {
      const taken: Digest[] = [];
      const takeAway = (digest: Digest) => taken.push(digest);
      const stray = digestOf(Buffer.from('stray'));
      await store.putBlob(BLOB, 4, NGINX);
      expect(await store.ifStray([BLOB, stray], takeAway)).toEqual([stray]);
      await store.removeBlob(BLOB);
      expect(await store.ifStray([BLOB], takeAway)).toEqual([BLOB]);
      expect([taken, await store.ifStray([], takeAway)]).toEqual([[stray, BLOB], []]);
    });

    test('no bytes are removed while the index may be incomplete: a rebuild may need what it does not know', async () => {
      const ifStray = () => store.ifStray([BLOB], () => {});
      await stopCollecting(store, 'the index is new');
      expect(await ifStray()).toEqual([]);
      await stopCollectingDuringRebuild(store);
      expect(await ifStray()).toEqual([]);
      await stopCollectingAfterRebuild(store);
      expect(await ifStray()).toEqual([BLOB]);
      await resumeCollecting(store);
      expect(await ifStray()).toEqual([BLOB]);
    });

    describe('objects', () => {
      const LATER = Number.MAX_SAFE_INTEGER;
      const givenUp = async () => (await store.listGivenUpObjects(LATER, 10)).map(({ key }) => key);

      test('a row names the object that was announced under its Lease', async () => {
        expect(await putObject(store, 'a')).toBe(true);
        expect(await store.statBlob(BLOB)).toEqual({ size: 4, key: 'a' });
        expect(await givenUp()).toEqual([]);
      });

      test('nothing is announced under a lost Lease', async () => {
        const lease = await leaseOf(store, 'upload-1');
        await store.release(lease);
        await expect(store.announceObject(object('a'), lease)).rejects.toThrow(LeaseLost);
      });

      test('an object that was given up, or never announced, gets no row', async () => {
        const lease = await leaseOf(store, 'upload-1');
        await store.announceObject({ ...object('a'), uploadId: 'u' }, lease);
        await store.giveUpObject('a');
        for (const key of ['a', 'b']) {
          expect(await store.putBlob(BLOB, 4, NGINX, { lease, isThere: always, key })).toBe(false);
        }
        expect(await store.statBlob(BLOB)).toBeUndefined();
        expect(await store.listGivenUpObjects(LATER, 10)).toEqual([{ key: 'a', uploadId: 'u' }]);
        expect(await store.listGivenUpObjects(Date.now() - 60_000, 10)).toEqual([]);
        await store.forgetObjects(['a']);
        expect(await givenUp()).toEqual([]);
      });

      test('an object whose row is removed, or names another one, is given up', async () => {
        await putObject(store, 'a');
        await putObject(store, 'b');
        expect(await givenUp()).toEqual(['a']);
        expect(await store.statBlob(BLOB)).toEqual({ size: 4, key: 'b' });
        await store.evict([blobOf(BLOB)], LATER);
        expect((await givenUp()).sort()).toEqual(['a', 'b']);
      });

      test('what a process announced is given up when its Lease has ended, and not before', async () => {
        const lease = await leaseOf(store, 'upload-1');
        await store.announceObject(object('a'), lease);
        await store.giveUpAbandonedObjects(LATER);
        expect(await givenUp()).toEqual([]);
        await store.release(lease);
        await store.giveUpAbandonedObjects(Date.now() - 60_000);
        expect(await givenUp()).toEqual([]);
        await store.giveUpAbandonedObjects(LATER);
        expect(await givenUp()).toEqual(['a']);
      });

      test('damage concerns the object that it was found in, and only mirrored ones are given up', async () => {
        await putObject(store, 'a');
        expect(await store.quarantine(blobOf(BLOB), 'wrong bytes', bytesIn('b'))).toBeUndefined();
        expect(await store.quarantine(blobOf(BLOB), 'wrong bytes', bytesIn('a'))).toBe('mirrored');
        expect(await givenUp()).toEqual(['a']);
        await putObject(store, 'c', HOSTED);
        expect(await store.quarantine(blobOf(BLOB), 'wrong bytes', bytesIn('c'))).toBe('hosted');
        expect(await givenUp()).toEqual(['a']);
        expect(await store.giveUpStrayObjects([object('c')])).toEqual([]);
        await putObject(store, 'd', HOSTED);
        expect(await store.giveUpStrayObjects([object('c')])).toEqual([object('c')]);
      });

      test('an object that the index does not know is a stray, and gets a row only before it is given up', async () => {
        const lease = await leaseOf(store, 'upload-1');
        await store.announceObject(object('coming'), lease);
        await putObject(store, 'a');
        const found = ['a', 'coming', 'lost'].map(object);
        expect(await store.giveUpStrayObjects(found)).toEqual([object('lost')]);
        expect(await givenUp()).toEqual(['lost']);
        expect(await store.putFoundBlob(object('again'), 4)).toBe(false);
        await store.removeBlob(BLOB);
        for (const key of ['lost', 'coming', 'a'])
          expect(await store.putFoundBlob(object(key), 4)).toBe(false);
        expect(await store.putFoundBlob(object('again'), 4)).toBe(true);
        expect(await store.statBlob(BLOB)).toEqual({ size: 4, key: 'again' });
      });
    });

    test('a notification reaches other processes and not its sender', async () => {
      const other = await place.open();
      const heard: string[] = [];
      store.onNotification('content', () => heard.push('own'));
      other.onNotification('secrets', () => heard.push('wrong topic'));
      const stop = other.onNotification('content', () => heard.push('stopped'));
      stop();
      const reaches = async (topic: Topic, from: MetadataStore, to: MetadataStore) => {
        const listener = vi.fn<() => void>();
        to.onNotification(topic, listener);
        await from.notify(topic);
        while (listener.mock.calls.length === 0) await place.passSecond();
      };
      await reaches('content', store, other);
      await reaches('failures', other, store);
      expect(heard).toEqual([]);
      await other.close();
    });

    test('a poll delivers at once what others have announced', async () => {
      const other = await place.open();
      let heard = 0;
      other.onNotification('secrets', () => (heard += 1));
      await store.notify('secrets');
      await other.pollNotifications();
      expect(heard).toBe(1);
      await other.pollNotifications();
      expect(heard).toBe(1);
      await other.close();
    });

    test('after closing, nothing is read or written, and closing again has no effect', async () => {
      const other = await place.open();
      await other.close();
      await other.close();
      await expect(other.putBlob(digestOf(Buffer.from('x')), 1)).rejects.toThrow('closed');
      await expect(other.statBlob(BLOB)).rejects.toThrow(/closed|not open/);
    });

    test('a process counts from opening to closing', async () => {
      expect(await store.countProcesses()).toBe(1);
      const other = await place.open();
      expect([await store.countProcesses(), await other.countProcesses()]).toEqual([2, 2]);
      await other.close();
      expect(await store.countProcesses()).toBe(1);
    });

    test('there are no replicas where there can be only one', async () => {
      expect([await store.listReplicas(), await store.listGoneReplicas()]).toEqual([[], []]);
    });

    test('an index that works is neither blocked nor lost', async () => {
      await store.putBlob(BLOB, 4);
      expect([store.lockedOutForMs(), store.loss()]).toEqual([0, undefined]);
    });

    describe('a use', () => {
      const HOUR_AGO_MS = Date.now() - 3_600_000;
      const contents = Array.from({ length: 60 }, (_, at) => blobOf(digestOf(Buffer.from(`blob ${at}`))));
      const links = contents.map(({ digest }) => ({ repository: NGINX, digest }));
      const one = image('one');

      /** Stores blobs and a manifest that nobody has used for ages. */
      beforeEach(async () => {
        await Promise.all(contents.map(({ digest }) => store.putBlob(digest, 4, NGINX)));
        await store.putManifest(NGINX, one.manifest, one.view, { atMs: 1 });
        while ((await store.lowerUses(1, 1)) > 0);
        await store.lowerLinks(links, 1);
      });

      test('counts in its process at once, for every kind of removal', async () => {
        const [used, unused] = contents;
        const loose = blobOf(digestOf(Buffer.from('loose')));
        await store.putBlob(loose.digest, 4);
        await store.lowerUses(1, 1);
        for (const { digest } of [used!, loose, manifestOf(one)]) store.noteUse(digest);
        expect(await store.evict([used!, manifestOf(one)], HOUR_AGO_MS)).toEqual([]);
        expect(await store.expireLinks(links.slice(0, 1), HOUR_AGO_MS)).toBe(0);
        expect(await store.removeUnneeded([used!, loose], HOUR_AGO_MS)).toEqual([]);
        expect(await store.removeUnlinked([loose], HOUR_AGO_MS)).toEqual([]);
        expect(await store.evict([unused!], HOUR_AGO_MS)).toEqual([unused]);
      });

      test('counts in its process until it is written', async () => {
        for (const { digest } of contents) store.noteUse(digest);
        const written = store.writeUses();
        expect(await store.evict(contents, HOUR_AGO_MS)).toEqual([]);
        await written;
      });

      test('is known to other processes when writeUses resolves, whoever else has begun to write it', async () => {
        const other = await place.open();
        for (const { digest } of [...contents, manifestOf(one)]) store.noteUse(digest);
        const begun = store.writeUses();
        await store.writeUses();
        expect(await other.evict([...contents, manifestOf(one)], HOUR_AGO_MS)).toEqual([]);
        await begun;
        await other.close();
      });

      test('is known to other processes when its process closes', async () => {
        const other = await place.open();
        const [used, unused] = contents;
        other.noteUse(used!.digest);
        other.noteUse(digestOf(Buffer.from('gone meanwhile')));
        await other.close();
        expect(await store.evict([used!, unused!], HOUR_AGO_MS)).toEqual([unused]);
      });

      test('that its caller relies on is known to other processes at once', async () => {
        const other = await place.open();
        await store.putUse(links[0]!.digest);
        expect(await other.expireLinks(links.slice(0, 2), HOUR_AGO_MS)).toBe(1);
        expect(await other.isLinked(NGINX, links[0]!.digest)).toBe(true);
        await other.close();
      });

      test('in the future is found, and set back', async () => {
        const thanMs = Date.now() + 3_600_000;
        const upload = { id: '1', repository: HOSTED, requester: 'team-a', startedAtMs: 1 };
        expect(await store.hasLaterUses(thanMs)).toBe(false);
        for (const touch of [
          () => store.putUpload({ ...upload, touchedAtMs: thanMs + 1 }),
          () => store.putManifest(NGINX, one.manifest, one.view, { atMs: thanMs + 1 }),
        ]) {
          await touch();
          expect(await store.hasLaterUses(thanMs)).toBe(true);
          expect(await store.lowerUses(thanMs, 5)).toBe(1);
          expect(await store.hasLaterUses(thanMs)).toBe(false);
        }
        expect(await store.hasLaterUses(4)).toBe(true);
        expect(await store.lowerUses(thanMs, 5)).toBe(0);
        expect(await store.readUpload('1')).toMatchObject({ touchedAtMs: 5 });
      });
    });

    describe('of two processes at once', () => {
      const LATER_MS = Date.now() + 3_600_000;
      const blobs = Array.from({ length: 30 }, (_, at) => digestOf(Buffer.from(`blob ${at}`)));
      let other: MetadataStore;

      beforeEach(async () => {
        other = await place.open();
      });

      afterEach(() => other.close());

      test('either one imports a blob, or the other removes it', async () => {
        await Promise.all(blobs.map(digest => store.putBlob(digest, 4)));
        const outcomes = blobs.map(async (digest, at) => {
          const bring = () => store.putContent(NGINX, { manifests: [], blobs: [{ digest, size: 4 }] }, 1);
          const remove = () => other.removeUnlinked([blobOf(digest)], LATER_MS);
          const [missing, removed] =
            at % 2 === 0
              ? await Promise.all([bring(), remove()])
              : (await Promise.all([remove(), bring()])).toReversed();
          const isStored = (await store.statBlob(digest)) !== undefined;
          return { isStored, isMissing: missing?.length === 1, isRemoved: removed?.length === 1 };
        });
        for (const { isStored, isMissing, isRemoved } of await Promise.all(outcomes)) {
          expect({ isMissing, isRemoved }).toEqual({ isMissing: !isStored, isRemoved: !isStored });
        }
      });

      test('one takes no bytes away of which the other writes the row', async () => {
        const bytes = new Set(blobs);
        const outcomes = blobs.map(async (digest, at) => {
          const lease = await leaseOf(store, `upload-${at}`);
          const proof = { lease, isThere: () => bytes.has(digest) };
          const put = () => store.putBlob(digest, 4, HOSTED, proof);
          const take = () => other.ifStray([digest], () => bytes.delete(digest));
          await (at % 2 === 0 ? Promise.all([put(), take()]) : Promise.all([take(), put()]));
          return { isThere: bytes.has(digest), isStored: (await store.statBlob(digest)) !== undefined };
        });
        for (const { isThere, isStored } of await Promise.all(outcomes)) expect(isStored).toBe(isThere);
      });
    });

    describe('the record of a hosted image', () => {
      const NAME = HOSTED.name;
      const { manifest, view } = image('recorded');
      const { digest } = manifest;
      test('has its media type, tags and pins, and has to be kept again after each change', async () => {
        await store.putManifest(HOSTED, manifest, view, { tag: 'v1', atMs: 5 });
        expect(await unrecordedIn(store)).toEqual([[NAME, digest]]);
        const { mediaType } = manifest;
        expect(await keepRecords(store)).toEqual([{ mediaType, tags: [{ tag: 'v1', atMs: 5 }], pins: [] }]);
        expect(await unrecordedIn(store)).toEqual([]);
        await store.putTag(HOSTED, 'v0', { digest, checkedAtMs: 6 });
        await store.putPin(HOSTED, 'v1');
        await store.putPin(HOSTED, digest);
        const tags = [
          { tag: 'v0', atMs: 6 },
          { tag: 'v1', atMs: 5 },
        ];
        expect(await keepRecords(store)).toEqual([{ mediaType, tags, pins: [digest, 'v1'] }]);
        await store.removePin(HOSTED, 'v1');
        expect(await unrecordedIn(store)).toEqual([[NAME, digest]]);
        await keepRecords(store);
        await store.removeTag(HOSTED, 'v0');
        expect(await unrecordedIn(store)).toEqual([[NAME, digest]]);
        await keepRecords(store);
        const other = image('other');
        await store.putManifest(HOSTED, other.manifest, other.view, { tag: 'v1', atMs: 7 });
        expect(await unrecordedIn(store)).toHaveLength(2);
        await keepRecords(store);
        expect(await store.isUnrecorded({ name: NAME, digest })).toBe(false);
        await store.unlinkManifest(HOSTED, digest);
        expect(await store.isUnrecorded({ name: NAME, digest })).toBe(true);
        expect(await store.isUnrecorded({ name: NAME, digest: other.manifest.digest })).toBe(false);
        expect(await keepRecords(store)).toEqual([undefined]);
        await store.removeRepository(HOSTED);
        expect(await store.isUnrecorded({ name: NAME, digest: other.manifest.digest })).toBe(true);
        await expect.poll(() => unrecordedIn(store)).toContainEqual([NAME, other.manifest.digest]);
        expect(await store.isHostedManifest(other.manifest.digest)).toBe(false);
      });

      test('stays to be kept if the image has changed since it was read', async () => {
        await store.putManifest(HOSTED, manifest, view, { atMs: 5 });
        const [before] = await store.listUnrecorded(10);
        await store.putTag(HOSTED, 'v1', { digest, checkedAtMs: 6 });
        await store.noteRecorded(before!);
        expect(await unrecordedIn(store)).toEqual([[NAME, digest]]);
      });

      test('has to be kept again if two processes have kept it: whose was last is not known', async () => {
        await store.putManifest(HOSTED, manifest, view, { atMs: 5 });
        const other = await place.open();
        const [mine, its] = [await store.listUnrecorded(10), await other.listUnrecorded(10)];
        await other.noteRecorded(its[0]!);
        expect(await unrecordedIn(store)).toEqual([]);
        await store.noteRecorded(mine[0]!);
        expect(await unrecordedIn(store)).toEqual([[NAME, digest]]);
        await other.close();
      });

      test('is kept of hosted images only', async () => {
        await store.putManifest(NGINX, manifest, view, { tag: 'v1', atMs: 5 });
        expect([await unrecordedIn(store), await store.isHostedManifest(digest)]).toEqual([[], false]);
        expect(await store.readImageRecord({ name: NAME, digest })).toBeUndefined();
      });

      test('can be asked for of all images, in steps, and of what is not there', async () => {
        for (let at = 0; at < 450; at += 1) {
          const each = image(`${at}`);
          // The first step ends in the middle of the second repository.
          const repository = at % 3 === 0 ? HOSTED : { upstream: '', name: `${NAME}-${at % 3}` };
          await store.putManifest(repository, each.manifest, each.view, { atMs: 5 });
        }
        for (const each of await store.listUnrecorded(1_000)) await store.noteRecorded(each);
        let steps = 0;
        for (let next = await store.noteAllUnrecorded(); next !== undefined; steps += 1) {
          next = await store.noteAllUnrecorded(next);
        }
        expect([steps, (await store.listUnrecorded(1_000)).length]).toEqual([2, 450]);
        const all = await store.listUnrecorded(1_000);
        expect(await store.listUnrecorded(10, all[99])).toEqual(all.slice(100, 110));
        expect(await store.listUnrecorded(10, all.at(-1))).toEqual([]);
        expect([await store.countUnrecorded(10), await store.countUnrecorded(1_000)]).toEqual([10, 450]);
        for (const each of all) await store.noteRecorded(each);
        expect(await store.countUnrecorded(10)).toBe(0);
        await store.noteUnrecorded([{ name: 'nothing', digest }]);
        expect(await unrecordedIn(store)).toEqual([['nothing', digest]]);
        expect(await keepRecords(store)).toEqual([undefined]);
      });
    });

    describe('images of which there are records', () => {
      const NAME = HOSTED.name;
      const [one, two] = [image('one'), image('two')];
      const recorded = (
        { manifest, view, blobs }: ReturnType<typeof image>,
        tags: readonly [string, number][],
      ) => ({
        name: NAME,
        digest: manifest.digest,
        record: {
          mediaType: manifest.mediaType,
          tags: tags.map(([tag, atMs]) => ({ tag, atMs })),
          pins: tags.map(([tag]) => tag),
        },
        content: { manifest, view, blobs },
      });
      const tagsOf = async () => {
        const { entries } = await store.listTags(HOSTED, ALL);
        const rows = await Promise.all(entries.map(tag => store.readTag(HOSTED, tag)));
        return entries.map((tag, at) => [tag, rows[at]?.digest, rows[at]?.checkedAtMs]);
      };

      test('are added as a whole, with Links, tags and pins, and a setting along with them', async () => {
        const [config, layer] = one.blobs;
        await store.putBlob(config!.digest, config!.size);
        const setting = { name: 'so far', value: 'one' };
        const images = [
          recorded(one, [
            ['v1', 5],
            ['stable', 6],
          ]),
          { ...recorded(two, []), name: 'library/two' },
        ];
        const { missing, ...added } = await store.addRecordedImages(images, {
          atMs: 9,
          completesKnown: false,
          setting,
        });
        expect(added).toEqual({ manifests: 2, tags: 2 });
        expect(missing).toEqual([
          { name: NAME, digest: layer!.digest },
          ...two.blobs.map(({ digest }) => ({ name: 'library/two', digest })),
        ]);
        expect(await store.readSetting('so far')).toBe('one');
        const { digest } = one.manifest;
        expect(await store.readLinkedManifest(HOSTED, digest)).toEqual(one.manifest);
        expect([await tagsOf(), await store.listPins(HOSTED)]).toEqual([
          [
            ['stable', digest, 6],
            ['v1', digest, 5],
          ],
          ['stable', 'v1'],
        ]);
        expect(await store.isLinked(HOSTED, layer!.digest)).toBe(true);
        expect(await store.isLinked(HOSTED, two.blobs[0]!.digest)).toBe(false);
        expect(
          await store.readLinkedManifest({ upstream: '', name: 'library/two' }, two.manifest.digest),
        ).toEqual(two.manifest);
      });

      test('that are known get what they lack only if that is asked for, and tags that were set since stay', async () => {
        await store.putManifest(HOSTED, one.manifest, one.view, { tag: 'new', atMs: 8 });
        const { digest } = one.manifest;
        const record = recorded(one, [
          ['old', 5],
          ['new', 7],
        ]);
        expect(await addRecorded([record], false)).toEqual({ manifests: 0, tags: 0, missing: [] });
        expect([await tagsOf(), await store.listPins(HOSTED)]).toEqual([[['new', digest, 8]], []]);
        expect(await addRecorded([{ ...record, content: undefined }])).toEqual({
          manifests: 0,
          tags: 1,
          missing: [],
        });
        expect(await tagsOf()).toEqual([
          ['new', digest, 8],
          ['old', digest, 5],
        ]);
        expect(await store.listPins(HOSTED)).toEqual(['new', 'old']);
      });

      test('and have the same tag, give it to the one that had it last', async () => {
        const [first, second] = [
          recorded(one, [
            ['v1', 5],
            ['v2', 6],
          ]),
          recorded(two, [
            ['v1', 6],
            ['v2', 5],
          ]),
        ];
        await addRecorded([first, second]);
        expect(await tagsOf()).toEqual([
          ['v1', two.manifest.digest, 6],
          ['v2', one.manifest.digest, 6],
        ]);
      });

      test('and were deleted since do not come back, nor with their repository', async () => {
        await addRecorded([recorded(one, [['v1', 5]])]);
        await store.unlinkManifest(HOSTED, one.manifest.digest);
        expect(await addRecorded([recorded(one, [['v1', 5]])])).toEqual({
          manifests: 0,
          tags: 0,
          missing: [],
        });
        expect([await tagsOf(), await store.isLinked(HOSTED, one.manifest.digest)]).toEqual([[], false]);
        await addRecorded([recorded(two, [['v1', 5]])]);
        await store.removeRepository(HOSTED);
        expect(await addRecorded([recorded(two, [['v1', 5]])])).toMatchObject({ manifests: 0, tags: 0 });
        expect(await addRecorded([{ ...recorded(two, []), content: undefined }])).toMatchObject({
          manifests: 0,
          tags: 0,
        });
        expect(await store.hasRepository(HOSTED)).toBe(false);
        // It would count for the quota of its owner.
        expect(await store.readUsage('library', HOSTED)).toMatchObject({ isKnown: false, repositories: 0 });
      });

      test('end the damage of those whose bytes were', async () => {
        await store.putManifest(HOSTED, one.manifest, one.view, { tag: 'v1', atMs: 5 });
        await keepRecords(store);
        await store.quarantine({ kind: 'manifest', digest: one.manifest.digest }, 'wrong bytes');
        expect(await addRecorded([recorded(one, [['v1', 5]])])).toMatchObject({ manifests: 1, tags: 0 });
        expect([
          await store.readLinkedManifest(HOSTED, one.manifest.digest),
          await store.countDamaged(),
        ]).toEqual([one.manifest, 0]);
      });
    });

    describe('a write that throws', () => {
      test('changes nothing, and fails no other', async () => {
        const lease = await leaseOf(store, 'upload-1');
        const [first, second, third] = ['1', '2', '3'].map(text => digestOf(Buffer.from(text)));
        const outcomes = await Promise.allSettled([
          store.putBlob(first!, 1),
          store.putBlob(second!, 2, HOSTED, { lease, isThere: fail }),
          store.putBlob(third!, 3),
        ]);
        expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
        expect(await store.readTotals()).toMatchObject({ blobs: 2, blobBytes: 4, repositories: 0 });
      });

      test('leaves what it had removed before', async () => {
        await store.putBlob(BLOB, 4, NGINX);
        const taking = store.quarantine(blobOf(BLOB), 'wrong', { isSame: () => true, takeAway: fail });
        await expect(taking).rejects.toThrow('no such luck');
        expect(await store.statBlob(BLOB)).toEqual({ size: 4 });
        expect(await store.readDamage(BLOB)).toBeUndefined();
        await store.removeBlob(BLOB);
        await expect(store.ifStray([BLOB], fail)).rejects.toThrow('no such luck');
      });
    });
  });
}

/** A manifest with a config of 10 bytes and a layer of 20. */
export function image(
  content: string,
  subject?: Manifest,
  artifactType?: string,
): { manifest: Manifest; view: ManifestView; blobs: readonly Descriptor[] } {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, content }));
  const blobs = [
    {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: digestOf(Buffer.from(`${content} config`)),
      size: 10,
    },
    {
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      digest: digestOf(Buffer.from(`${content} layer`)),
      size: 20,
    },
  ];
  const view: ManifestView = {
    kind: 'manifest',
    mediaType: MANIFEST_TYPE,
    manifests: [],
    blobs,
    subject: subject && {
      mediaType: subject.mediaType,
      digest: subject.digest,
      size: subject.bytes.byteLength,
    },
    artifactType,
    annotations: subject === undefined ? {} : { made: 'here' },
  };
  return { manifest: { digest: digestOf(bytes), mediaType: MANIFEST_TYPE, bytes }, view, blobs };
}

function manifestOf({ manifest }: { readonly manifest: Manifest }) {
  return { kind: 'manifest', digest: manifest.digest } as const;
}

/** For what is called within a write. */
function fail(): never {
  throw new Error('no such luck');
}

function blobOf(digest: Digest) {
  return { kind: 'blob', digest } as const;
}

function digestOrFail(descriptor: Descriptor | undefined): Digest {
  if (descriptor === undefined) {
    throw new Error('the test has no such blob');
  }
  return descriptor.digest;
}
