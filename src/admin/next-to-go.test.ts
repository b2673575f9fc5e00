import { expect, it } from 'vitest';
import { Latch } from '../../test/support/latch.ts';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { type NextParts, NextToGo } from './next-to-go.ts';

const digests = Array.from({ length: 40 }, (_, at) => digestOf(Buffer.from(String(at))));
const blobOf = (digest: Digest) => ({ kind: 'blob' as const, digest, size: 1 });

/** Pages of what can be evicted, the least recently used first. */
class PagedSurvey {
  asked = 0;
  /** What each question waits for. */
  wait: Promise<void> | undefined;
  failure: Error | undefined;
  /** Blobs that nothing refers to. */
  forgotten: readonly Digest[] = [];
  /** When they were last used. */
  readonly forgottenAtMs = 1_000;
  readonly #pages: readonly (readonly Digest[])[];

  constructor(pages: readonly (readonly Digest[])[]) {
    this.#pages = pages;
  }

  async unlinked(kind: 'blob' | 'manifest', unusedSinceMs: number) {
    const isFound = kind === 'blob' && this.forgottenAtMs < unusedSinceMs;
    return { entries: isFound ? this.forgotten.map(blobOf) : [], next: undefined };
  }

  async evictable(_unusedSinceMs: number, after = '0') {
    this.asked += 1;
    await this.wait;
    if (this.failure !== undefined) throw this.failure;
    const page = Number(after);
    const next = page + 1 < this.#pages.length ? String(page + 1) : undefined;
    return { entries: (this.#pages[page] ?? []).map(blobOf), next };
  }

  async repositoriesOf() {
    return [{ upstream: 'docker.io', name: 'library/app' }];
  }
}

const noReaders = { hasReaders: () => false };
const metadata = {
  readSetting: async () => undefined,
  importingSinceMs: async () => Number.POSITIVE_INFINITY,
};

function nextToGo(parts: Partial<NextParts> & Pick<NextParts, 'survey'>) {
  return new NextToGo({ metadata, blobs: noReaders, ...parts }, silentLog).look(60_000);
}

it('lists ten contents that would be evicted, however many before them cannot be', async () => {
  const survey = new PagedSurvey([[], digests.slice(0, 4), [], digests.slice(4, 20), digests.slice(20)]);
  const blobs = { hasReaders: (digest: Digest) => digest === digests[1] };
  const next = await nextToGo({ survey, blobs });
  expect(next?.map(({ digest }) => digest)).toEqual([digests[0], ...digests.slice(2, 11)]);
  expect(next?.[0]?.repositories).toEqual(['docker.io/library/app']);
  expect(survey.asked).toBe(4);
});

it('lists what nothing refers to any more before any image', async () => {
  const survey = new PagedSurvey([digests.slice(0, 1)]);
  survey.forgotten = digests.slice(1, 2);
  const next = await nextToGo({ survey });
  expect(next?.map(({ digest }) => digest)).toEqual([digests[1], digests[0]]);
});

it('leaves out what nothing refers to after a rebuild, and all while the index may be incomplete, as eviction does', async () => {
  const survey = new PagedSurvey([digests.slice(0, 1)]);
  survey.forgotten = digests.slice(1, 2);
  const rebuilt = { ...metadata, readSetting: async () => 'rebuilt' };
  const next = await nextToGo({ metadata: rebuilt, survey });
  expect(next?.map(({ digest }) => digest)).toEqual([digests[0]]);
  const isNew = { ...metadata, readSetting: async () => 'the index is new' };
  expect(await nextToGo({ metadata: isNew, survey })).toEqual([]);
});

it('leaves out what a running import may be about to link, as eviction does', async () => {
  const survey = new PagedSurvey([[]]);
  survey.forgotten = digests.slice(1, 2);
  const at = async (importingSinceMs: number) => {
    const importing = { ...metadata, importingSinceMs: async () => importingSinceMs };
    return nextToGo({ metadata: importing, survey });
  };
  expect(await at(survey.forgottenAtMs)).toEqual([]);
  expect(await at(survey.forgottenAtMs + 1)).toHaveLength(1);
});

it('lists fewer if there are no more', async () => {
  expect(await nextToGo({ survey: new PagedSurvey([[], []]) })).toEqual([]);
});

it('searches once for all who look, and on when they have waited enough', async () => {
  const survey = new PagedSurvey([digests]);
  const latch = new Latch();
  survey.wait = latch.opened;
  const clock = new ManualClock();
  const next = new NextToGo({ metadata, survey, blobs: noReaders }, silentLog, clock);
  const looks = [next.look(3_000), next.look(300), next.look(300)];
  await clock.advance(3_000);
  expect(await Promise.all(looks)).toEqual([null, null, null]);
  const late = next.look(60_000);
  latch.open();
  expect(await late).toHaveLength(10);
  expect(survey.asked).toBe(1);

  // It took three seconds, and is believed for thirty.
  await clock.advance(29_000);
  expect(await next.look(0)).toHaveLength(10);
  expect(survey.asked).toBe(1);
  await clock.advance(2_000);
  const again = new Latch();
  survey.wait = again.opened;
  const stale = next.look(300);
  await clock.advance(300);
  expect(await stale).toHaveLength(10);
  expect(survey.asked).toBe(2);
  again.open();
});

it('knows nothing after a search that failed, and begins again', async () => {
  const survey = new PagedSurvey([digests]);
  const next = new NextToGo({ metadata, survey, blobs: noReaders }, silentLog);
  survey.failure = new Error('locked');
  expect(await next.look(60_000)).toBeNull();
  survey.failure = undefined;
  expect(await next.look(60_000)).toHaveLength(10);
});
