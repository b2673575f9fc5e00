import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { leaseOf } from '../lib/lease.suite.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import type { MetadataStore } from './metadata-store.ts';
import { image } from './metadata-store.suite.ts';
import { everything, type Survey } from './survey.ts';

/** An index, and a survey of it. */
export interface SurveyedIndex {
  readonly store: MetadataStore;
  readonly survey: Survey;
  remove(): Promise<void>;
}

const HOSTED = { upstream: '', name: 'team/app' };
const MIRRORED = { upstream: 'docker.io', name: 'library/nginx' };
const LATER_MS = Date.now() + 3_600_000;
const LOOSE = digestOf(Buffer.from('loose'));

/** The contract of Survey, as tests for any implementation. */
export function surveySuite(makeIndex: () => Promise<SurveyedIndex>): void {
  describe('a Survey', () => {
    let opened: SurveyedIndex;
    let store: MetadataStore;
    let survey: Survey;

    beforeEach(async () => {
      opened = await makeIndex();
      ({ store, survey } = opened);
    });

    afterEach(() => opened.remove());

    test('the survey finds what garbage collection would remove', async () => {
      const one = image('one');
      for (const { digest, size } of one.blobs) {
        await store.putBlob(digest, size, HOSTED);
      }
      await store.putBlob(LOOSE, 5, HOSTED);
      await store.putManifest(HOSTED, one.manifest, one.view, { tag: 'v1', atMs: 1 });
      expect(await survey.idleLinks(LATER_MS)).toEqual({
        entries: [{ repository: HOSTED, digest: LOOSE }],
        next: undefined,
      });
      expect((await survey.unneeded('blob', LATER_MS)).entries).toEqual([
        { kind: 'blob', digest: LOOSE, size: 5 },
      ]);
      expect((await survey.unneeded('blob', 1)).entries).toEqual([]);
      expect((await survey.unnamedBlobs(LATER_MS)).entries).toEqual([]);
      await store.unlinkBlob(HOSTED, LOOSE);
      expect((await survey.unnamedBlobs(LATER_MS)).entries).toEqual([
        { kind: 'blob', digest: LOOSE, size: 5 },
      ]);
      expect((await survey.unnamedBlobs(1)).entries).toEqual([]);
      await store.unlinkManifest(HOSTED, one.manifest.digest);
      expect((await survey.unneeded('manifest', LATER_MS)).entries).toHaveLength(1);
      expect((await survey.unneeded('blob', LATER_MS)).entries).toHaveLength(3);
    });

    test('all mirrored content is found, however much it is, and no hosted content; so is what is unlinked', async () => {
      const digests = Array.from({ length: 4_500 }, (_, index) => digestOf(Buffer.from(String(index))));
      await Promise.all(digests.map(digest => store.putBlob(digest, 1, MIRRORED)));
      await store.putBlob(LOOSE, 5, HOSTED);
      const found: string[] = [];
      for await (const page of everything(after => survey.evictable(LATER_MS, after))) {
        found.push(...page.map(({ digest }) => digest));
      }
      expect(found.toSorted()).toEqual(digests.toSorted());
      const stored: string[] = [];
      for await (const page of everything(after => survey.blobs(after))) {
        stored.push(...page.map(({ digest }) => digest));
      }
      expect(stored).toEqual([...digests, LOOSE].toSorted());
      const sorted = stored.filter(digest => digest !== LOOSE);
      const some = [0, 1_999, 2_000, 4_499].map(at => digests.find(digest => digest === sorted[at])!);
      for (const digest of some) await store.unlinkBlob(MIRRORED, digest);
      const unneeded: string[] = [];
      for await (const page of everything(after => survey.unlinked('blob', LATER_MS, after))) {
        unneeded.push(...page.map(({ digest }) => digest));
      }
      expect(unneeded).toEqual(some);
    });

    const evictable = async (sinceMs: number) => (await survey.evictable(sinceMs)).entries;

    test('what may be evicted is found least recently used first, with the size of its lists of referrers', async () => {
      const [last, ...first] = ['one', 'two', 'three']
        .map(name => image(name).manifest)
        .toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
      const order = [...first.toReversed(), last!];
      for (const [at, manifest] of order.entries()) {
        await store.putManifest(MIRRORED, manifest, image('any').view, { atMs: 10 + at });
      }
      const list = { mediaType: 'a/b', bytes: Buffer.alloc(1000), checkedAtMs: 1 };
      await store.putReferrersList(MIRRORED, last!.digest, list);
      const [oldest, middle] = order.map(({ digest, bytes }) => ({
        kind: 'manifest',
        digest,
        size: bytes.byteLength,
      }));
      const newest = { kind: 'manifest', digest: last!.digest, size: last!.bytes.byteLength + 1000 };
      expect(await evictable(13)).toEqual([oldest, middle, newest]);
      await store.putPin(MIRRORED, oldest!.digest);
      expect(await evictable(12)).toEqual([middle]);
    });

    test('Links with a later time are found until they are set back', async () => {
      const thanMs = Date.now() - 60_000;
      const link = { repository: HOSTED, digest: LOOSE };
      await store.linkBlob(HOSTED, LOOSE, 5);
      expect((await survey.laterLinks(LATER_MS)).entries).toEqual([]);
      expect((await survey.laterLinks(thanMs)).entries).toEqual([link]);
      await store.lowerLinks([link], thanMs);
      expect((await survey.laterLinks(thanMs)).entries).toEqual([]);
    });

    const unlinked = async (kind: 'blob' | 'manifest', sinceMs = LATER_MS) =>
      (await survey.unlinked(kind, sinceMs)).entries.map(({ digest }) => digest);

    test('what no Link and no manifest keeps is unlinked, but not what is new or being downloaded', async () => {
      const one = image('one');
      const [config, layer] = one.blobs.map(({ digest }) => digest);
      for (const digest of [config!, layer!, LOOSE]) await store.putBlob(digest, 5);
      await store.linkBlob(MIRRORED, layer!, 5);
      await store.putManifest(HOSTED, one.manifest, one.view, { atMs: 1 });
      expect(await unlinked('blob')).toEqual([LOOSE]);
      expect(await unlinked('manifest')).toEqual([]);
      await store.unlinkManifest(HOSTED, one.manifest.digest);
      expect(await unlinked('manifest')).toEqual([one.manifest.digest]);
      expect(await unlinked('blob')).toEqual([config!, LOOSE].toSorted());
      expect(await unlinked('blob', 1)).toEqual([]);
      await leaseOf(store, `fill-0123-${LOOSE.replace(':', '-')}`);
      expect(await unlinked('blob')).toEqual([config!]);
    });

    test('tags are found by repository and name, with what was pinned and imported', async () => {
      const one = image('one');
      for (const { digest, size } of one.blobs) await store.putBlob(digest, size);
      await store.putContent(MIRRORED, { manifests: [one], blobs: one.blobs, grantee: '' }, 1);
      const { digest } = one.manifest;
      const other = digestOf(Buffer.from('other'));
      for (const [repository, tag] of [
        [MIRRORED, 'v2'],
        [HOSTED, 'v1'],
        [MIRRORED, 'v1'],
      ] as const) {
        await store.putTag(repository, tag, { digest: tag === 'v2' ? other : digest, checkedAtMs: 1 });
      }
      await store.putPin(MIRRORED, digest);
      await store.putPin(HOSTED, 'v1');
      const of = (repository: typeof HOSTED, tag: string, means: Digest) => ({
        repository,
        tag,
        digest: means,
      });
      expect((await survey.tags()).entries).toEqual([
        { ...of(HOSTED, 'v1', digest), isPinned: true, isImported: false },
        { ...of(MIRRORED, 'v1', digest), isPinned: true, isImported: true },
        { ...of(MIRRORED, 'v2', other), isPinned: false, isImported: false },
      ]);
    });

    test('repositories of linked content are listed, some of them if there are many', async () => {
      expect(await survey.repositoriesOf(LOOSE)).toEqual([]);
      await store.putBlob(LOOSE, 5, HOSTED);
      await store.putBlob(LOOSE, 5, MIRRORED);
      expect(await survey.repositoriesOf(LOOSE)).toEqual([HOSTED, MIRRORED]);
      for (const name of ['a', 'b', 'c']) await store.putBlob(LOOSE, 5, { upstream: 'z.example', name });
      expect(await survey.repositoriesOf(LOOSE)).toHaveLength(3);
    });

    test('a repository of which the manifest was evicted is not listed, and none is listed twice', async () => {
      const { manifest, view } = image('one');
      const { digest } = manifest;
      for (const repository of [HOSTED, MIRRORED]) {
        await store.putManifest(repository, manifest, view, { atMs: 1 });
        await store.linkBlob(repository, digest, manifest.bytes.byteLength);
      }
      expect(await survey.repositoriesOf(digest)).toEqual([HOSTED, MIRRORED]);
      await store.removeRepository(HOSTED);
      await store.unlinkBlob(MIRRORED, digest);
      await store.evict([{ kind: 'manifest', digest }], LATER_MS);
      expect(await survey.repositoriesOf(digest)).toEqual([]);
    });

    test('an image is shown with everything below it, stored or not, shared or not', async () => {
      const [one, two] = [image('one'), image('two')];
      const [config, layer] = one.blobs;
      await store.putBlob(config?.digest ?? LOOSE, 10, MIRRORED);
      await store.putManifest(MIRRORED, one.manifest, one.view, { tag: 'v1', atMs: 5 });
      const sharing = { ...two.view, blobs: [...two.view.blobs, ...one.blobs.slice(1)] };
      await store.putManifest(MIRRORED, two.manifest, sharing, { atMs: 6 });
      await store.putPin(MIRRORED, 'v1');
      const { entries } = await survey.tags();
      expect(entries).toEqual([
        {
          repository: MIRRORED,
          tag: 'v1',
          digest: one.manifest.digest,
          isPinned: true,
          isImported: false,
        },
      ]);
      const [manifest] = await survey.image(MIRRORED, one.manifest.digest);
      expect(manifest).toMatchObject({ isHeld: true, size: one.manifest.bytes.byteLength, usedAtMs: 5 });
      expect(manifest?.blobs).toMatchObject([
        { digest: config?.digest, isConfig: true, isHeld: true, isShared: false },
        { digest: layer?.digest, isConfig: false, isHeld: false, isShared: true },
      ]);
      expect(await survey.image(MIRRORED, LOOSE)).toMatchObject([{ digest: LOOSE, isHeld: false }]);
    });

    test('images that are known by digest only are found, but no parts of other images', async () => {
      const [tagged, child, untagged, attached] = ['tagged', 'child', 'untagged', 'attached'].map(name =>
        image(name),
      );
      const put = (
        repository: typeof HOSTED,
        { manifest, view }: ReturnType<typeof image>,
        rest: { tag?: string; subject?: Digest } = {},
      ) => {
        const subject = rest.subject && { mediaType: OCI_MANIFEST, digest: rest.subject, size: 1 };
        return store.putManifest(
          repository,
          manifest,
          { ...view, subject },
          { atMs: 1, ...(rest.tag && { tag: rest.tag }) },
        );
      };
      const index = image('index');
      const manifests = [{ mediaType: OCI_MANIFEST, digest: child!.manifest.digest, size: 1 }];
      await put(HOSTED, tagged!, { tag: 'v1' });
      await put(HOSTED, child!);
      await put(
        HOSTED,
        { ...index, view: { ...index.view, kind: 'index', manifests, blobs: [] } },
        { tag: 'v2' },
      );
      await put(HOSTED, attached!, { subject: tagged!.manifest.digest });
      await put(HOSTED, untagged!);
      await put(MIRRORED, tagged!);
      await store.putPin(HOSTED, untagged!.manifest.digest);
      const found = (await survey.untagged()).entries;
      expect(found).toEqual([
        { repository: HOSTED, digest: untagged!.manifest.digest, isPinned: true, isImported: false },
        { repository: MIRRORED, digest: tagged!.manifest.digest, isPinned: false, isImported: false },
      ]);
    });

    test('content that is linked in a repository is found if it is stored', async () => {
      const [one, two] = [image('one'), image('two')];
      const [config, layer] = one.blobs;
      if (config === undefined || layer === undefined) throw new Error('two blobs');
      await store.putManifest(HOSTED, one.manifest, one.view, { tag: 'v1', atMs: 1 });
      await store.putManifest(MIRRORED, two.manifest, two.view, { tag: 'v1', atMs: 1 });
      await store.putBlob(config.digest, config.size, HOSTED);
      await store.linkBlob(HOSTED, layer.digest, layer.size);
      const found: unknown[] = [];
      for await (const page of everything(after => survey.linked(HOSTED, after))) found.push(...page);
      expect(found).toHaveLength(2);
      expect(found).toEqual(
        expect.arrayContaining([
          { kind: 'manifest', digest: one.manifest.digest, size: one.manifest.bytes.byteLength },
          { kind: 'blob', digest: config.digest, size: config.size },
        ]),
      );
    });

    test('an index whose bytes are damaged is shown as such, and what else is in the repository as ever', async () => {
      const [one, index] = [image('one'), image('index')];
      await store.putManifest(HOSTED, one.manifest, one.view, { tag: 'v1', atMs: 1 });
      const damaged: Manifest = { mediaType: OCI_INDEX, digest: LOOSE, bytes: Buffer.from('no JSON') };
      const manifests = [{ mediaType: OCI_MANIFEST, digest: one.manifest.digest, size: 1 }];
      const view: ManifestView = { ...index.view, kind: 'index', mediaType: OCI_INDEX, manifests, blobs: [] };
      await store.putManifest(HOSTED, damaged, view, { tag: 'v2', atMs: 1 });
      const shown = await survey.image(HOSTED, LOOSE, 'v2');
      expect(shown).toMatchObject([
        { digest: LOOSE, isHeld: false, isDamaged: true, children: [] },
        { digest: one.manifest.digest, isHeld: true, isDamaged: false },
      ]);
    });

    const lost = async () => (await survey.lost()).entries;

    test('damaged content of a hosted repository is lost until it is stored again', async () => {
      await store.putBlob(LOOSE, 5, MIRRORED);
      await store.quarantine({ kind: 'blob', digest: LOOSE }, 'wrong bytes');
      expect(await lost()).toEqual([]);
      await store.linkBlob(HOSTED, LOOSE, 5);
      expect(await lost()).toEqual([{ kind: 'blob', digest: LOOSE, reason: 'wrong bytes' }]);
      await store.putBlob(LOOSE, 5);
      expect(await lost()).toEqual([]);
    });

    test('damaged manifests, stale damage and digests without a row are found', async () => {
      const one = image('one');
      const wrong = { ...one.manifest, digest: LOOSE };
      await store.putManifest(HOSTED, one.manifest, one.view, { atMs: 1 });
      await store.putManifest(HOSTED, wrong, one.view, { atMs: 1 });
      expect((await survey.damagedManifests()).entries).toMatchObject([{ kind: 'manifest', digest: LOOSE }]);
      await store.quarantine({ kind: 'manifest', digest: LOOSE }, 'wrong bytes');
      expect((await survey.staleDamage()).entries).toEqual([]);
      await store.unlinkManifest(HOSTED, LOOSE);
      expect((await survey.staleDamage()).entries).toEqual([LOOSE]);
      expect(await survey.withoutRow([LOOSE, one.manifest.digest])).toEqual([one.manifest.digest]);
      const objects = [LOOSE, one.manifest.digest].map(digest => ({ digest, key: `of ${digest}` }));
      expect(await survey.strayObjects(objects)).toEqual(objects.slice(1));
      expect(await store.putFoundBlob(objects[1]!, 1)).toBe(true);
      expect(await survey.strayObjects(objects)).toEqual([]);
    });
  });
}
