import { expect, it } from 'vitest';
import { Latch } from '../../test/support/latch.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import type { Survey, SurveyedImage } from '../metadata/survey.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { OCI_MANIFEST } from '../oci/media-types.ts';
import { ImageCatalogue } from './image-catalogue.ts';

const digests = Array.from({ length: 1_200 }, (_, at) => digestOf(Buffer.from(String(at))));
const repository = { upstream: 'docker.io', name: 'library/app' };

/** A survey of images whose size and last use is their number. */
class NumberedImages implements Pick<Survey, 'tags' | 'untagged' | 'image'> {
  looks = 0;
  /** Resolves looks from the hundredth on, if set. */
  wait: Promise<void> | undefined;
  failure: Error | undefined;

  async tags() {
    if (this.failure !== undefined) throw this.failure;
    const entries = digests.map((digest, at): SurveyedImage => {
      return { repository, tag: `v${at}`, digest, isPinned: false, isImported: false };
    });
    return { entries, next: undefined };
  }

  async untagged() {
    return { entries: [], next: undefined };
  }

  async image(_repository: unknown, digest: Digest) {
    this.looks += 1;
    if (this.looks > 100) await this.wait;
    const at = digests.indexOf(digest);
    const manifest = {
      digest,
      isHeld: true,
      isDamaged: false,
      isShared: at % 2 === 0,
      size: at,
      usedAtMs: at,
    };
    return [{ ...manifest, mediaType: OCI_MANIFEST, children: [], blobs: [] }];
  }
}

function catalogueOf(survey: NumberedImages, clock?: ManualClock): ImageCatalogue {
  // It asks nothing else.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return new ImageCatalogue(survey as unknown as Survey, clock);
}

it('orders all images, with one look at each, in pages that go on where the last one ended', async () => {
  const survey = new NumberedImages();
  const catalogue = catalogueOf(survey);
  const tags: (string | undefined)[] = [];
  for (let after: string | undefined; ; ) {
    const { entries, next, isPartial } = await catalogue.page('used', after);
    expect(isPartial).toBe(false);
    tags.push(...entries.map(({ tag }) => tag));
    if (next === undefined) break;
    after = next;
  }
  expect(tags).toEqual(digests.map((_, at) => `v${digests.length - 1 - at}`));
  const { entries } = await catalogue.page('own');
  // Every other one is shared, so that removing it frees nothing.
  expect(entries.slice(0, 2).map(({ tag }) => tag)).toEqual(['v1199', 'v1197']);
  expect((await catalogue.page('shared')).entries[0]?.tag).toBe('v1198');
  expect(survey.looks).toBe(digests.length);
});

/** Keeps the look at the hundredth image from ending, until the returned function is called. */
function latched(survey: NumberedImages): () => void {
  const latch = new Latch();
  survey.wait = latch.opened;
  return () => latch.open();
}

it('answers with what it has seen if somebody has waited for long', async () => {
  const survey = new NumberedImages();
  const open = latched(survey);
  const catalogue = catalogueOf(survey, new ManualClock().skipWaits(10_000));
  await expect.poll(async () => (await catalogue.page('used')).entries.length).toBe(100);
  const early = await catalogue.page('used');
  expect(early.isPartial).toBe(true);
  expect(early.entries[0]?.tag).toBe('v99');
  open();
  await expect.poll(async () => (await catalogue.page('used')).isPartial).toBe(false);
  expect(survey.looks).toBe(digests.length);
});

it('is believed for longer if it took long, and then shown until the next one is there', async () => {
  const survey = new NumberedImages();
  const clock = new ManualClock();
  const catalogue = catalogueOf(survey, clock);
  let open = latched(survey);
  const first = catalogue.page('used');
  await expect.poll(() => survey.looks).toBe(101);
  clock.skip(100_000);
  open();
  expect((await first).isPartial).toBe(false);
  clock.skip(299_000);
  await catalogue.page('used');
  expect(survey.looks).toBe(digests.length);

  clock.skip(2_000);
  open = latched(survey);
  survey.looks = 0;
  const old = await catalogue.page('used');
  expect([old.isPartial, old.entries.length]).toEqual([false, 500]);
  await expect.poll(() => survey.looks).toBe(101);
  open();
  await expect.poll(() => survey.looks).toBe(digests.length);
  expect((await catalogue.page('used')).isPartial).toBe(false);
  expect(survey.looks).toBe(digests.length);
});

it('is forgotten, and made no more, when nobody has asked for a while', async () => {
  const survey = new NumberedImages();
  const clock = new ManualClock();
  const catalogue = catalogueOf(survey, clock);
  const open = latched(survey);
  const asked = catalogue.page('used');
  await expect.poll(() => survey.looks).toBe(101);
  await clock.advance(2_000);
  expect((await asked).isPartial).toBe(true);
  await clock.advance(200_000);
  open();
  survey.looks = 0;
  expect((await catalogue.page('used')).isPartial).toBe(false);
  expect(survey.looks).toBe(digests.length);
});

it('begins again after the index could not be read', async () => {
  const survey = new NumberedImages();
  const catalogue = catalogueOf(survey);
  survey.failure = new Error('locked');
  await expect(catalogue.page('own')).rejects.toThrow('locked');
  survey.failure = undefined;
  expect((await catalogue.page('own')).entries[0]?.tag).toBe('v1199');
});

it('finds its place again when the image of a cursor is gone, and for cursors of nobody', async () => {
  const catalogue = catalogueOf(new NumberedImages());
  const { entries } = await catalogue.page('used', '1000 docker.io/library/app:v1000a');
  expect(entries[0]?.tag).toBe('v999');
  for (const after of ['', 'x', '1e999 ', ' \0'])
    expect((await catalogue.page('used', after)).isPartial).toBe(false);
});
