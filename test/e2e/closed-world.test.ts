import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { codeOf, get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';

const UPSTREAM = 'up.example';

let upstream: FakeUpstream;
let bystander: FakeUpstream;
let entrepot: Entrepot;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  bystander = await FakeUpstream.start();
  upstream.add('app', imageOf([randomBlob(1_000, 'a')]), '1');
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
  await bystander.stop();
});

/** Sends the request line as it stands, which no HTTP client would. */
async function raw(target: string, headers = ''): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(entrepot.url).port), '127.0.0.1');
    let text = '';
    socket.on('data', chunk => {
      text += chunk;
    });
    socket.on('error', error => (text === '' ? reject(error) : undefined));
    socket.on('close', () => resolve({ status: Number(text.slice(9, 12)), text }));
    socket.write(`GET ${target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${headers}\r\n`);
  });
}

describe('a name that means nothing here', () => {
  it.each([
    ['an unknown ns', () => `/v2/app/manifests/1?ns=${bystander.host}`],
    ['an unknown ns that looks like a URL', () => `/v2/app/manifests/1?ns=http://${bystander.host}/`],
    ['an unknown first component', () => `/v2/${bystander.host}/app/manifests/1`],
    ['no upstream at all', () => '/v2/app/manifests/1'],
  ])('%s is 404, says why, and nobody is asked', async (_, path) => {
    const before = upstream.requests.length;
    const got = await get(entrepot.url + path());
    expect([got.status, codeOf(got)]).toEqual([404, 'NAME_UNKNOWN']);
    expect(got.text).toMatch(/configured upstream|\/v2\/<upstream>\/<repository>/);
    expect(bystander.requests).toEqual([]);
    expect(upstream.requests.length).toBe(before);
  });

  it.each([
    ['../', '/v2/../../etc/passwd/manifests/1?ns=up.example'],
    ['an encoded ../', '/v2/%2e%2e/%2e%2e/manifests/1?ns=up.example'],
    ['an encoded slash and ..', '/v2/app%2F..%2Fsecret/manifests/1?ns=up.example'],
    ['NUL', '/v2/app%00/manifests/1?ns=up.example'],
    ['upper case', '/v2/App/manifests/1?ns=up.example'],
    ['a backslash', '/v2/a\\b/manifests/1?ns=up.example'],
    ['an encoding that is none', '/v2/%zz/manifests/1?ns=up.example'],
    ['a digest with a path', '/v2/app/blobs/sha256:..%2F..%2Fx?ns=up.example'],
    ['a digest of an unknown algorithm', `/v2/app/blobs/md5:${'a'.repeat(32)}?ns=up.example`],
    ['a name of 300 characters', `/v2/${'a'.repeat(300)}/manifests/1?ns=up.example`],
    ['a tag of 200 characters', `/v2/app/manifests/${'a'.repeat(200)}?ns=up.example`],
  ])('%s is refused with an OCI error and never reaches upstream', async (_, target) => {
    const before = upstream.requests.length;
    const got = await raw(target);
    expect(got.status).toBeGreaterThanOrEqual(400);
    expect(got.status).toBeLessThan(500);
    expect(got.text).toMatch(/"errors":\[\{"code":"[A-Z_]+","message":"[^"]+/);
    expect(upstream.requests.length).toBe(before);
  });

  it('headers of 10 MB are refused before they are read to their end', async () => {
    const got = await raw('/v2/', `X-Long: ${'a'.repeat(10_000_000)}\r\n`);
    expect(got.status).toBe(431);
    expect(got.text).toMatch(/"errors":\[/);
  });
});

describe('a hostile upstream', () => {
  it('that sends a manifest of 1 GB is cut off early, with bounded memory', async () => {
    const sent = upstream.bytesSent;
    upstream.add('app', imageOf([]), 'huge');
    upstream.misbehave({ kind: 'manifest', method: 'GET', reference: 'huge', spaces: 1_000_000_000 });
    upstream.misbehave({ kind: 'manifest', method: 'HEAD', reference: 'huge', status: 405 });
    const got = await get(`${entrepot.url}/v2/app/manifests/huge?ns=${UPSTREAM}`);
    expect(got.status).toBe(502);
    expect(codeOf(got)).toBeDefined();
    expect(upstream.bytesSent - sent).toBeLessThan(64 * 1024 * 1024);
    expect(entrepot.peakRss()).toBeLessThan(256 * 1024 * 1024);
  });

  it.each([
    ['a link-local address', 'http://169.254.169.254/latest/meta-data'],
    ['a link-local address in IPv6 clothes', 'http://[::ffff:169.254.169.254]/x'],
  ])('and redirects to %s is not followed', async (_, to) => {
    const blob = randomBlob(2_000, to);
    upstream.add('app', blob);
    upstream.misbehave({ kind: 'blob', reference: blob.digest, redirectTo: to });
    const got = await get(`${entrepot.url}/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`);
    // Refused, not merely unreachable; which address it was is for operators.
    expect([got.status, codeOf(got)]).toEqual([502, 'UPSTREAM_INVALID']);
    expect(got.text).toContain('named a host that this registry does not contact');
    expect(got.text).not.toContain('169.254');
    await expect.poll(() => entrepot.logs()).toContain('which is never allowed');
  });
});

describe('the credential of an upstream', () => {
  const secret = 'correct-horse-battery';

  it('is sent to its url only: not to a mirror, a CDN or a realm elsewhere', async () => {
    const closed = await FakeUpstream.start({
      auth: { scheme: 'basic', users: { robot: { password: secret, repositories: '*' } } },
    });
    const cdn = await FakeUpstream.start({ storageOf: closed });
    const thief = await FakeUpstream.start();
    const lured = await FakeUpstream.start({
      auth: {
        scheme: 'bearer',
        realm: `http://localhost:${thief.port}/token`,
        users: { robot: { password: secret, repositories: '*' } },
      },
    });
    const mirror = await FakeUpstream.start({ auth: { scheme: 'basic' } });
    const credentials = { username: 'robot', passwordEnv: 'TEST_UPSTREAM_PASSWORD' };
    const server = await Entrepot.start(
      {
        upstreams: {
          'closed.example': { url: closed.url, mirrors: [mirror.url], credentials, openToAll: true },
          'lured.example': { url: lured.url, credentials, openToAll: true },
        },
      },
      { env: { TEST_UPSTREAM_PASSWORD: secret } },
    );
    try {
      const blob = randomBlob(100_000, 'cdn');
      closed.add('app', imageOf([blob]), '1');
      closed.redirectBlobsTo(cdn);
      expect((await get(`${server.url}/v2/closed.example/app/manifests/1`)).status).toBe(200);
      const got = await get(`${server.url}/v2/closed.example/app/blobs/${blob.digest}`);
      expect(`sha256:${got.sha256}`).toBe(blob.digest);
      expect(closed.saw(secret)).toBe(true);
      expect(cdn.count('storage')).toBe(1);

      // The next blob has to come from the mirror, which challenges with Basic.
      const mirrored = randomBlob(100_000, 'mirror');
      closed.add('app', mirrored);
      closed.misbehave({ status: 503 });
      await get(`${server.url}/v2/closed.example/app/blobs/${mirrored.digest}`);
      expect(mirror.requests.length).toBeGreaterThan(0);

      const refused = await get(`${server.url}/v2/lured.example/app/manifests/1`);
      expect(refused.status).toBeGreaterThanOrEqual(400);
      expect(codeOf(refused)).toBeDefined();
      expect(lured.requests.length).toBeGreaterThan(0);

      for (const other of [cdn, mirror, thief, lured]) expect(other.saw(secret)).toBe(false);
      expect(thief.requests).toEqual([]);
      expect(server.logs()).not.toContain(secret);
      expect(server.logs()).not.toContain(Buffer.from(`robot:${secret}`).toString('base64'));
    } finally {
      await server.remove();
      for (const fake of [closed, cdn, thief, lured, mirror]) await fake.stop();
    }
  });
});
