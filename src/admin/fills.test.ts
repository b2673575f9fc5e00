import { expect, it } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { allDownloads } from './downloads.ts';
import { FillList } from './fills.ts';
import { queueDocument } from './queue.ts';

function downloadOf(at: number, more: object = {}) {
  return {
    repository: `docker.io/library/app-${at}`,
    digest: digestOf(Buffer.from(String(at))),
    kind: 'whole' as const,
    state: 'downloading' as const,
    bytes: 0,
    aheadBytes: 0,
    size: 1_000,
    readers: 1,
    requesters: ['anonymous'],
    startedAtMs: 1_000 + at,
    holder: undefined,
    ...more,
  };
}

it('measures the rate over the last seconds, and how long the rest takes', () => {
  let nowMs = 0;
  const fills = new FillList(() => nowMs);
  const at = (ms: number, bytes: number) => {
    nowMs = ms;
    const [fill] = fills.look([downloadOf(0, { bytes, size: 100_000 })]);
    return [fill?.bytesPerSecond, fill?.remainingSeconds];
  };
  expect(at(0, 50_000)).toEqual([null, null]);
  expect(at(1_000, 51_000)).toEqual([1_000, 49]);
  expect(at(2_000, 52_000)).toEqual([1_000, 48]);
  // Ten times as fast: the earlier seconds are soon forgotten.
  for (let second = 3; second < 7; second += 1) at(second * 1_000, 52_000 + (second - 2) * 10_000);
  expect(at(7_000, 99_000)).toEqual([9_400, 1]);
  expect(at(60_000, 99_000)[0]).toBeLessThan(1_000);
  expect(at(70_000, 99_000)).toEqual([0, null]);
});

it('begins again for one that has ended and is downloaded again', () => {
  let nowMs = 0;
  const fills = new FillList(() => nowMs);
  fills.look([downloadOf(0, { bytes: 500 })]);
  nowMs = 1_000;
  fills.look([]);
  expect(fills.look([downloadOf(0)])[0]?.bytesPerSecond).toBeNull();
});

it('lists those that have ended for a while, and whether they are stored, to whoever has looked before', async () => {
  let nowMs = 0;
  const fills = new FillList(() => nowMs);
  const [stored, failed, third] = [1, 2, 3].map(at => downloadOf(at));
  if (stored === undefined || failed === undefined || third === undefined) throw new Error('there are three');
  const ended = async (running: readonly ReturnType<typeof downloadOf>[]) => {
    const page = await fills.page(running, { limit: 1 }, async digest => digest === stored.digest);
    return page.ended.map(each => [each.repository, each.stored]);
  };
  expect(await ended([stored, failed, third])).toEqual([]);
  nowMs = 1_000;
  expect(await ended([third])).toEqual([
    [stored.repository, true],
    [failed.repository, false],
  ]);
  nowMs = 15_000;
  // It was tried again.
  expect(await ended([failed, third])).toEqual([[stored.repository, true]]);
  nowMs = 22_000;
  expect(await ended([failed])).toEqual([[third.repository, false]]);
  // Nobody looked for longer than that.
  nowMs = 50_000;
  expect(await ended([])).toEqual([]);
});

it('comes in pages, in which those that end and begin move no other', async () => {
  const fills = new FillList();
  const all = Array.from({ length: 1_000 }, (_, at) => downloadOf(at));
  const seen: string[] = [];
  let after: string | undefined;
  let running = all;
  let round = 0;
  do {
    const page = await fills.page(running, { limit: 100, after }, async () => false);
    seen.push(...page.entries.map(({ repository }) => repository));
    after = page.next ?? undefined;
    // Of those that were listed, some end; new ones begin last.
    running = [
      ...running.filter(({ startedAtMs }) => startedAtMs % 7 > 0 || startedAtMs > 1_900),
      downloadOf(2_000 + round++),
    ];
  } while (after !== undefined);
  expect(new Set(seen).size).toBe(seen.length);
  const stayed = all.filter(({ startedAtMs }) => startedAtMs % 7 > 0);
  expect(seen).toEqual(expect.arrayContaining(stayed.map(({ repository }) => repository)));
});

it('counts what is there behind the first missing byte', () => {
  let nowMs = 0;
  const fills = new FillList(() => nowMs);
  const [begun] = fills.look([downloadOf(0, { bytes: 0, aheadBytes: 400 })]);
  nowMs = 1_000;
  const [later] = fills.look([downloadOf(0, { bytes: 450, aheadBytes: 50 })]);
  expect([begun?.bytes, later?.bytes, later?.bytesPerSecond, later?.remainingSeconds]).toEqual([
    400, 500, 100, 5,
  ]);
});

it('adds up the ranges of a layer that several processes request', () => {
  const ranges = { ...downloadOf(0), kind: 'ranges' as const, bytes: 10, size: 100 };
  const queued = { ...ranges, state: 'queued' as const, bytes: 0, size: 50, requesters: ['team-a'] };
  const all = allDownloads([{ downloads: [queued, downloadOf(0)] }, { downloads: [ranges] }]);
  expect(all).toEqual([
    { ...ranges, size: 150, readers: 2, requesters: ['team-a', 'anonymous'] },
    downloadOf(0),
  ]);
});

it('shows first who waits and downloads most', () => {
  const pulls = { serializeImagePulls: false, maxConnections: 2, completeRanged: 'never' as const };
  const [few, most] = [
    { requester: 'team-a', running: 1, waiting: 0 },
    { requester: 'team-b', running: 1, waiting: 1 },
  ];
  expect(queueDocument({ running: 2, waiting: 1, requesters: [few, most] }, pulls)).toEqual({
    running: 2,
    waiting: 1,
    maxConnections: 2,
    maxImagePulls: null,
    requesters: [most, few],
  });
});
