import { expect, it } from 'vitest';
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

  async tags() {
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

function catalogueOf(survey: NumberedImages, waitMs?: number): ImageCatalogue {
  // It asks nothing else.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return new ImageCatalogue(survey as unknown as Survey, waitMs);
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

it('answers with what it has seen if somebody has waited for long', async () => {
  const survey = new NumberedImages();
  const latch = new AbortController();
  survey.wait = new Promise(resolve => {
    latch.signal.addEventListener('abort', () => resolve());
  });
  const catalogue = catalogueOf(survey, 1);
  await expect.poll(async () => (await catalogue.page('used')).entries.length).toBe(100);
  const early = await catalogue.page('used');
  expect(early.isPartial).toBe(true);
  expect(early.entries[0]?.tag).toBe('v99');
  latch.abort();
  await expect.poll(async () => (await catalogue.page('used')).isPartial).toBe(false);
  expect(survey.looks).toBe(digests.length);
});
