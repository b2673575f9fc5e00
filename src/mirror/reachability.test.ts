import { beforeEach, expect, it } from 'vitest';
import { UpstreamFailure } from '../upstream/failures.ts';
import { Reachability } from './reachability.ts';

const HUB = 'docker.io';
const failure = new UpstreamFailure('unavailable', 'timeout');

let nowMs: number;
let said: string[];
let reachability: Reachability;

beforeEach(() => {
  nowMs = 0;
  said = [];
  reachability = new Reachability(() => nowMs, {
    noteReachable: (upstream, failed) =>
      void said.push(`${upstream} ${failed === undefined ? 'answers' : 'fails'}`),
    noteDown: (upstream, outage) =>
      void said.push(`${upstream} is ${outage === undefined ? 'back' : `down since ${outage.sinceMs}`}`),
  });
});

function failedAt(...timesMs: readonly number[]): void {
  for (const atMs of timesMs) {
    nowMs = atMs;
    reachability.failed(HUB, failure);
  }
}

it('says once that an upstream is down that has only failed for a while, and when it is back', () => {
  failedAt(1_000, 5_000, 30_999);
  expect(reachability.isDown(HUB)).toBe(false);
  failedAt(31_000, 60_000);
  expect(reachability.isDown(HUB)).toBe(true);
  expect(reachability.isDown('ghcr.io')).toBe(false);
  expect(reachability.answered(HUB)).toBe(true);
  expect(reachability.answered(HUB)).toBe(false);
  expect(reachability.isDown(HUB)).toBe(false);
  expect(said).toEqual([
    'docker.io fails',
    'docker.io is down since 1000',
    'docker.io answers',
    'docker.io is back',
  ]);
});

it('takes no single failure for an outage, however long nobody asks after it', () => {
  failedAt(0);
  nowMs = 3_600_000;
  expect(reachability.isDown(HUB)).toBe(false);
  reachability.answered(HUB);
  failedAt(7_200_000);
  expect(reachability.isDown(HUB)).toBe(false);
  expect(said).toEqual(['docker.io fails', 'docker.io answers', 'docker.io fails']);
});
