import { expect } from 'vitest';
import { OCI_EMPTY, OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { nextLink } from '../../src/lib/link-header.ts';
import { bytesOf, type Content, contentOf, descriptorOf, type Image, imageOf } from '../support/content.ts';
import { type Answer, headerOf, newBlob, type Registry } from './registry.ts';
import type { Requirement } from './requirement.ts';

const UNKNOWN_DIGEST = `sha256:${'0'.repeat(64)}`;

async function tagsOf(
  registry: Registry,
  name: string,
  query = '',
): Promise<Answer & { tags: readonly string[] }> {
  const answer = await registry.expect({ path: `/v2/${name}/tags/list${query}` }, { status: 200 });
  const list: { name: string; tags: readonly string[] } = JSON.parse(answer.body.toString());
  expect(list.name).toBe(name);
  return { ...answer, tags: list.tags };
}

interface Listed {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly artifactType?: string;
  readonly annotations?: Readonly<Record<string, string>>;
}

async function referrersOf(registry: Registry, name: string, digest: string, query = '') {
  const answer = await registry.expect(
    { path: `/v2/${name}/referrers/${digest}${query}` },
    { status: 200, headers: { 'Content-Type': OCI_INDEX } },
  );
  const list: { schemaVersion: number; mediaType: string; manifests: readonly Listed[] } = JSON.parse(
    answer.body.toString(),
  );
  expect(list).toMatchObject({ schemaVersion: 2, mediaType: OCI_INDEX });
  return { ...answer, manifests: list.manifests };
}

/** All referrers, by the links from one part to the next. */
async function walk(registry: Registry, first: string): Promise<readonly Listed[]> {
  const seen: Listed[] = [];
  let path: string | undefined = first;
  while (path !== undefined) {
    const answer: Answer = await registry.expect({ path }, { status: 200 });
    const { manifests }: { manifests: readonly Listed[] } = JSON.parse(answer.body.toString());
    seen.push(...manifests);
    path = nextLink(headerOf(answer, 'Link'));
  }
  return seen;
}

/** An artifact about `subject`, pushed with its blobs. */
async function attach(
  registry: Registry,
  name: string,
  subject: Content,
  options: { artifactType?: string; annotations?: Readonly<Record<string, string>> } = {},
): Promise<Image> {
  return registry.pushImage(name, undefined, imageOf([newBlob()], { subject, ...options }));
}

export const DISCOVERY: readonly Requirement[] = [
  {
    id: 'D1',
    section: 'Listing Tags',
    level: 'MUST',
    text: 'the list is 200 with name and tags, in ASCII order',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'b');
      for (const tag of ['a', 'B', '1', '_x', 'a.b', 'a-b', 'A'])
        await registry.pushManifest(name, manifest, tag);
      expect((await tagsOf(registry, name)).tags).toEqual(['1', 'A', 'B', '_x', 'a', 'a-b', 'a.b', 'b']);
    },
  },
  {
    id: 'D2',
    section: 'Listing Tags',
    level: 'MUST',
    text: 'n bounds the list, and next links lead through all of it',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 't0');
      for (let at = 1; at < 7; at += 1) await registry.pushManifest(name, manifest, `t${at}`);
      const seen: string[] = [];
      let path: string | undefined = `/v2/${name}/tags/list?n=3`;
      const sizes: number[] = [];
      while (path !== undefined) {
        const answer: Answer = await registry.expect({ path }, { status: 200 });
        const { tags }: { tags: readonly string[] } = JSON.parse(answer.body.toString());
        sizes.push(tags.length);
        seen.push(...tags);
        path = nextLink(headerOf(answer, 'Link'));
      }
      expect(sizes).toEqual([3, 3, 1]);
      expect(seen).toEqual(['t0', 't1', 't2', 't3', 't4', 't5', 't6']);
    },
  },
  {
    id: 'D3',
    section: 'Listing Tags',
    level: 'MUST',
    text: 'n=0 is an empty list without Link',
    async check(registry) {
      const name = registry.repository();
      await registry.pushImage(name, 'v1');
      const { tags, headers } = await tagsOf(registry, name, '?n=0');
      expect(tags).toEqual([]);
      expect(headers['link']).toBeUndefined();
    },
  },
  {
    id: 'D4',
    section: 'Listing Tags',
    level: 'MUST',
    text: 'last leaves out itself and what is before it, with n and without, whether or not it exists',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'a');
      for (const tag of ['b', 'c', 'd']) await registry.pushManifest(name, manifest, tag);
      expect((await tagsOf(registry, name, '?last=b')).tags).toEqual(['c', 'd']);
      expect((await tagsOf(registry, name, '?n=1&last=b')).tags).toEqual(['c']);
      expect((await tagsOf(registry, name, '?last=bb')).tags).toEqual(['c', 'd']);
      expect((await tagsOf(registry, name, '?last=d')).tags).toEqual([]);
    },
  },
  {
    id: 'D5',
    section: 'Listing Tags',
    level: 'own',
    text: 'an n that is huge is bounded, one that is no number is refused',
    async check(registry) {
      const name = registry.repository();
      await registry.pushImage(name, 'v1');
      expect((await tagsOf(registry, name, `?n=${10 ** 9}`)).tags).toEqual(['v1']);
      expect((await tagsOf(registry, name, `?n=${'9'.repeat(40)}`)).tags).toEqual(['v1']);
      for (const n of ['-1', 'NaN', '1e3', '']) {
        await registry.expect({ path: `/v2/${name}/tags/list?n=${n}` }, { status: 400 });
      }
    },
  },
  {
    id: 'D6',
    section: 'Listing Tags',
    level: 'MUST',
    text: 'a repository without tags has an empty list, one that does not exist is 404',
    async check(registry) {
      const name = registry.repository();
      await registry.pushBlob(name, newBlob());
      expect((await tagsOf(registry, name)).tags).toEqual([]);
      const path = `/v2/${registry.repository()}/tags/list`;
      await registry.expect({ path }, { status: 404, code: 'NAME_UNKNOWN' });
    },
  },
  {
    id: 'D7',
    section: 'Listing Referrers',
    level: 'MUST',
    text: 'with no referrer the list is empty, never 404, also where nothing was ever pushed',
    async check(registry) {
      const name = registry.repository();
      expect((await referrersOf(registry, name, UNKNOWN_DIGEST)).manifests).toEqual([]);
      const { manifest } = await registry.pushImage(name, 'v1');
      expect((await referrersOf(registry, name, manifest.digest)).manifests).toEqual([]);
    },
  },
  {
    id: 'D8',
    section: 'Listing Referrers',
    level: 'MUST',
    text: 'an invalid digest is 400',
    check: registry =>
      registry.expect({ path: `/v2/${registry.repository()}/referrers/sha256:nonsense` }, { status: 400 }),
  },
  {
    id: 'D9',
    section: 'Listing Referrers',
    level: 'MUST',
    text: "descriptors carry artifactType, else the config's media type, and the annotations",
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      const annotations = { 'org.example': 'yes' };
      const typed = await attach(registry, name, manifest, {
        artifactType: 'application/vnd.example',
        annotations,
      });
      const plain = await attach(registry, name, manifest);
      const { manifests } = await referrersOf(registry, name, manifest.digest);
      expect(manifests).toHaveLength(2);
      expect(manifests).toContainEqual({
        ...descriptorOf(typed.manifest),
        artifactType: 'application/vnd.example',
        annotations,
      });
      const listed = manifests.find(({ digest }) => digest === plain.manifest.digest);
      expect(listed).toMatchObject({ ...descriptorOf(plain.manifest), artifactType: plain.config.mediaType });
    },
  },
  {
    id: 'D10',
    section: 'Listing Referrers',
    level: 'MUST',
    text: 'an index refers too, and without artifactType it is listed without one',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      const document = {
        schemaVersion: 2,
        mediaType: OCI_INDEX,
        manifests: [],
        subject: descriptorOf(manifest),
      };
      const index = contentOf(JSON.stringify(document), OCI_INDEX);
      const typed = contentOf(JSON.stringify({ ...document, artifactType: 'text/x-own' }), OCI_INDEX);
      for (const content of [index, typed]) {
        const { headers } = await registry.pushManifest(name, content);
        expect(headers['oci-subject']).toBe(manifest.digest);
      }
      const { manifests } = await referrersOf(registry, name, manifest.digest);
      expect(manifests.find(({ digest }) => digest === index.digest)).not.toHaveProperty('artifactType');
      expect(manifests.find(({ digest }) => digest === typed.digest)?.artifactType).toBe('text/x-own');
    },
  },
  {
    id: 'D11',
    section: 'Listing Referrers',
    level: 'SHOULD',
    text: 'the artifactType filter is applied, and said so',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      const wanted = await attach(registry, name, manifest, { artifactType: 'application/vnd.a+json' });
      await attach(registry, name, manifest, { artifactType: 'application/vnd.b+json' });
      const query = `?artifactType=${encodeURIComponent('application/vnd.a+json')}`;
      const { manifests, headers } = await referrersOf(registry, name, manifest.digest, query);
      expect(manifests.map(({ digest }) => digest)).toEqual([wanted.manifest.digest]);
      expect(headers['oci-filters-applied']).toBe('artifactType');
      expect(
        (await referrersOf(registry, name, manifest.digest)).headers['oci-filters-applied'],
      ).toBeUndefined();
    },
  },
  {
    id: 'D12',
    section: 'Listing Referrers',
    level: 'MUST',
    text: 'a list in parts has a next link, its parts differ, and a filter holds for all of them',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      const pushed: string[] = [];
      for (let at = 0; at < 6; at += 1) {
        const artifact = await attach(registry, name, manifest, {
          artifactType: at % 2 ? 'text/a' : 'text/b',
        });
        pushed.push(artifact.manifest.digest);
      }
      const referrers = `/v2/${name}/referrers/${manifest.digest}`;
      const all = await walk(registry, `${referrers}?n=2`);
      expect(all.map(({ digest }) => digest).toSorted()).toEqual(pushed.toSorted());
      const filtered = await walk(registry, `${referrers}?n=2&artifactType=text/a`);
      expect(filtered.map(({ digest }) => digest).toSorted()).toEqual(
        pushed.filter((_, at) => at % 2).toSorted(),
      );
    },
  },
  {
    id: 'D13',
    section: 'Enabling the Referrers API',
    level: 'MUST',
    text: 'referrers count by their own subject: pushed before it, in this repository alone, until deleted',
    async check(registry) {
      const [name, other] = [registry.repository(), registry.repository()];
      const image = imageOf([newBlob()]);
      const { manifest } = await attach(registry, name, image.manifest);
      const digests = async (repository: string) =>
        (await referrersOf(registry, repository, image.manifest.digest)).manifests.map(
          ({ digest }) => digest,
        );
      expect(await digests(name)).toEqual([manifest.digest]);
      await registry.pushImage(name, 'v1', image);
      await registry.pushImage(other, 'v1', image);
      expect(await digests(name)).toEqual([manifest.digest]);
      expect(await digests(other)).toEqual([]);
      await registry.expect(
        { method: 'DELETE', path: `/v2/${name}/manifests/${manifest.digest}` },
        { status: 202 },
      );
      expect(await digests(name)).toEqual([]);
    },
  },
  {
    id: 'D14',
    section: 'Referrers Tag Schema',
    level: 'MUST',
    text: 'a tag of the referrers tag schema, as clients of older registries keep it, is pushed and read like any other',
    async check(registry) {
      const name = registry.repository();
      const { manifest } = await registry.pushImage(name, 'v1');
      const artifact = await attach(registry, name, manifest);
      const manifests = [{ ...descriptorOf(artifact.manifest), artifactType: OCI_EMPTY }];
      const list = contentOf(
        JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }),
        OCI_INDEX,
      );
      const tag = manifest.digest.replace(':', '-');
      await registry.pushManifest(name, list, tag);
      await registry.expect({ path: `/v2/${name}/manifests/${tag}` }, { status: 200, body: bytesOf(list) });
      const referrers = await referrersOf(registry, name, manifest.digest);
      expect(referrers.manifests.map(({ digest }) => digest)).toEqual([artifact.manifest.digest]);
      expect(referrers.manifests[0]?.mediaType).toBe(OCI_MANIFEST);
    },
  },
  {
    id: 'D15',
    section: 'Docker Registry HTTP API V2, "Listing Repositories"',
    level: 'own',
    text: 'the catalog lists repositories in order and in pages',
    async check(registry) {
      const names = [registry.repository(), registry.repository(), registry.repository()];
      for (const name of names) await registry.pushBlob(name, newBlob());
      const seen: string[] = [];
      let path: string | undefined = '/v2/_catalog?n=2';
      while (path !== undefined) {
        const answer: Answer = await registry.expect({ path }, { status: 200 });
        const { repositories }: { repositories: readonly string[] } = JSON.parse(answer.body.toString());
        expect(repositories.length).toBeLessThanOrEqual(2);
        seen.push(...repositories);
        path = nextLink(headerOf(answer, 'Link'));
      }
      expect(seen).toEqual([...new Set(seen)].sort());
      for (const name of names) expect(seen).toContain(name);
    },
  },
];
