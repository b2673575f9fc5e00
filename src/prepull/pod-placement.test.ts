import { describe, expect, it } from 'vitest';
import { formatPlatform, parsePlatform } from '../oci/platform.ts';
import { placementsOf, platformsOf } from './pod-placement.ts';

/** The platforms that a pod with this spec gets where the usual ones are `usual`. */
function platforms(spec: Record<string, unknown>, ...usual: string[]): string[] {
  const all = placementsOf(spec).flatMap(placement => platformsOf(placement, usual.map(parsePlatform)));
  return [...new Set(all.map(formatPlatform))];
}

function affinity(...terms: readonly (readonly [key: string, operator: string, ...values: string[]])[][]) {
  const nodeSelectorTerms = terms.map(term => ({
    matchExpressions: term.map(([key, operator, ...values]) => ({ key, operator, values })),
  }));
  return {
    affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms } } },
  };
}

const BOTH = ['linux/amd64', 'linux/arm64'] as const;

describe('a pod gets the platforms of the nodes on which it may run', () => {
  it('which are the default ones if it has no constraints', () => {
    expect(platforms({}, ...BOTH)).toEqual(BOTH);
  });

  it.each([
    ['an architecture', { nodeSelector: { 'kubernetes.io/arch': 'arm64' } }, ['linux/arm64']],
    ['one by the old label', { nodeSelector: { 'beta.kubernetes.io/arch': 'arm64' } }, ['linux/arm64']],
    [
      'an architecture that is not usual',
      { nodeSelector: { 'kubernetes.io/arch': 's390x' } },
      ['linux/s390x'],
    ],
    ['Windows by its os', { os: { name: 'windows' } }, ['windows/amd64']],
    [
      'Windows by its nodes',
      { nodeSelector: { 'kubernetes.io/os': 'windows', 'kubernetes.io/arch': 'amd64' } },
      ['windows/amd64'],
    ],
    ['other labels', { nodeSelector: { pool: 'fast' } }, BOTH],
    ['Linux, as nearly all charts do', { nodeSelector: { 'kubernetes.io/os': 'linux' } }, BOTH],
  ])('of %s', (_, spec, expected) => {
    expect(platforms(spec, ...BOTH)).toEqual(expected);
  });

  it('by required affinity, of which one term is enough', () => {
    const one = affinity([['kubernetes.io/arch', 'In', 'arm64', 'ppc64le']]);
    expect(platforms(one, ...BOTH)).toEqual(['linux/arm64']);
    const either = affinity(
      [['kubernetes.io/arch', 'In', 'arm64']],
      [
        ['kubernetes.io/os', 'In', 'windows'],
        ['kubernetes.io/arch', 'In', 'amd64'],
      ],
    );
    expect(platforms(either, ...BOTH)).toEqual(['linux/arm64', 'windows/amd64']);
    expect(platforms(affinity([['kubernetes.io/arch', 'NotIn', 'amd64']]), ...BOTH)).toEqual(['linux/arm64']);
    expect(platforms(affinity([['kubernetes.io/arch', 'Exists']]), ...BOTH)).toEqual(BOTH);
  });

  it('with the version of the default ones', () => {
    const spec = { os: { name: 'windows' } };
    expect(platforms(spec, 'linux/amd64', 'windows/amd64:10.0.20348')).toEqual(['windows/amd64:10.0.20348']);
  });

  it('and the default ones if it can run nowhere, or its constraints are invalid', () => {
    const spec = { os: { name: 'windows' }, nodeSelector: { 'kubernetes.io/os': 'linux' } };
    expect(platforms(spec, ...BOTH)).toEqual(BOTH);
    expect(platforms({ os: 'windows', nodeSelector: [], affinity: { nodeAffinity: 7 } }, ...BOTH)).toEqual(
      BOTH,
    );
  });
});
