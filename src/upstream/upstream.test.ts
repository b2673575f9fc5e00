import { describe, expect, it } from 'vitest';
import { contentOf, imageOf, indexOf, randomBlob } from '../../test/support/content.ts';
import { alice, anonymous, client, failure, fake, read, users } from '../../test/support/upstream-client.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../oci/media-types.ts';

const layer = randomBlob(300_000, 'layer');
const image = imageOf([layer]);
const missing = digestOf(Buffer.from('nothing has this digest'));

function digestsOf(index: Uint8Array): Digest[] {
  return JSON.parse(Buffer.from(index).toString()).manifests.map((entry: { digest: Digest }) => entry.digest);
}

describe('manifests', () => {
  it('are fetched by tag and by digest, unchanged, with their type', async () => {
    const registry = await fake();
    const index = indexOf([image, imageOf([layer], { platform: { os: 'linux', architecture: 'arm64' } })]);
    registry.add('team/app', index, '1.0');
    const upstream = client(registry.url);
    for (const reference of ['1.0', index.manifest.digest]) {
      const { manifest, proof } = await upstream.fetchManifest('team/app', reference, anonymous);
      expect(manifest.digest).toBe(index.manifest.digest);
      expect(manifest.mediaType).toBe(index.manifest.mediaType);
      expect(digestOf(manifest.bytes)).toBe(index.manifest.digest);
      expect(proof).toBe(true);
    }
  });

  it('are requested with all existing types, and without a content encoding', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    await client(registry.url).headManifest('team/app', '1.0', anonymous);
    const { headers } = registry.requests[0] ?? {};
    expect(headers?.accept).toContain('application/vnd.oci.image.index.v1+json');
    expect(headers?.accept).toContain('application/vnd.docker.distribution.manifest.v2+json');
    expect(headers?.['accept-encoding']).toBe('identity');
  });

  it('are checked by HEAD', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    expect(await client(registry.url).headManifest('team/app', '1.0', anonymous)).toEqual({
      digest: image.manifest.digest,
      size: image.manifest.size,
      mediaType: OCI_MANIFEST,
      proof: true,
    });
  });

  it('are not proved by a redirected HEAD', async () => {
    const [registry, elsewhere] = [await fake(), await fake()];
    elsewhere.add('team/app', image, '1.0');
    registry.misbehave({ method: 'HEAD', redirectTo: `${elsewhere.url}/v2/team/app/manifests/1.0` });
    const upstream = client(registry.url, { allowAddresses: ['127.0.0.0/8'] });
    expect(await upstream.headManifest('team/app', '1.0', anonymous)).toMatchObject({
      digest: image.manifest.digest,
      proof: false,
    });
  });

  it.each(['not-allowed', 'no-digest'] as const)('have no digest if HEAD is %s', async manifestHead => {
    const registry = await fake({ manifestHead });
    registry.add('team/app', image, '1.0');
    expect((await client(registry.url).headManifest('team/app', '1.0', anonymous)).digest).toBeUndefined();
  });

  it('are invalid if their bytes have another digest', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    registry.misbehave({ kind: 'manifest', corruptByte: 20 });
    const upstream = client(registry.url);
    for (const reference of ['1.0', image.manifest.digest]) {
      expect((await failure(upstream.fetchManifest('team/app', reference, anonymous))).kind).toBe('invalid');
    }
  });

  it('of a gigabyte are refused before they are read, whether their length is announced or not', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    for (const headers of [{}, { 'Content-Length': null }]) {
      registry.behave();
      registry.misbehave({ kind: 'manifest', spaces: 1024 ** 3, headers });
      const sentBefore = registry.bytesSent;
      const error = await failure(client(registry.url).fetchManifest('team/app', '1.0', anonymous));
      expect(error.kind).toBe('invalid');
      expect(registry.bytesSent - sentBefore).toBeLessThan(32 * 1024 ** 2);
    }
  });

  it('that do not exist are unknown', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    const error = await failure(upstream.fetchManifest('team/app', '2.0', anonymous));
    expect([error.kind, error.status, error.code]).toEqual(['unknown', 404, 'MANIFEST_UNKNOWN']);
    expect((await failure(upstream.headManifest('team/app', '2.0', anonymous))).kind).toBe('unknown');
  });

  it('have the type that they declare if the server sends none', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    registry.misbehave({ kind: 'manifest', headers: { 'Content-Type': 'text/plain; charset=utf-8' } });
    const { manifest } = await client(registry.url).fetchManifest('team/app', '1.0', anonymous);
    expect(manifest.mediaType).toBe(OCI_MANIFEST);
  });

  it('are never requested under a name that would change the URL', async () => {
    const registry = await fake();
    const upstream = client(registry.url);
    for (const [repository, reference] of [
      ['team/../admin', '1.0'],
      ['team/app?x=', '1.0'],
      ['team/app', '../../token'],
      ['team/app', 'sha256:../../x'],
    ] as const) {
      await expect(upstream.fetchManifest(repository, reference, anonymous)).rejects.toThrow(TypeError);
    }
    expect(registry.requests).toEqual([]);
  });
});

describe('responses that violate the protocol', () => {
  it('with a content encoding are invalid', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    registry.misbehave({ headers: { 'Content-Encoding': 'gzip' } });
    const upstream = client(registry.url);
    expect((await failure(upstream.fetchManifest('team/app', '1.0', anonymous))).kind).toBe('invalid');
    expect((await failure(upstream.fetchBlob('team/app', layer.digest, anonymous))).kind).toBe('invalid');
  });

  it('with too many headers are a failure', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    registry.misbehave({ headers: { 'X-Long': 'x'.repeat(100_000) } });
    expect((await failure(client(registry.url).headManifest('team/app', '1.0', anonymous))).kind).toBe(
      'unavailable',
    );
  });

  it.each([
    [400, 'invalid'],
    [401, 'denied'],
    [403, 'denied'],
    [404, 'unknown'],
    [410, 'unknown'],
    [429, 'limited'],
    [500, 'unavailable'],
    [503, 'unavailable'],
  ] as const)('of status %i mean %s', async (status, kind) => {
    const registry = await fake();
    registry.misbehave({ status });
    const error = await failure(client(registry.url).headBlob('team/app', layer.digest, anonymous));
    expect([error.kind, error.status]).toEqual([kind, status]);
  });

  it('with an endless error are aborted', async () => {
    const registry = await fake();
    registry.misbehave({ status: 500, spaces: 1024 ** 3 });
    const upstream = client(registry.url);
    const errors = await Promise.all(
      Array.from({ length: 5 }, () => failure(upstream.fetchBlob('team/app', layer.digest, anonymous))),
    );
    expect(errors.map(({ kind }) => kind)).toEqual(Array(5).fill('unavailable'));
    // Known when the answer has ended, here by the client.
    await expect.poll(() => registry.requests.map(({ status }) => status)).toEqual(Array(5).fill(500));
  });
});

/** A limit that a busy machine does not exceed by itself. */
const SECONDS_MS = 2_000;

describe('time limits', () => {
  it('end a wait for headers', async () => {
    const registry = await fake();
    registry.misbehave({ hang: true });
    const upstream = client(registry.url, { timeouts: { headersMs: 100 } });
    const error = await failure(upstream.headManifest('team/app', '1.0', anonymous));
    expect(error.kind).toBe('unavailable');
    expect(error.message).toContain('no answer in time');
  });

  it('end a body that stalls, and let a slow one continue', async () => {
    const registry = await fake();
    registry.add('team/app', layer);
    const impatient = client(registry.url, { timeouts: { idleBodyMs: 100 } });
    const end = registry.misbehave({ kind: 'blob', hangAtByte: 1_000 });
    const stuck = await impatient.fetchBlob('team/app', layer.digest, anonymous);
    expect((await failure(read(stuck.body))).kind).toBe('unavailable');
    end();
    // In all, it takes longer than that.
    registry.misbehave({ kind: 'blob', bytesPerS: layer.size / ((1.5 * SECONDS_MS) / 1000) });
    const patient = client(registry.url, { timeouts: { idleBodyMs: SECONDS_MS } });
    const slow = await patient.fetchBlob('team/app', layer.digest, anonymous);
    expect(digestOf(await read(slow.body))).toBe(layer.digest);
  });

  it('do not run while nobody reads', async () => {
    const registry = await fake();
    const large = randomBlob(8_000_000, 'large');
    registry.add('team/app', large);
    const upstream = client(registry.url, { timeouts: { idleBodyMs: SECONDS_MS } });
    const { body } = await upstream.fetchBlob('team/app', large.digest, anonymous);
    await new Promise(resolve => setTimeout(resolve, 1.5 * SECONDS_MS));
    expect(digestOf(await read(body))).toBe(large.digest);
  });

  it('are the caller’s, too: an aborted ask rejects with its reason', async () => {
    const registry = await fake();
    registry.misbehave({ hang: true });
    const controller = new AbortController();
    const asked = client(registry.url).headManifest('team/app', '1.0', {
      ...anonymous,
      signal: controller.signal,
    });
    await expect.poll(() => registry.requests.length).toBe(1);
    controller.abort(new Error('the asker has left'));
    await expect(asked).rejects.toThrow('the asker has left');
    await expect.poll(() => registry.connections()).toBe(0);
  });
});

describe('rate limits', () => {
  it('block all requests with that credential, and no others', async () => {
    const registry = await fake({ auth: { scheme: 'basic', users, public: '*' } });
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    registry.misbehave({ times: 1, status: 429, headers: { 'Retry-After': '60' } });
    const first = await failure(upstream.headManifest('team/app', '1.0', anonymous));
    const second = await failure(upstream.headBlob('team/app', layer.digest, anonymous));
    expect([first.kind, second.kind]).toEqual(['limited', 'limited']);
    expect(second.retryAfterMs).toBeGreaterThan(50_000);
    expect(registry.requests.length).toBe(1);
    expect((await upstream.headManifest('team/app', '1.0', { credential: alice })).digest).toBe(
      image.manifest.digest,
    );
    upstream.forgetFailures();
    expect((await upstream.headManifest('team/app', '1.0', anonymous)).digest).toBe(image.manifest.digest);
  });

  it('are read from responses', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    registry.misbehave({
      headers: { 'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': '76;w=21600' },
    });
    const upstream = client(registry.url);
    await upstream.headManifest('team/app', '1.0', anonymous);
    expect(upstream.budget()).toMatchObject([
      { credentialId: '', limit: 100, remaining: 76, windowS: 21_600, limitedMs: 0 },
    ]);
  });
});

describe('a login check', () => {
  const { signal } = new AbortController();
  const wrong = { ...alice, password: 'another' };

  it.each([
    ['by Basic authentication', { scheme: 'basic' }],
    ['by a token service that says 401', { scheme: 'bearer' }],
    ['by a token service that says 403', { scheme: 'bearer', tokenWrongPassword: 403, tokenDenial: 403 }],
  ] as const)('is accepted or refused by itself %s', async (_, auth) => {
    const registry = await fake({ auth: { ...auth, users } });
    const upstream = client(registry.url);
    await failure(upstream.headManifest('team/other', '1', { credential: alice }));
    expect(await upstream.acceptsLogin(alice, signal)).toBe(true);
    expect(await upstream.acceptsLogin(wrong, signal)).toBe(false);
  });

  it('uses the current password, not an earlier token', async () => {
    const changing = { password: alice.password, repositories: '*' as const };
    const registry = await fake({ auth: { scheme: 'bearer', users: { alice: changing } } });
    const upstream = client(registry.url);
    expect(await upstream.acceptsLogin(alice, signal)).toBe(true);
    changing.password = 'another';
    expect(await upstream.acceptsLogin(alice, signal)).toBe(false);
  });

  it('does not use the scope of a registry that names one without a repository', async () => {
    const registry = await fake({ auth: { scheme: 'bearer', users, tokenDenial: 403 } });
    const realm = `realm="${registry.url}/token",service="fake-upstream"`;
    registry.misbehave({
      kind: 'ping',
      status: 401,
      headers: { 'www-authenticate': `Bearer ${realm},scope="repository:user/image:pull"` },
    });
    expect(await client(registry.url).acceptsLogin(alice, signal)).toBe(true);
    expect(registry.requests.filter(({ kind }) => kind === 'token').map(({ path }) => path)).toEqual([
      expect.not.stringContaining('scope'),
    ]);
  });

  it('is undecided if url does not say, whatever its mirrors say', async () => {
    const [registry, mirror] = [await fake(), await fake({ auth: { scheme: 'basic', users } })];
    registry.misbehave({ status: 503 });
    const upstream = client(registry.url, { mirrors: [{ url: mirror.url }] });
    expect(await upstream.acceptsLogin(alice, signal)).toBeUndefined();
    expect(mirror.requests).toEqual([]);
  });
});

describe('mirrors', () => {
  it('are used if url cannot be reached or fails, without its credential and without proof', async () => {
    const [registry, mirror] = [
      await fake(),
      await fake({ auth: { scheme: 'basic', users: {}, public: '*' } }),
    ];
    for (const site of [registry, mirror]) site.add('team/app', image, '1.0');
    const upstream = client(registry.url, { mirrors: [{ url: mirror.url }] });
    registry.misbehave({ status: 503 });
    const { manifest, proof } = await upstream.fetchManifest('team/app', '1.0', { credential: alice });
    expect([manifest.digest, proof]).toEqual([image.manifest.digest, false]);
    const blob = await upstream.fetchBlob('team/app', layer.digest, { credential: alice });
    expect([blob.endpoint, digestOf(await read(blob.body))]).toEqual([1, layer.digest]);
    await registry.stop();
    expect((await upstream.headManifest('team/app', '1.0', { credential: alice })).proof).toBe(false);
    expect(mirror.saw(alice.password)).toBe(false);
  });

  it('never get the credential of url even if they ask for one; they have their own', async () => {
    const registry = await fake();
    const auth = { scheme: 'basic', users: { mirror: { password: 'its-own', repositories: '*' } } } as const;
    const [closed, open] = [await fake({ auth }), await fake({ auth })];
    open.add('team/app', image, '1.0');
    registry.misbehave({ reset: true });
    const own = { username: 'mirror', password: 'its-own', id: 'id-of-mirror' };
    const upstream = client(registry.url, {
      mirrors: [{ url: closed.url }, { url: open.url, credential: own }],
    });
    const { digest } = await upstream.headManifest('team/app', '1.0', { credential: alice });
    expect(digest).toBe(image.manifest.digest);
    expect([closed, open].map(site => site.saw(alice.password))).toEqual([false, false]);
    expect([closed, open].map(site => site.saw('its-own'))).toEqual([false, true]);
  });

  it('are not asked about what url denies or does not know, and their own refusal is not final', async () => {
    const [registry, mirror] = [await fake(), await fake()];
    const upstream = client(registry.url, { mirrors: [{ url: mirror.url }] });
    expect((await failure(upstream.headManifest('team/app', '1.0', anonymous))).kind).toBe('unknown');
    expect(mirror.requests).toEqual([]);
    registry.misbehave({ status: 502 });
    const error = await failure(upstream.headManifest('team/app', '1.0', anonymous));
    expect([error.kind, error.status, error.endpoint]).toEqual(['unavailable', 502, 0]);
    expect(mirror.requests.length).toBe(1);
  });

  it('can be skipped, like url', async () => {
    const [registry, mirror] = [await fake(), await fake()];
    for (const site of [registry, mirror]) site.add('team/app', layer);
    const upstream = client(registry.url, { mirrors: [{ url: mirror.url }] });
    const blob = await upstream.fetchBlob('team/app', layer.digest, {
      ...anonymous,
      skipEndpoints: new Set([0]),
    });
    expect(blob.endpoint).toBe(1);
    blob.destroy();
    expect(
      (
        await failure(
          upstream.fetchBlob('team/app', layer.digest, { ...anonymous, skipEndpoints: new Set([0, 1]) }),
        )
      ).kind,
    ).toBe('unavailable');
  });

  it('are tried first while url cannot be connected to', async () => {
    const [registry, mirror] = [await fake(), await fake()];
    mirror.add('team/app', image, '1.0');
    const upstream = client(registry.url, {
      mirrors: [{ url: mirror.url }],
      timeouts: { headersMs: SECONDS_MS },
    });
    registry.misbehave({ hang: true });
    for (let round = 0; round < 3; round += 1) await upstream.headManifest('team/app', '1.0', anonymous);
    expect([registry.requests.length, mirror.requests.length]).toEqual([1, 3]);
  });
});

describe('tags', () => {
  it('are returned in pages', async () => {
    const registry = await fake();
    for (const tag of ['a', 'b', 'c', 'd', 'e']) registry.add('team/app', image, tag);
    const upstream = client(registry.url);
    const pages: (readonly string[])[] = [];
    let after: string | undefined;
    do {
      const page = await upstream.fetchTags('team/app', { limit: 2, after }, anonymous);
      pages.push(page.tags);
      after = page.next;
    } while (after !== undefined);
    expect(pages).toEqual([['a', 'b'], ['c', 'd'], ['e']]);
  });

  it('that are invalid are left out, and null counts as none', async () => {
    const registry = await fake();
    const upstream = client(registry.url);
    registry.misbehave({ times: 1, status: 200, body: '{"tags":["ok","../x",7]}' });
    expect((await upstream.fetchTags('team/app', { limit: 9, after: undefined }, anonymous)).tags).toEqual([
      'ok',
    ]);
    registry.misbehave({ times: 1, status: 200, body: '{"tags":null}' });
    expect((await upstream.fetchTags('team/app', { limit: 9, after: undefined }, anonymous)).tags).toEqual(
      [],
    );
    registry.misbehave({ times: 1, status: 200, body: '[]' });
    expect(
      (await failure(upstream.fetchTags('team/app', { limit: 9, after: undefined }, anonymous))).kind,
    ).toBe('invalid');
  });

  it('from a server without pages are divided into pages all the same', async () => {
    const registry = await fake();
    registry.misbehave({ kind: 'tags', status: 200, body: '{"tags":["a","b","c"]}' });
    const upstream = client(registry.url);
    const first = await upstream.fetchTags('team/app', { limit: 2, after: undefined }, anonymous);
    const second = await upstream.fetchTags('team/app', { limit: 2, after: first.next }, anonymous);
    expect([first.tags, first.next, second.tags, second.next]).toEqual([['a', 'b'], 'b', ['c'], undefined]);
  });

  it('use only the position in the list of a Link', async () => {
    const [registry, elsewhere] = [await fake(), await fake()];
    registry.misbehave({
      kind: 'tags',
      status: 200,
      headers: { Link: `<${elsewhere.url}/v2/team/app/tags/list?last=b>; rel="next"` },
      body: '{"tags":["a","b"]}',
    });
    const upstream = client(registry.url);
    expect((await upstream.fetchTags('team/app', { limit: 2, after: undefined }, anonymous)).next).toBe('b');
    expect(elsewhere.requests).toEqual([]);
  });
});

describe('referrers', () => {
  const signatures = Array.from({ length: 5 }, (_, n) =>
    imageOf([contentOf(`signature ${n}`, 'application/x')], {
      subject: image.manifest,
      artifactType: `application/${n}`,
    }),
  );
  it('of all pages are one index', async () => {
    const registry = await fake({ pageSize: 2 });
    for (const signature of signatures) registry.add('team/app', signature);
    const { bytes } = await client(registry.url).fetchReferrers('team/app', image.manifest.digest, anonymous);
    expect(digestsOf(bytes)).toEqual(signatures.map(({ manifest }) => manifest.digest));
    expect(registry.count('referrers')).toBe(3);
  });

  it('are found under their tag if there is no API, and are none if there is neither', async () => {
    const registry = await fake({ referrers: false });
    const upstream = client(registry.url);
    const none = await upstream.fetchReferrers('team/app', image.manifest.digest, anonymous);
    expect([digestsOf(none.bytes), none.proof]).toEqual([[], false]);
    registry.add('team/app', indexOf(signatures), image.manifest.digest.replace(':', '-'));
    const { bytes } = await upstream.fetchReferrers('team/app', image.manifest.digest, anonymous);
    expect(digestsOf(bytes)).toEqual(signatures.map(({ manifest }) => manifest.digest));
  });

  const descriptor = { mediaType: 'application/x', digest: image.manifest.digest, size: 1 };
  const entries = (count: number, entry: unknown = descriptor) =>
    JSON.stringify({ manifests: Array.from({ length: count }, () => entry) });
  it.each([
    ['of 1.9 million entries', entries(1_900_000, 1)],
    ['of more entries than an index has', entries(1_001)],
    ['with a bad digest', entries(1, { ...descriptor, digest: 'sha256:0' })],
    ['without an entry’s size', entries(1, { ...descriptor, size: undefined })],
    ['of nested lists', `{"manifests":${'['.repeat(100_000)}${']'.repeat(100_000)}}`],
    ['of nothing', '[]'],
  ])('in a list %s are refused as upstream’s fault', async (_, body) => {
    const registry = await fake();
    const behave = registry.misbehave({ kind: 'referrers', status: 200, body });
    const ask = () => client(registry.url).fetchReferrers('team/app', image.manifest.digest, anonymous);
    expect((await failure(ask())).kind).toBe('invalid');
    behave();
    registry.misbehave({ kind: 'referrers', status: 404 });
    const headers = { 'Content-Type': OCI_INDEX };
    registry.misbehave({ kind: 'manifest', status: 200, body, headers });
    expect((await failure(ask())).kind).toBe('invalid');
  });

  it('of many pages are limited like an index', async () => {
    const registry = await fake();
    const headers = { Link: '</v2/team/app/referrers/x?last=1>; rel="next"' };
    registry.misbehave({ kind: 'referrers', status: 200, headers, body: entries(100) });
    const asked = client(registry.url).fetchReferrers('team/app', image.manifest.digest, anonymous);
    expect((await failure(asked)).kind).toBe('invalid');
    expect(registry.requests).toHaveLength(11);
  });

  it('without end are refused', async () => {
    const registry = await fake();
    registry.misbehave({
      kind: 'referrers',
      status: 200,
      headers: { Link: '</v2/team/app/referrers/x?last=1>; rel="next"' },
      body: '{"manifests":[]}',
    });
    const asked = client(registry.url).fetchReferrers('team/app', image.manifest.digest, anonymous);
    expect((await failure(asked)).kind).toBe('invalid');
    expect(registry.requests.every(({ kind }) => kind === 'referrers')).toBe(true);
    expect(registry.requests.length).toBeLessThanOrEqual(100);
  });
});

describe('blobs that do not exist', () => {
  it('are unknown', async () => {
    const registry = await fake();
    registry.add('team/app', image);
    expect((await failure(client(registry.url).fetchBlob('team/app', missing, anonymous))).kind).toBe(
      'unknown',
    );
  });
});
