import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  bytesOf,
  descriptorOf,
  type Image,
  imageOf,
  indexOf,
  indexOfEntries,
  randomBlob,
  readAs,
} from '../../test/support/content.ts';
import { FakeUpstream, type FakeUpstreamOptions } from '../../test/support/fake-upstream.ts';
import type { Misbehaviour } from '../../test/support/fake-upstream-requests.ts';
import { Latch } from '../../test/support/latch.ts';
import {
  APP,
  isDownload,
  MirrorWorld,
  type MirrorWorldOptions,
  readAll,
  repositoryOf,
  whole,
} from '../../test/support/mirror-world.ts';
import { until } from '../../test/support/programs.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import type { Credential } from '../oci/credential.ts';
import { isIndexType, OCI_ARTIFACT_MANIFEST, OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';
import type { PullRule } from './freshness.ts';
import { FlightBoard, type FlightCalls, flightsOn, type SharedFlight } from './shared-flights.ts';

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
/** How many questions an upstream is asked at a time. */
const MAX_ASKED = 1_024;
let upstream: FakeUpstream;
let world: MirrorWorld;

async function start(fake: FakeUpstreamOptions = {}, options: MirrorWorldOptions = {}): Promise<void> {
  upstream = await FakeUpstream.start(fake);
  world = await MirrorWorld.open(upstream, options);
}

const version = (seed: string): Image => imageOf([randomBlob(10_000, seed)]);
const asked = () => upstream.requests.map(({ method, kind }) => `${method} ${kind}`);
const credential = (username: string, password = 'right'): Credential => ({
  username,
  password,
  id: `${username}:${password}`,
});
const noIndex = (mediaType: string): boolean => !isIndexType(mediaType);
const childOf = async (platform: string | undefined) =>
  (await world.manifest('1.0', APP, { accepts: noIndex, platform })).descriptor.digest;
const typeIn = async (repository: typeof APP, reference: string) =>
  (await world.manifest(reference, repository)).descriptor.mediaType;
const garbage = (body: string) => ({
  status: 200,
  headers: { 'Content-Type': 'application/octet-stream', 'Docker-Content-Digest': null },
  body,
});
const page = { limit: 100, after: undefined };

afterEach(async () => {
  await world.remove();
  await upstream.stop();
});

it('an upstream that is slow is asked for a limited number of tags at a time, and then answers again', async () => {
  await start();
  upstream.add('app', version('a'), '1.0');
  await world.manifest('1.0');
  const latch = new Latch();
  upstream.misbehave({ kind: 'manifest', after: latch.opened });
  upstream.requests.length = 0;
  const answers = Promise.allSettled(
    Array.from({ length: MAX_ASKED }, async (_, at) => world.manifest(`unknown-${at}`)),
  );
  await until('all to be asked', 60_000, async () => upstream.count('manifest') === MAX_ASKED);
  upstream.requests.length = 0;
  await expect(world.manifest('another')).rejects.toMatchObject({
    code: 'UNAVAILABLE',
    headers: { 'Retry-After': '5' },
  });
  expect(upstream.requests).toEqual([]);
  latch.open();
  await answers;
  await expect(world.manifest('another')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
});

/** Asks about a tag with a proved right. Without one, another process would have another question. */
async function revalidate(): Promise<void> {
  await world.manifest('latest');
  upstream.requests.length = 0;
  expect((await world.manifest('latest')).outcome).toBe('revalidated');
}

describe('a tag', () => {
  const policies: readonly [PullRule['pullPolicy'], string, readonly string[]][] = [
    ['Always', '1.0', ['HEAD manifest']],
    ['IfNotPresent', 'latest', []],
    ['Never', 'latest', []],
    [undefined, 'latest', ['HEAD manifest']],
    [undefined, '1.0', []],
  ];
  for (const [pullPolicy, tag, expected] of policies) {
    it(`${tag} that is stored asks upstream ${expected.length} times under ${pullPolicy ?? 'the defaulting'}`, async () => {
      await start();
      const image = version('a');
      upstream.add('app', image, tag);
      expect((await world.manifest(tag)).outcome).toBe('miss');
      world.policy = { ...world.policy, pullPolicy };
      upstream.requests.length = 0;
      const { descriptor, bytes, outcome } = await world.manifest(tag);
      expect(descriptor).toEqual({
        mediaType: image.manifest.mediaType,
        digest: image.manifest.digest,
        size: image.manifest.size,
      });
      expect(Buffer.from(bytes)).toEqual(bytesOf(image.manifest));
      expect(asked()).toEqual(expected);
      expect(outcome).toBe(expected.length === 0 ? 'hit' : 'revalidated');
    });
  }

  it('that moved is noticed once it is no longer fresh, before the response', async () => {
    await start();
    upstream.add('app', version('old'), '1.0');
    await world.manifest('1.0');
    const young = version('young');
    upstream.add('app', young, '1.0');
    expect((await world.manifest('1.0')).outcome).toBe('hit');
    world.nowMs += MINUTE_MS;
    expect((await world.manifest('1.0')).descriptor.digest).toBe(young.manifest.digest);
  });

  it('that moved is served stale while upstream is asked, if configured', async () => {
    await start({}, { policy: { staleWhileRevalidateMs: 10 * MINUTE_MS } });
    const [old, young] = [version('old'), version('young')];
    upstream.add('app', old, '1.0');
    await world.manifest('1.0');
    upstream.add('app', young, '1.0');
    world.nowMs += 2 * MINUTE_MS;
    expect((await world.manifest('1.0')).descriptor.digest).toBe(old.manifest.digest);
    await expect
      .poll(async () => (await world.manifest('1.0')).descriptor.digest)
      .toBe(young.manifest.digest);
  });

  it('that is not stored is unknown under Never, and upstream is not asked', async () => {
    await start({}, { policy: { pullPolicy: 'Never' } });
    upstream.add('app', version('a'), '1.0');
    await expect(world.manifest('1.0')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    await expect(world.manifest(version('a').manifest.digest)).rejects.toMatchObject({
      code: 'MANIFEST_UNKNOWN',
    });
    expect(upstream.requests).toEqual([]);
  });

  it('requested by 50 clients at once is one HEAD and one GET', async () => {
    await start();
    upstream.add('app', version('a'), 'latest');
    const served = await Promise.all(Array.from({ length: 50 }, () => world.manifest('latest')));
    expect(served.filter(({ outcome }) => outcome === 'joined').length).toBe(49);
    expect(asked()).toEqual(['HEAD manifest', 'GET manifest']);
  });

  for (const manifestHead of ['not-allowed', 'no-digest'] as const) {
    it(`is fetched by GET if HEAD is ${manifestHead}`, async () => {
      await start({ manifestHead });
      const image = version('a');
      upstream.add('app', image, 'latest');
      expect((await world.manifest('latest')).descriptor.digest).toBe(image.manifest.digest);
      expect((await world.manifest('latest')).descriptor.digest).toBe(image.manifest.digest);
    });
  }

  it('that upstream has deleted is not served, except under Never', async () => {
    await start();
    upstream.add('app', version('a'), 'latest');
    await world.manifest('latest');
    const right = await world.right();
    upstream.remove('app', 'latest');
    await expect(world.manifest('latest')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    world.policy = { ...world.policy, pullPolicy: 'Never' };
    const want = { accepts: () => true, platform: undefined };
    expect((await world.mirror.manifest(APP, 'latest', right, want)).outcome).toBe('hit');
  });

  it('is served stale when upstream is down, limited or broken', async () => {
    await start();
    upstream.add('app', version('a'), 'latest');
    await world.manifest('latest');
    for (const rule of [{ reset: true }, { status: 503 }, { status: 429 }]) {
      const behave = upstream.misbehave({ kind: 'manifest', ...rule });
      expect((await world.manifest('latest')).outcome).toBe('stale');
      behave();
      world.nowMs += 10 * MINUTE_MS;
    }
  });

  it('that upstream confirms is served while the index accepts no write', async () => {
    await start();
    const image = version('a');
    upstream.add('app', image, 'latest');
    await world.manifest('latest');
    const noWrite = Object.assign(new Error('the index was removed'), { code: 'ESTALE' });
    vi.spyOn(world.metadata, 'putTag').mockRejectedValue(noWrite);
    const { descriptor, outcome } = await world.manifest('latest');
    expect([descriptor.digest, outcome]).toEqual([image.manifest.digest, 'revalidated']);
  });

  it('that upstream refuses ends the right even if the process that asks for all cannot write that', async () => {
    const board = new FlightBoard();
    await start({}, { isIndexOnDisk: true, flights: flightsOn(board.of({})) });
    upstream.add('app', version('a'), 'latest');
    await world.manifest('latest');
    const joined = new Latch();
    const calls = flightsOn(board.of({}));
    const flights: FlightCalls = {
      fly: (key, agoMs) => {
        joined.open();
        return calls.fly(key, agoMs);
      },
    };
    const other = await MirrorWorld.open(upstream, { folder: world.folder, flights });
    const noWrite = Object.assign(new Error('the index was removed'), { code: 'ESTALE' });
    vi.spyOn(world.metadata, 'endGrant').mockRejectedValue(noWrite);
    upstream.requests.length = 0;
    upstream.misbehave({ kind: 'manifest', status: 403, after: joined.opened });
    const leading = world.manifest('latest');
    await expect.poll(asked).toEqual(['HEAD manifest']);
    const refusals = await Promise.allSettled([leading, other.manifest('latest')]);
    expect(refusals.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(await other.metadata.readGrants(APP)).toEqual([]);
    expect(asked()).toEqual(['HEAD manifest', 'HEAD manifest']);
    await other.close();
  });

  describe('that another process has asked about', () => {
    let board: FlightBoard;
    let image: Image;
    let other: MirrorWorld;

    beforeEach(async () => {
      board = new FlightBoard();
      await start({}, { isIndexOnDisk: true, flights: flightsOn(board.of({})) });
      image = version('a');
      upstream.add('app', image, 'latest');
    });

    afterEach(() => other.close());

    const openOther = async (
      flights: FlightCalls = flightsOn(board.of({})),
      policy: MirrorWorldOptions['policy'] = { pullPolicy: 'Always' },
    ) => {
      other = await MirrorWorld.open(upstream, { folder: world.folder, flights, policy });
    };
    /** A pull from `other` that has read the index, and asks upstream when `ask` is called. */
    const pullFromOther = async (reference = 'latest') => {
      const [hasRead, mayAsk] = [new Latch(), new Latch()];
      const read = other.metadata.readForPull.bind(other.metadata);
      vi.spyOn(other.metadata, 'readForPull').mockImplementationOnce(async (...args) => {
        const before = await read(...args);
        hasRead.open();
        await mayAsk.opened;
        return before;
      });
      const pulling = other.manifest(reference);
      await hasRead.opened;
      return {
        ask: () => {
          mayAsk.open();
          return pulling;
        },
      };
    };

    it('is not asked about again if the answer came while the index was read', async () => {
      await openOther();
      const pull = await pullFromOther();
      await world.manifest('latest');
      expect((await pull.ask()).descriptor.digest).toBe(image.manifest.digest);
      expect(asked()).toEqual(['HEAD manifest', 'GET manifest']);
    });

    it('nor if that was read with the right', async () => {
      await openOther();
      const right = await other.right(APP, [undefined], 'anonymous', { manifest: 'latest' });
      await world.manifest('latest');
      const served = await other.mirror.manifest(APP, 'latest', right, {
        accepts: () => true,
        platform: undefined,
      });
      expect(served.descriptor.digest).toBe(image.manifest.digest);
      expect(asked()).toEqual(['HEAD manifest', 'GET manifest']);
    });

    it('nor is a manifest that is pulled by its digest', async () => {
      await openOther();
      const { digest } = image.manifest;
      const pull = await pullFromOther(digest);
      await world.manifest(digest);
      expect((await pull.ask()).descriptor.digest).toBe(digest);
      expect(asked()).toEqual(['GET manifest']);
    });

    it('nor is a tag that is served while it is asked about', async () => {
      const flown: Promise<SharedFlight>[] = [];
      const calls = flightsOn(board.of({}));
      const flights: FlightCalls = {
        fly: (key, agoMs) => {
          const flight = calls.fly(key, agoMs);
          flown.push(flight);
          return flight;
        },
      };
      await openOther(flights, { staleWhileRevalidateMs: 10 * MINUTE_MS });
      upstream.add('app', image, '1.0');
      await world.manifest('1.0');
      for (const each of [world, other]) each.nowMs += 2 * MINUTE_MS;
      const pull = await pullFromOther('1.0');
      await world.manifest('1.0');
      expect((await pull.ask()).outcome).toBe('hit');
      await expect.poll(() => flown.length).toBe(1);
      expect(await flown[0]).toHaveProperty('landing.answer');
    });

    it('is asked about again by whoever begins later', async () => {
      await openOther();
      await revalidate();
      expect((await other.manifest('latest')).outcome).toBe('revalidated');
      expect(asked()).toEqual(['HEAD manifest', 'HEAD manifest']);
    });

    it.each([
      ['an answer', {}, 'revalidated'],
      ['a failure', { status: 429 }, 'stale'],
    ])(
      'is asked about again by whoever begins later, though one is still being told %s',
      async (_what, rule, told) => {
        const [hasLanded, mayTell] = [new Latch(), new Latch()];
        const calls = flightsOn(board.of({}));
        await openOther({
          fly: async (key, agoMs) => {
            const flight = await calls.fly(key, agoMs);
            hasLanded.open();
            await mayTell.opened;
            return flight;
          },
        });
        // With a proved right, both have the same question.
        await world.manifest('latest');
        world.nowMs += 10 * MINUTE_MS;
        upstream.requests.length = 0;
        const pull = await pullFromOther();
        const behave = upstream.misbehave({ kind: 'manifest', ...rule });
        await world.manifest('latest');
        behave();
        const early = pull.ask();
        await hasLanded.opened;
        const late = other.manifest('latest');
        // Until it has joined.
        await sleep(50);
        expect(asked()).toEqual(['HEAD manifest']);
        mayTell.open();
        expect([(await early).outcome, (await late).outcome]).toEqual([told, 'revalidated']);
        expect(asked()).toEqual(['HEAD manifest', 'HEAD manifest']);
      },
    );

    it('is asked about by a refresh, whenever the answer came', async () => {
      await openOther();
      await revalidate();
      expect(await other.mirror.refresh(APP, 'latest', await other.right())).toBe(image.manifest.digest);
      expect(asked()).toEqual(['HEAD manifest', 'HEAD manifest']);
    });
  });

  it('is served stale if upstream takes more than 5 s, whatever it answers then', async () => {
    const clock = new ManualClock();
    await start({}, { clock });
    upstream.add('app', version('a'), 'latest');
    await world.manifest('latest');
    const latch = new Latch();
    upstream.misbehave({ kind: 'manifest', status: 404, after: latch.opened });
    const served = world.manifest('latest');
    await clock.pass(5_000);
    expect((await served).outcome).toBe('stale');
    latch.open();
  });
});

describe('the same bytes with another Content-Type', () => {
  const OTHER = repositoryOf('other');
  const image = imageOf([randomBlob(1_000, 'untyped')], { isUntyped: true });
  const { digest } = image.manifest;

  beforeEach(async () => {
    await start();
    upstream.add('app', image, '1.0');
    upstream.add('other', readAs(image.manifest, OCI_ARTIFACT_MANIFEST), '1.0');
  });

  for (const reference of ['1.0', digest]) {
    const how = reference === digest ? 'by digest' : 'by tag';
    it(`are served in each repository with its upstream's type, whoever asked first (${how})`, async () => {
      for (const [first, second] of [
        [OTHER, APP],
        [APP, OTHER],
      ] as const) {
        await typeIn(first, reference);
        await typeIn(second, reference);
        for (let time = 0; time < 2; time += 1) {
          expect(await typeIn(APP, reference)).toBe(OCI_MANIFEST);
          expect(await typeIn(OTHER, reference)).toBe(OCI_ARTIFACT_MANIFEST);
          world.nowMs += HOUR_MS;
        }
        expect(await world.metadata.namedSize(APP, image.config.digest)).toBe(image.config.size);
        expect(await world.metadata.namedSize(OTHER, image.config.digest)).toBeUndefined();
        await world.metadata.removeRepository(APP);
        await world.metadata.removeRepository(OTHER);
      }
    });
  }

  it("are served with upstream's current type", async () => {
    await typeIn(APP, '1.0');
    upstream.add('app', readAs(image.manifest, OCI_ARTIFACT_MANIFEST), '1.0');
    world.nowMs += HOUR_MS;
    expect(await typeIn(APP, '1.0')).toBe(OCI_ARTIFACT_MANIFEST);
    expect(await typeIn(APP, digest)).toBe(OCI_ARTIFACT_MANIFEST);
    expect(await world.metadata.namedSize(APP, image.config.digest)).toBeUndefined();
  });

  it('are transferred again only if HEAD does not tell their type', async () => {
    await typeIn(OTHER, '1.0');
    upstream.misbehave({ method: 'HEAD', headers: { 'Content-Type': 'application/octet-stream' } });
    upstream.requests.length = 0;
    expect(await typeIn(APP, '1.0')).toBe(OCI_MANIFEST);
    expect(asked()).toEqual(['HEAD manifest', 'GET manifest']);
    world.nowMs += HOUR_MS;
    expect(await typeIn(APP, '1.0')).toBe(OCI_MANIFEST);
    expect(asked()).toEqual(['HEAD manifest', 'GET manifest', 'HEAD manifest']);
  });
});

describe('a failure', () => {
  const cases = [
    [{ status: 404 }, 'MANIFEST_UNKNOWN'],
    [{ status: 403 }, 'MANIFEST_UNKNOWN'],
    [{ status: 503 }, 'UNAVAILABLE'],
    [{ reset: true }, 'UNAVAILABLE'],
    [{ status: 429, headers: { 'Retry-After': '17' } }, 'TOOMANYREQUESTS'],
  ] as const;
  for (const [rule, code] of cases) {
    it(`with ${JSON.stringify(rule)} is ${code} for all who wait, and upstream is not asked again at once`, async () => {
      await start();
      upstream.add('app', version('a'), '1.0');
      upstream.misbehave({ kind: 'manifest', ...rule });
      const results = await Promise.allSettled(Array.from({ length: 20 }, () => world.manifest('1.0')));
      expect(results.map(result => result.status === 'rejected' && result.reason.code)).toEqual(
        Array(20).fill(code),
      );
      await expect(world.manifest('1.0')).rejects.toMatchObject({ code });
      expect(upstream.count('manifest')).toBe(1);
    });
  }

  it('is forgotten when its delay is over, and by a refresh', async () => {
    await start();
    await expect(world.manifest('1.0')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    const image = version('a');
    upstream.add('app', image, '1.0');
    await expect(world.manifest('1.0')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    expect(await world.mirror.refresh(APP, '1.0', await world.right())).toBe(image.manifest.digest);
    expect((await world.manifest('1.0')).outcome).toBe('hit');

    await expect(world.manifest('2.0')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    upstream.add('app', image, '2.0');
    world.nowMs += 10_000;
    expect((await world.manifest('2.0')).outcome).toBe('revalidated');
  });

  it('of a blob says nothing about a manifest with the same digest', async () => {
    await start();
    const image = version('one');
    upstream.add('app', image, '1');
    const { digest } = image.manifest;
    upstream.misbehave({ kind: 'blob', status: 404 });
    await expect(world.open(digest)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
    expect((await world.manifest(digest)).descriptor.digest).toBe(digest);
  });

  it('does not prevent stored and allowed content from being served', async () => {
    await start();
    const image = version('a');
    upstream.add('app', image, '1.0');
    await world.manifest('1.0');
    upstream.misbehave({ reset: true });
    world.nowMs += MINUTE_MS;
    expect((await world.manifest('1.0')).outcome).toBe('stale');
    expect((await world.manifest(image.manifest.digest)).outcome).toBe('hit');
  });

  it('with an unusable manifest is upstream’s fault', async () => {
    await start();
    upstream.add('app', version('a'), '1.0');
    upstream.misbehave({ kind: 'manifest', method: 'GET', spaces: 100 });
    upstream.misbehave({ kind: 'manifest', method: 'HEAD', status: 405 });
    await expect(world.manifest('1.0')).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
  });
});

/** Who came to upstream. */
const tried = () =>
  new Set(upstream.requests.flatMap(({ username }) => (username === undefined ? [] : [username])));

describe('a right', () => {
  const users = {
    ann: { password: 'right', repositories: ['private'] },
    bob: { password: 'right', repositories: ['open'] },
    cat: { password: 'right', repositories: ['private'] },
    dan: { password: 'right', repositories: ['private'] },
  };
  const PRIVATE = repositoryOf('private');
  const want = { accepts: () => true, platform: undefined };
  const image = version('private');
  const manifestAs = async (...credentials: Credential[]) =>
    world.mirror.manifest(
      PRIVATE,
      '1',
      await world.right(PRIVATE, credentials, credentials[0]?.username),
      want,
    );
  const blob = image.layers[0] ?? image.config;

  beforeEach(async () => {
    await start({ auth: { scheme: 'basic', users } });
    upstream.add('private', image, '1');
  });

  it('is proved by upstream for each credential; stored content changes nothing for others', async () => {
    await manifestAs(credential('ann'));
    expect((await manifestAs(credential('ann'))).outcome).toBe('hit');
    await expect(manifestAs(credential('bob'))).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    await expect(world.manifest('1', PRIVATE)).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    await expect(world.open(blob.digest, PRIVATE)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
  });

  it('is needed for a stored manifest that is requested as a blob, too', async () => {
    const { digest } = image.manifest;
    await manifestAs(credential('ann'));
    const own = await world.right(PRIVATE, [credential('ann')], 'ann');
    const { reader, outcome } = await world.mirror.openBlob(PRIVATE, digest, own);
    expect(await readAll(reader)).toEqual(whole(image.manifest));
    expect(outcome).toBe('hit');
    await expect(world.open(digest, PRIVATE)).rejects.toMatchObject({ code: 'BLOB_UNKNOWN' });
  });

  for (const type of ['text/html', 'Text/HTML; charset=utf-8', 'application/xhtml+xml']) {
    it(`is not proved by a page of ${type}, whatever its status`, async () => {
      await manifestAs(credential('ann'));
      const own = await world.right(PRIVATE, [credential('ann')], 'ann');
      await readAll((await world.mirror.openBlob(PRIVATE, blob.digest, own)).reader);
      const page200 = { status: 200, headers: { 'Content-Type': type }, body: '<html>log in</html>' };
      upstream.misbehave(page200);
      const nobody = await world.right(PRIVATE);
      await expect(world.mirror.statBlob(PRIVATE, blob.digest, nobody)).rejects.toMatchObject({
        code: 'UPSTREAM_INVALID',
      });
      await expect(world.open(blob.digest, PRIVATE)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      await expect(world.manifest('1', PRIVATE)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
      expect(await world.right(PRIVATE)).toMatchObject({ proved: false, provedIfUnreachable: false });
    });
  }

  const weak: readonly [string, readonly Misbehaviour[]][] = [
    ['garbage', [garbage('come back later')]],
    ['garbage of the right size', [{ kind: 'blob', ...garbage(' '.repeat(blob.size)) }]],
    [
      'a redirect to garbage',
      [
        { kind: 'other', ...garbage('log in') },
        { kind: 'blob', status: 302, redirectTo: '/login' },
        { kind: 'manifest', status: 302, redirectTo: '/login' },
      ],
    ],
    [
      'the digest of a manifest, and nothing that fits it',
      [
        {
          kind: 'manifest',
          status: 200,
          headers: { 'Content-Type': OCI_MANIFEST, 'Docker-Content-Digest': image.manifest.digest },
          body: '{}',
        },
      ],
    ],
  ];
  for (const [what, rules] of weak) {
    it(`is not proved by ${what}, and gives nothing that is stored`, async () => {
      await manifestAs(credential('ann'));
      const own = await world.right(PRIVATE, [credential('ann')], 'ann');
      await readAll((await world.mirror.openBlob(PRIVATE, blob.digest, own)).reader);
      await until('the commit', 10_000, async () => world.mirror.runningFills === 0);
      for (const rule of rules) upstream.misbehave(rule);
      const nobody = await world.right(PRIVATE);
      const stat = await world.mirror.statBlob(PRIVATE, blob.digest, nobody).catch(() => undefined);
      expect(stat?.outcome ?? 'miss').toBe('miss');
      await expect(world.open(blob.digest, PRIVATE)).rejects.toMatchObject({
        code: expect.stringMatching(/^(UPSTREAM_INVALID|BLOB_UNKNOWN)$/),
      });
      for (const reference of ['1', image.manifest.digest]) {
        await expect(world.manifest(reference, PRIVATE)).rejects.toMatchObject({
          code: expect.stringMatching(/^(UPSTREAM_INVALID|MANIFEST_UNKNOWN)$/),
        });
      }
      expect(await world.right(PRIVATE)).toMatchObject({ proved: false, provedIfUnreachable: false });
    });
  }

  it('that has to be proved first looks like a first fetch, whoever has the same content', async () => {
    await manifestAs(credential('ann'));
    const own = await world.right(PRIVATE, [credential('ann')], 'ann');
    await readAll((await world.mirror.openBlob(PRIVATE, blob.digest, own)).reader);
    await until('the commit', 10_000, async () => world.mirror.runningFills === 0);
    upstream.requests.length = 0;
    const cats = await world.right(PRIVATE, [credential('cat')], 'cat');
    const served = await world.mirror.openBlob(PRIVATE, blob.digest, cats);
    await served.reader.close();
    expect([served.outcome, served.stored]).toEqual(['miss', true]);
    expect(await manifestAs(credential('dan'))).toMatchObject({ outcome: 'miss', stored: true });
    expect(upstream.requests.filter(isDownload).map(({ kind }) => kind)).toEqual([]);
    world.nowMs += HOUR_MS;
    expect((await manifestAs(credential('dan'))).outcome).toBe('revalidated');
  });

  it('is not shared with another that asks at the same time', async () => {
    upstream.misbehave({ kind: 'manifest', delayMs: 200 });
    const [ann, eve] = await Promise.allSettled([
      manifestAs(credential('ann')),
      manifestAs(credential('eve', 'wrong')),
    ]);
    expect([ann.status, eve.status]).toEqual(['fulfilled', 'rejected']);
  });

  it('is found by trying credentials in turn, and the one that worked is tried first', async () => {
    await manifestAs(credential('bob'), credential('ann'));
    world.nowMs += 48 * 3_600_000;
    upstream.requests.length = 0;
    await manifestAs(credential('bob'), credential('ann'));
    expect(upstream.requests.map(({ username }) => username)).toContain('ann');
    expect(upstream.requests.map(({ username }) => username)).not.toContain('bob');
  });

  const guesses = Array.from({ length: 60 }, (_, at) => credential(`guess-${at}`, 'wrong'));
  it('is tried with at most twenty credentials, and the next request continues with the others', async () => {
    await expect(manifestAs(...guesses)).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    expect(tried().size).toBe(20);
    await expect(manifestAs(...guesses)).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
    expect(tried().size).toBe(40);
    world.nowMs += MINUTE_MS;
    await manifestAs(...guesses.slice(0, 19), credential('ann'));
    expect(tried()).toContain('ann');
  });

  for (const answer of [{ status: 429 }, { status: 403, headers: { 'Retry-After': '30' } }]) {
    it(`is not tried any further if upstream answers ${JSON.stringify(answer)}`, async () => {
      upstream.misbehave(answer);
      await expect(manifestAs(...guesses)).rejects.toMatchObject({ code: 'TOOMANYREQUESTS' });
      expect(tried().size).toBeLessThanOrEqual(1);
    });
  }

  const asAnn = async () => (await manifestAs(credential('ann'))).outcome;

  for (const failure of [{ status: 500 }, { status: 429 }, { reset: true }]) {
    it(`that expired is accepted for a while if upstream answers ${JSON.stringify(failure)}, and is not renewed by that`, async () => {
      await asAnn();
      world.nowMs += 25 * HOUR_MS;
      upstream.misbehave(failure);
      expect(await asAnn()).toBe('stale');
      await expect(manifestAs(credential('bob'))).rejects.toMatchObject({
        code: expect.stringMatching(/UNAVAILABLE|TOOMANYREQUESTS/),
      });
      world.nowMs += 22 * HOUR_MS;
      expect(await asAnn()).toBe('stale');
      world.nowMs += 2 * HOUR_MS;
      await expect(asAnn()).rejects.toMatchObject({
        code: expect.stringMatching(/UNAVAILABLE|TOOMANYREQUESTS/),
      });
    });
  }

  for (const status of [401, 403, 404]) {
    it(`ends at once when upstream answers ${status}, though it would be valid while upstream is down`, async () => {
      await asAnn();
      world.nowMs += 25 * HOUR_MS;
      upstream.misbehave({ status });
      await expect(asAnn()).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
      upstream.misbehave({ status: 503 });
      world.nowMs += MINUTE_MS;
      await expect(asAnn()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    });
  }

  it('that upstream refuses gives nothing of a download in progress', async () => {
    await manifestAs(credential('ann'));
    const openAs = async (name: string) =>
      world.mirror.openBlob(PRIVATE, blob.digest, await world.right(PRIVATE, [credential(name)], name));
    const gets = () => upstream.requests.filter(({ kind, method }) => kind === 'blob' && method === 'GET');
    let turnAway: (() => void) | undefined;
    const after = new Promise<void>(resolve => {
      turnAway = resolve;
    });
    upstream.misbehave({ kind: 'blob', method: 'GET', times: 1, after });
    const bob = Promise.allSettled([openAs('bob')]);
    await until('upstream to be asked for bob', 10_000, async () => gets().length === 1);
    const ann = openAs('ann');
    await until(
      'ann to be asked about',
      10_000,
      async () => upstream.count('blob', { method: 'HEAD' }) === 1,
    );
    turnAway?.();
    expect(await bob).toMatchObject([{ status: 'rejected', reason: { code: 'BLOB_UNKNOWN' } }]);
    const joined = await ann;
    expect(await readAll(joined.reader)).toEqual(whole(blob));
    expect([joined.outcome, ...gets().map(({ username }) => username)]).toEqual(['miss', 'bob', 'ann']);
  });

  it('that is withdrawn lets its download continue for another', async () => {
    const open = repositoryOf('open');
    const big = randomBlob(3_000_000, 'big');
    upstream.add('private', big);
    upstream.add('open', big);
    const openAs = async (name: string, repository = PRIVATE) =>
      world.mirror.openBlob(repository, big.digest, await world.right(repository, [credential(name)], name));
    upstream.misbehave({ kind: 'blob', method: 'GET', cutAtByte: 1_000_000, bytesPerS: 2_000_000 });
    const ann = await openAs('ann');
    const bob = await openAs('bob', open);
    upstream.behave();
    upstream.misbehave({ kind: 'blob', repository: 'private', status: 401 });
    expect(await Promise.all([readAll(ann.reader), readAll(bob.reader)])).toEqual([whole(big), whole(big)]);
    const gets = upstream.requests.filter(request => isDownload(request) && request.status === 206);
    expect(gets.map(({ repository, username }) => [repository, username])).toEqual([['open', 'bob']]);
  });
});

describe('an index', () => {
  const amd64 = version('amd64');
  const arm64 = imageOf([randomBlob(10_000, 'arm64')], { platform: { os: 'linux', architecture: 'arm64' } });
  const index = indexOf([amd64, arm64]);

  beforeEach(async () => {
    await start();
    upstream.add('app', index, '1.0');
  });

  it('is served unchanged to a client that accepts it, and by digest to everybody', async () => {
    expect((await world.manifest('1.0')).descriptor.digest).toBe(index.manifest.digest);
    const want = { accepts: noIndex, platform: undefined };
    expect((await world.manifest(index.manifest.digest, APP, want)).descriptor.digest).toBe(
      index.manifest.digest,
    );
  });

  it('is answered with the child for linux/amd64 to a client that accepts none, or with that of a requested platform', async () => {
    expect(await childOf(undefined)).toBe(amd64.manifest.digest);
    expect(await childOf('linux/arm64')).toBe(arm64.manifest.digest);
    await expect(childOf('linux/s390x')).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
  });

  describe('with a child without a platform', () => {
    const outer = indexOfEntries([descriptorOf(indexOfEntries([descriptorOf(arm64.manifest)]))]);
    const inner = indexOfEntries([descriptorOf(arm64.manifest)]);

    beforeEach(() => {
      upstream.add('app', arm64);
      upstream.add('app', { manifest: inner, images: [] });
      upstream.add('app', { manifest: outer, images: [] }, '1.0');
    });

    it("is served by the child's config, which is read once upstream and then here", async () => {
      expect(await childOf('linux/arm64')).toBe(arm64.manifest.digest);
      await expect(childOf(undefined)).rejects.toMatchObject({ code: 'MANIFEST_UNKNOWN' });
      expect(await childOf('linux/arm64')).toBe(arm64.manifest.digest);
      expect(upstream.count('blob', { method: 'GET' })).toBe(1);
    });

    it('is answered with the error of upstream if the config cannot be read', async () => {
      upstream.misbehave({ status: 429, kind: 'blob', headers: { 'Retry-After': '7' } });
      await expect(childOf('linux/arm64')).rejects.toMatchObject({ code: 'TOOMANYREQUESTS' });
    });
  });
});

describe('lists', () => {
  it('of tags are upstream’s, page by page, and the stored ones when upstream is down', async () => {
    await start();
    upstream.add('app', version('a'), '1.0');
    upstream.add('app', version('b'), '2.0');
    await world.manifest('1.0');
    const right = await world.right();
    expect(await world.mirror.tags(APP, { limit: 1, after: undefined }, right)).toMatchObject({
      tags: ['1.0'],
      next: '1.0',
    });
    expect(await world.mirror.tags(APP, { limit: 1, after: '1.0' }, right)).toMatchObject({
      tags: ['2.0'],
      next: undefined,
    });
    upstream.misbehave({ reset: true });
    expect(await world.mirror.tags(APP, page, right)).toMatchObject({ tags: ['1.0'], outcome: 'stale' });
  });

  for (const referrers of [true, false]) {
    it(`of referrers are upstream’s ${referrers ? 'by its API' : 'by the tag schema'}, and stored`, async () => {
      await start({ referrers });
      const subject = version('a');
      upstream.add('app', subject, '1.0');
      const signature = imageOf([randomBlob(100, 'signature')], {
        subject: subject.manifest,
        artifactType: 'application/vnd.test.signature',
      });
      upstream.add('app', signature);
      const list = indexOf([signature]).manifest;
      if (!referrers) upstream.add('app', list, subject.manifest.digest.replace(':', '-'));
      await world.manifest('1.0');
      const query = { artifactType: undefined, page };
      const right = await world.right();
      const digest = subject.manifest.digest;
      const first = await world.mirror.referrers(APP, digest, query, right);
      expect(first.manifests.map(entry => entry.digest)).toEqual([signature.manifest.digest]);
      upstream.misbehave({ reset: true });
      expect((await world.mirror.referrers(APP, digest, query, right)).outcome).toBe('hit');
      world.nowMs += MINUTE_MS;
      expect((await world.mirror.referrers(APP, digest, query, right)).outcome).toBe('stale');
      const filtered = { artifactType: 'application/vnd.test.other', page };
      expect((await world.mirror.referrers(APP, digest, filtered, right)).manifests).toEqual([]);
    });
  }
});

it('an invalid list of referrers is upstream’s fault, whether it is fetched now or was stored by an earlier version', async () => {
  await start();
  const image = version('subject');
  const { digest } = image.manifest;
  upstream.add('app', image, '1.0');
  await world.manifest('1.0');
  const query = { artifactType: undefined, page };
  const list = async (right = {}) =>
    world.mirror.referrers(APP, digest, query, { ...(await world.right()), ...right });
  const body = JSON.stringify({ manifests: [{ mediaType: 'a/b', digest: 'sha256:0', size: 1 }] });
  const behave = upstream.misbehave({ kind: 'referrers', status: 200, body });
  const refusal = { code: 'UPSTREAM_INVALID', status: 502 };
  expect(await list()).toMatchObject({ outcome: 'stale', manifests: [] });
  await expect(list({ proved: false })).rejects.toMatchObject(refusal);
  expect(await world.metadata.readReferrersList(APP, digest)).toBeUndefined();
  behave();
  const checkedAtMs = world.nowMs;
  const kept = { mediaType: OCI_INDEX, bytes: Buffer.from(body), checkedAtMs };
  await world.metadata.putReferrersList(APP, digest, kept);
  await expect(list()).rejects.toMatchObject(refusal);
  world.nowMs += HOUR_MS;
  expect((await list()).manifests).toEqual([]);
});

it('served content counts as used, so that other content is evicted first', async () => {
  await start();
  const [old, wanted] = ['old', 'wanted'].map(version);
  upstream.add('app', old!, '1.0');
  upstream.add('app', wanted!, '2.0');
  const pull = async (image: Image, tag: string) => {
    await world.manifest(tag);
    await world.pull(image.layers[0]!.digest);
  };
  await pull(wanted!, '2.0');
  await pull(old!, '1.0');
  await expect.poll(async () => (await world.metadata.readTotals()).blobs).toBe(2);
  await world.metadata.writeUses();
  await world.metadata.lowerUses(1, 1);
  await pull(wanted!, '2.0');
  const contents = [old!, wanted!].flatMap(({ manifest, layers }) => [
    { kind: 'manifest' as const, digest: manifest.digest },
    { kind: 'blob' as const, digest: layers[0]!.digest },
  ]);
  expect(await world.metadata.evict(contents, Date.now() - HOUR_MS)).toEqual(contents.slice(0, 2));
});
