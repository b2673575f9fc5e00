import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { codeOf, get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

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

describe('a blob that only a private repository holds', () => {
  it('is not served through a public one whose manifest merely names it', async () => {
    upstream.add('private', imageOf([secretBlob, unaskedBlob]), '1');
    // The manifest of the public repository names the secret layers, which upstream does not have there.
    const { manifest: naming } = imageOf([openBlob, secretBlob, unaskedBlob]);
    upstream.add('open', naming, '1');
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

  it('is served where upstream confirms that it belongs, after one HEAD and no second transfer', async () => {
    upstream.add('open', imageOf([openBlob]), '1');
    upstream.add('twin', imageOf([openBlob]), '1');
    await manifest('open', '1');
    await hold('open', openBlob);
    await manifest('twin', '1');
    upstream.requests.length = 0;
    const got = await blob('twin', openBlob.digest);
    expect(`sha256:${got.sha256}`).toBe(openBlob.digest);
    expect(upstream.requests.filter(({ kind }) => kind === 'blob').map(({ method }) => method)).toEqual([
      'HEAD',
    ]);
  });
});

describe('an anonymous client', () => {
  it('gets what is public, and what openToAll opens, and nothing else of what the credential may read', async () => {
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
