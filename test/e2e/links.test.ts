import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { codeOf, get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import { beginUpload, sendBytes } from '../support/push-client.ts';

const SECRET = 'only-for-private';

let upstream: FakeUpstream;
let entrepot: Entrepot;

const secretBlob = randomBlob(200_000, 'secret');
const unaskedBlob = randomBlob(50_000, 'secret that nobody asks for elsewhere while upstream is there');
const openBlob = randomBlob(100_000, 'open');

beforeEach(async () => {
  upstream = await FakeUpstream.start({
    auth: {
      scheme: 'bearer',
      users: { robot: { password: SECRET, repositories: ['private'] } },
      public: ['open', 'twin'],
    },
  });
  const credentials = { username: 'robot', passwordEnv: 'TEST_UPSTREAM_PASSWORD' };
  entrepot = await Entrepot.start(
    {
      upstreams: {
        'up.example': {
          url: upstream.url,
          credentials,
          repositories: [{ match: 'private', openToAll: true }],
        },
      },
    },
    { env: { TEST_UPSTREAM_PASSWORD: SECRET } },
  );
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const manifest = (repository: string, reference: string) =>
  get(`${entrepot.url}/v2/up.example/${repository}/manifests/${reference}`);
const blob = (repository: string, digest: string, method = 'GET') =>
  get(`${entrepot.url}/v2/up.example/${repository}/blobs/${digest}`, { method });

/** Fetches it, and asks until it is served from here: the commit goes on behind the first reader. */
async function hold(repository: string, { digest }: Content): Promise<void> {
  await until(`${digest} to be held`, 20_000, async () => {
    const got = await blob(repository, digest);
    expect([got.status, `sha256:${got.sha256}`]).toEqual([200, digest]);
    return got.headers['cache-status'] === 'entrepot; hit';
  });
}

describe('a blob that only a private repository has', () => {
  it('is not served through a public one whose manifest names it', async () => {
    upstream.add('private', imageOf([secretBlob, unaskedBlob]), '1');
    // The manifest of the public repository names the secret layers, which upstream does not have there.
    const { manifest: resolver } = imageOf([openBlob, secretBlob, unaskedBlob]);
    upstream.add('open', resolver, '1');
    upstream.add('open', openBlob);

    expect((await manifest('private', '1')).status).toBe(200);
    for (const secret of [secretBlob, unaskedBlob]) await hold('private', secret);
    expect((await manifest('open', '1')).status).toBe(200);

    const absent = randomBlob(10, 'absent').digest;
    for (const method of ['GET', 'HEAD']) {
      const refused = await blob('open', secretBlob.digest, method);
      const unknown = await blob('open', absent, method);
      expect([refused.status, codeOf(refused)]).toEqual([unknown.status, codeOf(unknown)]);
      expect(refused.status).toBe(404);
      expect(refused.headers['cache-status']).toBeUndefined();
    }
    await upstream.stop();
    // Of this one no answer of upstream's is remembered that would refuse it by itself.
    for (const secret of [secretBlob, unaskedBlob]) {
      expect((await blob('open', secret.digest)).status).toBeGreaterThanOrEqual(400);
      expect((await blob('private', secret.digest)).status).toBe(200);
    }
  });

  it('is served if upstream proves that it has it, after three ranges and without a second transfer', async () => {
    upstream.add('open', imageOf([openBlob]), '1');
    upstream.add('twin', imageOf([openBlob]), '1');
    await manifest('open', '1');
    await hold('open', openBlob);
    await manifest('twin', '1');
    upstream.requests.length = 0;
    const got = await blob('twin', openBlob.digest);
    expect(`sha256:${got.sha256}`).toBe(openBlob.digest);
    expect(got.headers['cache-status']).toBe('entrepot; fwd=uri-miss; stored');
    await hold('twin', openBlob);
    const ranges = upstream.requests
      .filter(({ kind }) => kind === 'blob')
      .map(({ headers }) => headers.range);
    expect(ranges).toEqual(Array(3).fill(expect.stringMatching(/^bytes=\d+-\d+$/)));
  });
});

describe('an upstream that confirms every digest', () => {
  it('gets nothing that came from another upstream or a hosted repository', async () => {
    const pushed = randomBlob(60_000, 'pushed');
    const image = imageOf([openBlob]);
    const liar = await FakeUpstream.start();
    upstream.add('open', image, '1');
    const server = await Entrepot.start({
      upstreams: { 'up.example': { url: upstream.url }, 'liar.example': { url: liar.url } },
      hosted: { prefixes: ['team'], anonymous: 'push' },
    });
    try {
      const path = (name: string) => `${server.url}/v2/${name}`;
      expect((await get(path('up.example/open/manifests/1'))).status).toBe(200);
      await until('the blob to be held', 20_000, async () => {
        const got = await get(path(`up.example/open/blobs/${openBlob.digest}`));
        return got.headers['cache-status'] === 'entrepot; hit';
      });
      const session = new URL(await beginUpload(server.url, 'team/app'), server.url);
      session.searchParams.set('digest', pushed.digest);
      expect(await sendBytes('PUT', session.href, pushed)).toBe(201);

      for (const content of [openBlob, pushed]) {
        const headers = {
          'Content-Type': 'application/octet-stream',
          'Docker-Content-Digest': content.digest,
        };
        liar.misbehave({ reference: content.digest, status: 200, headers, body: ' '.repeat(content.size) });
        for (const name of ['liar.example/any', 'liar.example/open']) {
          const got = await get(path(`${name}/blobs/${content.digest}`));
          expect([got.status, codeOf(got)]).toEqual([502, 'UPSTREAM_INVALID']);
        }
      }
      const { digest } = image.manifest;
      for (const reference of [digest, '1']) {
        const headers = { 'Content-Type': image.manifest.mediaType, 'Docker-Content-Digest': digest };
        liar.misbehave({ reference, status: 200, headers, body: '{}' });
        const got = await get(path(`liar.example/any/manifests/${reference}`));
        expect([got.status, codeOf(got)]).toEqual([502, 'UPSTREAM_INVALID']);
      }
    } finally {
      await server.remove();
      await liar.stop();
    }
  });
});

describe('an anonymous client', () => {
  it('gets public content, and what openToAll gives access to, and nothing else that the credential may read', async () => {
    const users = { robot: { password: SECRET, repositories: ['closed'] } };
    const other = await FakeUpstream.start({ auth: { scheme: 'bearer', users, public: ['open'] } });
    other.add('closed', imageOf([secretBlob]), '1');
    other.add('open', imageOf([openBlob]), '1');
    const credentials = { username: 'robot', passwordEnv: 'TEST_UPSTREAM_PASSWORD' };
    const server = await Entrepot.start(
      { upstreams: { 'other.example': { url: other.url, credentials } } },
      { env: { TEST_UPSTREAM_PASSWORD: SECRET } },
    );
    try {
      const closed = await get(`${server.url}/v2/other.example/closed/manifests/1`);
      const nothing = await get(`${server.url}/v2/other.example/nothing/manifests/1`);
      expect([closed.status, codeOf(closed)]).toEqual([404, codeOf(nothing)]);
      expect(nothing.status).toBe(404);
      expect((await get(`${server.url}/v2/other.example/open/manifests/1`)).status).toBe(200);
    } finally {
      await server.remove();
      await other.stop();
    }
  });
});
