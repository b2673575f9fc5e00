import { expect, it } from 'vitest';
import { Refusals } from './refusals.ts';

function refusalOf(at: number, more: object = {}) {
  return {
    atMs: 1_000_000 + at,
    times: 1,
    requester: 'team-a',
    remote: '192.0.2.1',
    repository: 'docker.io/library/app',
    reference: 'v1',
    method: 'GET',
    status: 403,
    code: 'DENIED',
    reason: 'DENIED: no',
    ...more,
  };
}

it('counts equal ones, and lists the latest first', () => {
  const refusals = new Refusals();
  refusals.add(refusalOf(1));
  refusals.add(refusalOf(2, { reference: 'v2' }));
  refusals.add(refusalOf(3, { times: 4, remote: '192.0.2.2' }));
  const { entries } = refusals.page({ limit: 10 });
  expect(entries.map(({ reference, times }) => `${reference} ${times}`)).toEqual(['v1 5', 'v2 1']);
  expect(entries[0]).toMatchObject({ remote: '192.0.2.2', id: '1' });
  expect(Date.parse(entries[0]?.since ?? '')).toBe(1_000_001);
  expect(Date.parse(entries[0]?.at ?? '')).toBe(1_000_003);
});

it('keeps the last time of equal ones in whichever order they come', () => {
  const refusals = new Refusals();
  refusals.add(refusalOf(5, { remote: '192.0.2.5' }));
  refusals.add(refusalOf(2, { remote: '192.0.2.2' }));
  const [entry] = refusals.page({ limit: 10 }).entries;
  expect(entry).toMatchObject({ times: 2, remote: '192.0.2.5' });
  expect([entry?.since, entry?.at].map(time => Date.parse(time ?? ''))).toEqual([1_000_002, 1_000_005]);
});

it('remembers the last thousand different ones', () => {
  const refusals = new Refusals();
  for (let at = 0; at < 5_000; at += 1) refusals.add(refusalOf(at, { reference: `v${at}` }));
  const seen: string[] = [];
  for (let after: string | undefined; ; ) {
    const { entries, next } = refusals.page({ limit: 300, after });
    seen.push(...entries.map(({ reference }) => reference ?? ''));
    // Those that come meanwhile are before the first page.
    refusals.add(refusalOf(6_000 + seen.length, { reference: 'v4999' }));
    if (next === null) break;
    after = next;
  }
  expect(seen.length).toBe(1_000);
  expect(new Set(seen).size).toBe(1_000);
  expect(seen[0]).toBe('v4999');
  expect(seen.at(-1)).toBe('v4000');
});

it('finds those of a repository, a requester or a reason', () => {
  const refusals = new Refusals();
  refusals.add(refusalOf(1));
  refusals.add(refusalOf(2, { requester: 'team-b', repository: undefined, reason: 'the quota is used up' }));
  const found = (q: string) => refusals.page({ limit: 10, q }).entries.length;
  expect([found('app'), found('team-b'), found('quota'), found('nothing')]).toEqual([1, 1, 1, 0]);
});
