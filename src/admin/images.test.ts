import { expect, it } from 'vitest';
import type { Found, SurveyedImage, SurveyedManifest } from '../metadata/survey.ts';
import { OCI_MANIFEST } from '../oci/media-types.ts';
import { digestOf } from '../oci/digest.ts';
import { imagesQuery } from './documents/images.ts';
import { imagesDocument } from './images.ts';

/** How many entries the survey lists at a time. */
const SURVEY_PAGE = 20;

/** Images of a store, as the survey lists them. */
class ListedImages {
  tagged: SurveyedImage[] = [];
  untaggedImages: SurveyedImage[] = [];
  looks = 0;

  constructor(count: number) {
    for (let at = 0; at < count; at += 1) this.tagged.push(imageAt(at, `v${String(at).padStart(6, '0')}`));
    for (let at = 0; at < count / 2; at += 1) this.untaggedImages.push(imageAt(at + count, undefined));
    this.untaggedImages.sort((one, other) => (one.digest < other.digest ? -1 : 1));
  }

  tags(after?: string) {
    return pageOf(this.tagged, ({ tag }) => tag ?? '', after);
  }

  untagged(after?: string) {
    return pageOf(this.untaggedImages, ({ digest }) => digest, after);
  }

  async orderedImages() {
    const entries = this.tagged.toReversed();
    return { entries, next: undefined, isPartial: true };
  }

  async image(_repository: unknown, digest: SurveyedImage['digest']): Promise<readonly SurveyedManifest[]> {
    this.looks += 1;
    const manifest = { digest, isHeld: true, isDamaged: false, isShared: false, size: 1, usedAtMs: 1 };
    return [{ ...manifest, mediaType: OCI_MANIFEST, children: [], blobs: [] }];
  }
}

function imageAt(at: number, tag: string | undefined): SurveyedImage {
  const repository = { upstream: 'docker.io', name: 'library/app' };
  return {
    repository,
    tag,
    digest: digestOf(Buffer.from(String(at))),
    isPinned: at % 10 === 0,
    isImported: false,
  };
}

async function pageOf(
  images: readonly SurveyedImage[],
  keyOf: (image: SurveyedImage) => string,
  after = '',
): Promise<Found<SurveyedImage>> {
  const rest = images.filter(image => keyOf(image) > after);
  const entries = rest.slice(0, SURVEY_PAGE);
  const last = entries.at(-1);
  return { entries, next: last !== undefined && entries.length === SURVEY_PAGE ? keyOf(last) : undefined };
}

const blobs = { open: async () => undefined };

function read(survey: ListedImages, query: object) {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- nothing else is asked of them
  const parts = { survey, blobs } as unknown as Parameters<typeof imagesDocument>[0];
  return imagesDocument(parts, imagesQuery.parse(query));
}

async function readAll(survey: ListedImages, query: object, between = () => {}): Promise<readonly string[]> {
  const names: string[] = [];
  for (let after: string | undefined; ; ) {
    const { entries, next } = await read(survey, { ...query, ...(after !== undefined && { after }) });
    names.push(...entries.map(({ image }) => image));
    if (next === null) return names;
    after = next;
    between();
  }
}

it.each([1, 7, 20, 33, 500])('lists every image once, tags first, in pages of %i', async limit => {
  const survey = new ListedImages(100);
  const names = await readAll(survey, { limit });
  expect(names).toHaveLength(150);
  expect(new Set(names).size).toBe(150);
  expect(names.slice(0, 100)).toEqual(names.slice(0, 100).toSorted());
  expect(names.slice(100).every(name => name.includes('@sha256:'))).toBe(true);
});

it('skips and repeats nothing if images are removed and added between two pages', async () => {
  const survey = new ListedImages(100);
  const stay = new Set(
    survey.tagged.filter((_, at) => at % 3 > 0).map(({ tag }) => `docker.io/library/app:${tag}`),
  );
  let round = 0;
  const names = await readAll(survey, { limit: 7 }, () => {
    round += 1;
    survey.tagged = survey.tagged.filter(
      ({ tag }) => stay.has(`docker.io/library/app:${tag}`) || round % 2 > 0,
    );
    survey.tagged.unshift(imageAt(1_000 + round, `a${round}`));
  });
  expect(new Set(names).size).toBe(names.length);
  expect(names).toEqual(expect.arrayContaining([...stay]));
});

it('looks at the content only of images that the index alone does not rule out', async () => {
  const survey = new ListedImages(1_000);
  const { entries, examined } = await read(survey, { q: 'v000123' });
  expect(entries.map(({ image }) => image)).toEqual(['docker.io/library/app:v000123']);
  expect(examined).toBe(1_500);
  expect(survey.looks).toBe(1);
  expect(await readAll(survey, { pinned: 'true' })).toHaveLength(150);
  expect(await readAll(survey, { source: 'hosted' })).toEqual([]);
});

it('answers a long search in steps', async () => {
  const survey = new ListedImages(8_000);
  const first = await read(survey, { q: 'v007999' });
  expect(first).toMatchObject({ examined: 10_000, next: expect.any(String) });
  expect(await readAll(survey, { q: 'v007999' })).toEqual(['docker.io/library/app:v007999']);
});

it('refuses what is no cursor of its own', async () => {
  const survey = new ListedImages(10);
  const pages = [
    { list: 'tags', page: 1, name: '' },
    { list: 'tags', page: 'a \0 b', name: '' },
  ].map(page => JSON.stringify(page));
  for (const text of ['null', '[]', '1', '{', '{}', '"tags"', ...pages, '{"list":"__proto__","name":""}'])
    await expect(read(survey, { after: Buffer.from(text).toString('base64url') })).rejects.toThrow(
      'not a cursor of this list',
    );
});

it('lists them in another order, and says if that is not final', async () => {
  const survey = new ListedImages(100);
  const { entries, next, partial } = await read(survey, { sort: 'own', limit: 2 });
  expect(partial).toBe(true);
  expect(entries.map(({ image }) => image.slice(-3))).toEqual(['099', '098']);
  expect((await read(survey, { sort: 'own', limit: 1, after: next })).entries[0]?.image).toContain('097');
  await expect(read(survey, { after: next })).rejects.toThrow('not a cursor of this list');
});

it('goes on after the longest name that there can be', async () => {
  const survey = new ListedImages(0);
  const repository = { upstream: `${'u'.repeat(247)}:65535`, name: 'r'.repeat(255) };
  const tags = Array.from({ length: 2 * SURVEY_PAGE }, (_, at) => `${'t'.repeat(126)}${at + 10}`);
  survey.tagged = tags.map((tag, at) => ({ ...imageAt(at, tag), repository }));
  // The index names the place by all of it.
  survey.tags = after =>
    pageOf(survey.tagged, ({ tag }) => `${repository.upstream} ${repository.name} ${tag}`, after);
  expect(await readAll(survey, { limit: 7 })).toHaveLength(tags.length);
});
