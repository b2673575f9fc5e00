import { afterEach, describe, expect, it } from 'vitest';
import { codeOf, get, many } from '../support/client.ts';
import { bytesOf, type Image, imageOf, indexOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';

const UPSTREAM = 'up.example';
const ALL = 'application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json';

let upstream: FakeUpstream;
let entrepot: Entrepot;

async function start(options: object = {}): Promise<void> {
  upstream = await FakeUpstream.start();
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url, ...options } } });
}

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const manifest = (reference: string, method = 'GET') =>
  get(`${entrepot.url}/v2/app/manifests/${reference}?ns=${UPSTREAM}`, { method, headers: { accept: ALL } });
const blob = (digest: string) => get(`${entrepot.url}/v2/app/blobs/${digest}?ns=${UPSTREAM}`);

/** What a node does: the tag by HEAD, the manifest by digest, the blobs. */
async function pull(tag: string): Promise<string> {
  const head = await manifest(tag, 'HEAD');
  expect(head.status).toBe(200);
  const digest = String(head.headers['docker-content-digest']);
  const got = await manifest(digest);
  expect(got.status).toBe(200);
  const { config, layers } = JSON.parse(got.text) as {
    config: { digest: string };
    layers: { digest: string }[];
  };
  for (const { digest: wanted } of [config, ...layers]) {
    const answer = await blob(wanted);
    expect([answer.status, `sha256:${answer.sha256}`]).toEqual([200, wanted]);
  }
  return digest;
}

const shared = randomBlob(300_000, 'shared layer');
const version = (seed: string): Image => imageOf([shared, randomBlob(50_000, seed)]);

describe('latest', () => {
  it('that moved upstream is noticed at the next pull, and stored layers are not fetched again', async () => {
    await start({ pullPolicy: 'Always' });
    const [old, young] = [version('old'), version('young')];
    upstream.add('app', old, 'latest');
    expect(await pull('latest')).toBe(old.manifest.digest);
    upstream.add('app', young, 'latest');
    expect(await pull('latest')).toBe(young.manifest.digest);
    expect(upstream.count('blob', { method: 'GET', reference: shared.digest })).toBe(1);
    expect(upstream.count('manifest', { method: 'GET' })).toBe(2);
  });

  it('costs one HEAD per pull, and nothing is transferred while it is unchanged', async () => {
    await start();
    upstream.add('app', version('a'), 'latest');
    await pull('latest');
    upstream.requests.length = 0;
    await pull('latest');
    expect(upstream.requests.map(({ method, kind }) => `${method} ${kind}`)).toEqual(['HEAD manifest']);
  });

  it('under Never is what is stored, and upstream gets no request at all', async () => {
    await start();
    const image = version('a');
    upstream.add('app', image, 'latest');
    await pull('latest');
    await entrepot.stop();
    entrepot = await entrepot.startAgain({
      upstreams: { [UPSTREAM]: { url: upstream.url, pullPolicy: 'Never' } },
    });
    upstream.add('app', version('b'), 'latest');
    upstream.requests.length = 0;
    expect(await pull('latest')).toBe(image.manifest.digest);
    expect((await manifest('other')).status).toBe(404);
    expect((await blob(randomBlob(10, 'unheld').digest)).status).toBe(404);
    expect(upstream.requests).toEqual([]);
  });
});

describe('a tag', () => {
  it('of a version is served without asking while it is fresh, and checked after that', async () => {
    await start({ freshFor: '15s' });
    upstream.add('app', version('a'), '1.0');
    await pull('1.0');
    upstream.requests.length = 0;
    await pull('1.0');
    expect(upstream.requests).toEqual([]);
    const young = version('b');
    upstream.add('app', young, '1.0');
    await expect.poll(() => pull('1.0')).toBe(young.manifest.digest);
  });

  it('is served byte for byte as upstream sent it, including its index', async () => {
    await start();
    const index = indexOf([
      version('amd64'),
      imageOf([shared], { platform: { os: 'linux', architecture: 'arm64' } }),
    ]);
    upstream.add('app', index, '1.0');
    const got = await manifest('1.0');
    expect(got.text).toBe(bytesOf(index.manifest).toString());
    expect(got.headers).toMatchObject({
      'content-type': index.manifest.mediaType,
      'docker-content-digest': index.manifest.digest,
      'content-length': String(index.manifest.size),
    });
    expect(got.headers['content-encoding']).toBeUndefined();
  });

  it('requested by 50 nodes at once is one HEAD and one GET upstream', async () => {
    await start();
    upstream.add('app', version('a'), 'latest');
    upstream.misbehave({ kind: 'manifest', delayMs: 2_000 });
    const answers = await many(50, () => manifest('latest'));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    expect(upstream.count('manifest', { method: 'HEAD' })).toBe(1);
    expect(upstream.count('manifest', { method: 'GET' })).toBe(1);
  });

  it('that does not exist costs 20 pulls one or two requests, and all get 404', async () => {
    await start();
    upstream.add('app', version('a'), '1.0');
    const answers = await many(20, () => manifest('missing'));
    expect(answers.map(answer => [answer.status, codeOf(answer)])).toEqual(
      Array.from({ length: 20 }, () => [404, 'MANIFEST_UNKNOWN']),
    );
    expect(upstream.count('manifest')).toBeLessThanOrEqual(2);
  });

  it('that is rate-limited gives all 20 pulls 429 with Retry-After', async () => {
    await start();
    upstream.add('app', version('a'), '1.0');
    upstream.misbehave({ kind: 'manifest', status: 429, headers: { 'Retry-After': '17' } });
    const answers = await many(20, () => manifest('1.0'));
    for (const answer of answers) {
      expect([answer.status, codeOf(answer)]).toEqual([429, 'TOOMANYREQUESTS']);
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(10);
    }
    expect(upstream.count('manifest')).toBeLessThanOrEqual(2);
  });

  it('shows in the metrics how many pulls upstream still allows, and at none asks for no other tag either', async () => {
    await start();
    for (const tag of ['1.0', '2.0']) upstream.add('app', version(tag), tag);
    const behave = upstream.misbehave({ headers: { 'ratelimit-remaining': '76;w=21600' } });
    await manifest('1.0');
    expect(await entrepot.metrics()).toContain(
      `entrepot_upstream_budget_remaining{upstream="${UPSTREAM}"} 76`,
    );
    behave();
    upstream.misbehave({ kind: 'manifest', times: 1, status: 429, headers: { 'Retry-After': '600' } });
    expect((await manifest('3.0')).status).toBe(429);
    upstream.requests.length = 0;
    expect((await manifest('2.0')).status).toBe(429);
    expect(upstream.requests).toEqual([]);
  });

  it('that upstream has deleted is not served from the store', async () => {
    await start();
    upstream.add('app', version('a'), 'latest');
    await pull('latest');
    upstream.remove('app', 'latest');
    expect((await manifest('latest')).status).toBe(404);
  });
});

describe('beside a running server', () => {
  it('entrepot refresh forgets a remembered 404, and fetches a tag that has moved', async () => {
    await start({ pullPolicy: 'IfNotPresent' });
    const [old, young] = [version('old'), version('young')];
    expect((await manifest('v1')).status).toBe(404);
    upstream.add('app', old, 'v1');
    const name = `${UPSTREAM}/app:v1`;
    expect(await entrepot.command('refresh', name)).toMatchObject({
      code: 0,
      stdout: `${name}: ${old.manifest.digest}\n`,
    });
    expect(await pull('v1')).toBe(old.manifest.digest);
    upstream.add('app', young, 'v1');
    expect(await pull('v1')).toBe(old.manifest.digest);
    expect((await entrepot.command('refresh', name)).code).toBe(0);
    expect(await pull('v1')).toBe(young.manifest.digest);
  });

  it('entrepot refresh reports what upstream said if there is none', async () => {
    await start();
    expect(await entrepot.command('refresh', `${UPSTREAM}/app:none`)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^entrepot: MANIFEST_UNKNOWN: .*up\.example\/app manifests\/none: .* responded 404.*\n$/,
      ),
    });
  });

  it('entrepot rm forgets a tag, so that the next pull fetches it again', async () => {
    await start({ pullPolicy: 'IfNotPresent' });
    const image = version('old');
    upstream.add('app', image, 'v1');
    await pull('v1');
    await pull('v1');
    expect(upstream.count('manifest', { reference: 'v1' })).toBe(1);
    expect((await entrepot.command('rm', `${UPSTREAM}/app:v1`)).code).toBe(0);
    await pull('v1');
    expect(upstream.count('manifest', { reference: 'v1' })).toBe(2);
    expect((await entrepot.command('rm', `${UPSTREAM}/app:none`)).code).toBe(1);
  });
});

describe('with upstream stopped', () => {
  it('everything stored is still served, with a header that says that it may be stale', async () => {
    await start();
    const image = version('a');
    upstream.add('app', image, 'latest');
    await pull('latest');
    await upstream.stop();
    expect(await pull('latest')).toBe(image.manifest.digest);
    const { headers } = await manifest('latest');
    expect(headers['cache-status']).toContain('stale');
    expect(headers['warning']).toBe(
      `299 - "upstream could not confirm ${UPSTREAM}/app:latest, so this is what was stored of it before"`,
    );
  });

  it('what is not stored is 503, with an error that names the upstream', async () => {
    await start();
    await upstream.stop();
    const got = await manifest('1.0');
    expect([got.status, codeOf(got)]).toEqual([503, 'UNAVAILABLE']);
    expect(got.text).toContain(UPSTREAM);
    expect(got.headers['retry-after']).toMatch(/^\d+$/);
    expect(got.headers['warning']).toContain(UPSTREAM);
  });

  it('the stored tags are listed', async () => {
    await start();
    upstream.add('app', version('a'), '1.0');
    await pull('1.0');
    await upstream.stop();
    const got = await get(`${entrepot.url}/v2/app/tags/list?ns=${UPSTREAM}`);
    expect(JSON.parse(got.text).tags).toEqual(['1.0']);
  });
});
