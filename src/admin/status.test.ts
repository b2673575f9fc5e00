import { describe, expect, it } from 'vitest';
import { type Digest, digestOf } from '../oci/digest.ts';
import { allPartials, nextToGo } from './status.ts';

const digests = Array.from({ length: 40 }, (_, at) => digestOf(Buffer.from(String(at))));
const blobOf = (digest: Digest) => ({ kind: 'blob' as const, digest, size: 1 });

/** Pages of what can be evicted, the least recently used first. */
class PagedSurvey {
  asked = 0;
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
    const page = Number(after);
    const next = page + 1 < this.#pages.length ? String(page + 1) : undefined;
    return { entries: (this.#pages[page] ?? []).map(blobOf), next };
  }

  async repositoriesOf() {
    return [{ upstream: 'docker.io', name: 'library/app' }];
  }
}

const within = new AbortController().signal;
const noReaders = { hasReaders: () => false };
const metadata = {
  readSetting: async () => undefined,
  importingSinceMs: async () => Number.POSITIVE_INFINITY,
};

it('lists ten contents that would be evicted, however many before them cannot be', async () => {
  const survey = new PagedSurvey([[], digests.slice(0, 4), [], digests.slice(4, 20), digests.slice(20)]);
  const blobs = { hasReaders: (digest: Digest) => digest === digests[1] };
  const next = await nextToGo({ metadata, survey, blobs }, within);
  expect(next.map(({ digest }) => digest)).toEqual([digests[0], ...digests.slice(2, 11)]);
  expect(next[0]?.repositories).toEqual(['docker.io/library/app']);
  expect(survey.asked).toBe(4);
});

it('lists what nothing refers to any more before any image', async () => {
  const survey = new PagedSurvey([digests.slice(0, 1)]);
  survey.forgotten = digests.slice(1, 2);
  const next = await nextToGo({ metadata, survey, blobs: noReaders }, within);
  expect(next.map(({ digest }) => digest)).toEqual([digests[1], digests[0]]);
});

it('leaves out what nothing refers to while the index may be incomplete, as eviction does', async () => {
  const survey = new PagedSurvey([digests.slice(0, 1)]);
  survey.forgotten = digests.slice(1, 2);
  const rebuilt = { ...metadata, readSetting: async () => 'the index was rebuilt' };
  const next = await nextToGo({ metadata: rebuilt, survey, blobs: noReaders }, within);
  expect(next.map(({ digest }) => digest)).toEqual([digests[0]]);
});

it('leaves out what a running import may be about to link, as eviction does', async () => {
  const survey = new PagedSurvey([[]]);
  survey.forgotten = digests.slice(1, 2);
  const at = async (importingSinceMs: number) => {
    const importing = { ...metadata, importingSinceMs: async () => importingSinceMs };
    return nextToGo({ metadata: importing, survey, blobs: noReaders }, within);
  };
  expect(await at(survey.forgottenAtMs)).toEqual([]);
  expect(await at(survey.forgottenAtMs + 1)).toHaveLength(1);
});

it('lists fewer if there are no more', async () => {
  expect(await nextToGo({ metadata, survey: new PagedSurvey([[], []]), blobs: noReaders }, within)).toEqual(
    [],
  );
});

it('stops when nobody waits for it any more', async () => {
  const survey = new PagedSurvey([[], [], digests]);
  const nobody = AbortSignal.abort();
  await expect(nextToGo({ metadata, survey, blobs: noReaders }, nobody)).rejects.toBe(nobody.reason);
  expect(survey.asked).toBe(0);
});

describe('layers that are read in parts', () => {
  const [digest = digestOf(Buffer.alloc(0)), another = digest] = digests;
  const repository = 'docker.io/library/app';
  const onDisk = { digest, repository: undefined, size: undefined, readers: 0 };
  const inUse = { digest, repository, size: 9_000 };
  const download = {
    repository,
    digest,
    state: 'downloading' as const,
    bytes: 1,
    size: 9_000,
    readers: 1,
    requesters: ['anonymous'],
    startedAtMs: 0,
    holder: undefined,
  };

  it('are listed once, however many processes read them', () => {
    const main = { partials: [0, 400].map(bytes => ({ ...onDisk, bytes })) };
    const readers = [
      { partials: [{ ...inUse, bytes: 400, readers: 1 }] },
      { partials: [{ ...inUse, bytes: 0, readers: 2 }] },
    ];
    expect(allPartials([main, ...readers], [])).toEqual([{ ...inUse, bytes: 400, readers: 3 }]);
  });

  it('are not listed while they are downloaded as a whole', () => {
    const own = { partials: [{ ...inUse, bytes: 400, readers: 1 }] };
    expect(allPartials([own], [download])).toEqual([]);
    expect(allPartials([own], [{ ...download, digest: another }]).length).toBe(1);
  });
});
