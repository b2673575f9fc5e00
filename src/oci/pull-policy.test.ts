import { expect, test } from 'vitest';
import * as pullPolicy from './pull-policy.ts';

// Kubernetes' answers to whole image names are in test/vectors/pullpolicy.json.

test('a parsed reference gets the same default as the text', () => {
  expect(pullPolicy.defaultPullPolicy({})).toBe('Always');
  expect(pullPolicy.defaultPullPolicy({ tag: 'latest' })).toBe('Always');
  expect(pullPolicy.defaultPullPolicy({ tag: '1' })).toBe('IfNotPresent');
  expect(pullPolicy.defaultPullPolicy({ digest: 'sha256:0' })).toBe('IfNotPresent');
  expect(pullPolicy.defaultPullPolicy({ tag: 'latest', digest: 'sha256:0' })).toBe('Always');
});

test('a name with a digest does not get the default tag', () => {
  const name = `nginx@sha256:${'0'.repeat(64)}`;
  expect(pullPolicy.applyDefaultTag(name)).toBe(name);
  expect(() => pullPolicy.applyDefaultTag('Nginx')).toThrow(expect.objectContaining({ fault: 'uppercase' }));
});

test('each limit that the kubelet refuses is reported', () => {
  const limits = {
    serializeImagePulls: true,
    maxParallelImagePulls: 2,
    registryPullQPS: -1,
    registryBurst: -1,
  };
  expect(pullPolicy.pullLimitProblems(limits).map(({ member }) => member)).toEqual([
    'maxParallelImagePulls',
    'registryPullQPS',
    'registryBurst',
  ]);
  expect(pullPolicy.pullLimitProblems({ serializeImagePulls: false, maxParallelImagePulls: 0 })).toHaveLength(
    1,
  );
  expect(pullPolicy.pullLimitProblems({ serializeImagePulls: true })).toEqual([]);
});

test.each([
  [[undefined, undefined], undefined],
  [['IfNotPresent', undefined], 'IfNotPresent'],
  [['IfNotPresent', 'Always'], 'Always'],
  [['Always', 'Never'], 'Never'],
] as const)('of %j the strictest counts: %s', (policies, strictest) => {
  expect(pullPolicy.strictestPullPolicy(policies)).toBe(strictest);
});
