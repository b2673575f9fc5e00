import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { MemoryIndex, MemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import { digestOf } from '../oci/digest.ts';
import { ReadAhead } from '../oci/pull-read.ts';
import { ANONYMOUS, type Right } from '../oci/requester.ts';
import { UpstreamFailure, type UpstreamFailureKind } from '../upstream/failures.ts';
import { limitedFailure } from '../upstream/budget.ts';
import type { PullRule } from './freshness.ts';
import { outlook } from './outlook.ts';

const UP = 'up.example';
const repository = { upstream: UP, name: 'app' };
const NOW_MS = 1_000_000_000;
const bytes = Buffer.from('{}');
const manifest = { digest: digestOf(bytes), mediaType: 'application/vnd.oci.image.manifest.v1+json', bytes };
const { digest } = manifest;

let metadata: MemoryMetadataStore;

beforeEach(() => {
  metadata = new MemoryMetadataStore(new MemoryIndex());
});

afterEach(() => metadata.close());

/** By name: the tag's age in ms, `digest` for a pull by digest; `undefined` if it is not stored. */
const STORED = new Map<string, number | 'digest' | undefined>([
  ['nothing', undefined],
  ['fresh', 10_000],
  ['just over', 70_000],
  ['old', 3_600_000],
  ['digest', 'digest'],
]);

const RIGHTS = new Map<string, Partial<Right>>([
  ['proved', { proved: true }],
  ['unproved', {}],
  ['proved if unreachable', { provedIfUnreachable: true }],
  ['imported', { preloadedFor: [''] }],
  ['forced', { proved: true, forceAlways: true }],
]);

const POLICIES = new Map<string, PullRule['pullPolicy']>([
  ['default', undefined],
  ['Always', 'Always'],
  ['IfNotPresent', 'IfNotPresent'],
  ['Never', 'Never'],
  ['offline', 'Never'],
]);

const recalled = (kind: UpstreamFailureKind, message: string, more: object = {}) =>
  new UpstreamFailure(kind, message, { retryAfterMs: 5_000, isRecalled: true, ...more });

/** What is foreseen of the reference. `used up`: upstream wants no requests, though nobody asked for this one. */
const FAILURES = new Map<string, UpstreamFailure | undefined>([
  ['none', undefined],
  ['unknown', recalled('unknown', 'up.example responded 404')],
  ['denied', recalled('denied', 'up.example responded 403')],
  ['refused', recalled('refused', 'up.example responded 401')],
  ['lockedOut', recalled('lockedOut', 'up.example responded 401')],
  ['covered', recalled('lockedOut', 'up.example responded 401', { isCovered: true })],
  ['limited', recalled('limited', 'up.example responded 429')],
  ['unavailable', recalled('unavailable', 'up.example responded 503', { status: 503 })],
  ['invalid', recalled('invalid', 'up.example sent something else')],
  ['used up', limitedFailure(UP, 3_600_000, 0)],
]);

const LACKS = new Map([
  ['nothing', undefined],
  ['layer', 'a layer is missing'],
]);

interface Case {
  readonly stored: string;
  readonly right: string;
  readonly policy: string;
  readonly failure: string;
  readonly lack: string;
}

const PLAIN: Case = { stored: 'old', right: 'proved', policy: 'default', failure: 'none', lack: 'nothing' };

function of<T>(all: ReadonlyMap<string, T>, name: string): T | undefined {
  if (!all.has(name)) throw new Error(`no such case: ${name}`);
  return all.get(name);
}

function linesOf(one: Partial<Case>): Promise<readonly string[]> {
  const { stored, right: name, policy, failure, lack } = { ...PLAIN, ...one };
  const age = of(STORED, stored);
  const reference = age === 'digest' ? digest : 'v1';
  const ahead = ReadAhead.ofManifest(repository, reference, {
    tag: typeof age === 'number' ? { digest, checkedAtMs: NOW_MS - age } : undefined,
    manifest: age === undefined ? undefined : manifest,
    isPreloaded: name === 'imported' && age !== undefined,
    sinceMs: 0,
  });
  const right: Right = {
    requester: ANONYMOUS,
    credentials: [undefined],
    proved: false,
    provedIfUnreachable: false,
    ...of(RIGHTS, name),
    ahead,
  };
  const foreseen = of(FAILURES, failure);
  return outlook(repository, reference, right, {
    metadata,
    pullRuleOf: () => ({
      pullPolicy: of(POLICIES, policy),
      freshForMs: 60_000,
      staleWhileRevalidateMs: 60_000,
    }),
    clock: new ManualClock(NOW_MS),
    asking: {
      foresee: async (_repository, asked) =>
        asked !== undefined || failure === 'used up' ? foreseen : undefined,
    },
    isOffline: policy === 'offline',
    lack: async () => of(LACKS, lack),
  });
}

const BACK_OFF = 'upstream is not asked again for 5s: up.example responded 503';
const USED_UP = 'upstream is not asked again for 1h: up.example limits the rate of requests';
const STORED_OLD = `v1 is stored as ${digest}, as of 1h ago`;
const UNASKED = 'stored content is served without asking upstream who may pull it';
const HIDDEN = 'upstream has no such content, or this client may not read it';

describe('what a pull would do', () => {
  it.each<[string, Partial<Case>, readonly string[]]>([
    [
      'of what is not stored',
      { stored: 'nothing' },
      [
        'v1 is not stored: the next pull asks upstream for it',
        'upstream is asked without credentials; its answer decides, and no stored content is served without it',
        'missing content is fetched without credentials',
      ],
    ],
    [
      'of what is not stored while upstream is in back-off',
      { stored: 'nothing', failure: 'unavailable' },
      ['v1 is not stored', `${BACK_OFF}; until then the pull fails (UNAVAILABLE)`],
    ],
    [
      'of what is not stored while upstream wants no requests',
      { stored: 'nothing', failure: 'used up' },
      ['v1 is not stored', `${USED_UP}; until then the pull fails (TOOMANYREQUESTS)`],
    ],
    [
      'of what is not stored while offline',
      { stored: 'nothing', policy: 'offline', failure: 'unavailable' },
      ['v1 is not stored, and upstream is not asked (offline): the pull fails'],
    ],
    [
      'of an unknown name',
      { stored: 'nothing', failure: 'unknown' },
      [
        'v1 is not stored',
        `upstream is not asked again for 5s: up.example responded 404; until then the pull fails (MANIFEST_UNKNOWN: ${HIDDEN})`,
      ],
    ],
    [
      'of a fresh tag while upstream is in back-off',
      { stored: 'fresh', failure: 'unavailable' },
      [
        UNASKED,
        `v1 is stored as ${digest}, as of 10s ago; it is served as is for another 50s (freshFor)`,
        'missing content is fetched without credentials',
      ],
    ],
    [
      'of a fresh tag without a layer while upstream wants no requests',
      { stored: 'fresh', failure: 'used up', lack: 'layer' },
      [
        UNASKED,
        `v1 is stored as ${digest}, as of 10s ago; it is served as is for another 50s (freshFor)`,
        `a layer is missing: a pull that needs it fails, since ${USED_UP}`,
      ],
    ],
    [
      'of an old tag while upstream is in back-off',
      { failure: 'unavailable' },
      [
        UNASKED,
        `${STORED_OLD}; upstream has to say what it refers to now (freshFor is over)`,
        `${BACK_OFF}; until then stored content is served`,
        'nothing is missing',
      ],
    ],
    [
      'of an old tag without a layer while upstream is in back-off',
      { failure: 'unavailable', lack: 'layer' },
      [
        UNASKED,
        `${STORED_OLD}; upstream has to say what it refers to now (freshFor is over)`,
        `${BACK_OFF}; until then stored content is served`,
        'a layer is missing: a pull that needs it may fail, too',
      ],
    ],
    [
      'of an old tag that upstream no longer has',
      { failure: 'unknown' },
      [
        `${STORED_OLD}; upstream has to say what it refers to now (freshFor is over)`,
        `upstream is not asked again for 5s: up.example responded 404; until then the pull fails (MANIFEST_UNKNOWN: ${HIDDEN})`,
      ],
    ],
    [
      'of a tag that is just over, while upstream is in back-off',
      { stored: 'just over', failure: 'unavailable' },
      [
        UNASKED,
        `v1 is stored as ${digest}, as of 1m10s ago; it is served as is (staleWhileRevalidate)`,
        `${BACK_OFF}; until then stored content is served`,
        'nothing is missing',
      ],
    ],
    [
      'of a stored tag while offline',
      { policy: 'offline', lack: 'layer' },
      [
        UNASKED,
        `${STORED_OLD}; it is served as is, and upstream is not asked (offline)`,
        'a layer is missing, and upstream is not asked (offline): a pull that needs it fails',
      ],
    ],
  ])('%s', async (_what, one, lines) => {
    expect(await linesOf(one)).toEqual(lines);
  });
});

/** Claims of which no two can be true at once. */
const CONTRADICTIONS: readonly (readonly [RegExp, RegExp])[] = [
  [/the next pull asks upstream|upstream is asked|is fetched/, /upstream is not asked(?! who)/],
  [
    /the pull fails/,
    /served as is|(?:it|content) is served(?! without it)|is fetched|nothing is missing|a pull that needs it/,
  ],
  [/is not stored/, /served as is|(?<!no stored )content is served(?! without it)|nothing is missing/],
  [/no stored content is served/, /is served without asking|served as is/],
  [/is fetched/, /a pull that needs it/],
  [/nothing is missing/, /layer is missing/],
];

it('is told without contradictions, whatever is stored, allowed, foreseen and missing', async () => {
  const faults: object[] = [];
  let cases = 0;
  for (const stored of STORED.keys())
    for (const right of RIGHTS.keys())
      for (const policy of POLICIES.keys())
        for (const failure of FAILURES.keys())
          for (const lack of LACKS.keys()) {
            const one = { stored, right, policy, failure, lack };
            const lines = await linesOf(one);
            cases += 1;
            const text = lines.join('\n');
            const isFalse = CONTRADICTIONS.some(([claim, other]) => claim.test(text) && other.test(text));
            if (isFalse || new Set(lines).size < lines.length) faults.push({ ...one, lines });
          }
  expect(cases).toBe(2_500);
  expect(faults.slice(0, 3)).toEqual([]);
});
