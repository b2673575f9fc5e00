import { once } from 'node:events';
import { createServer } from 'node:http';
import { describe, expect, it } from 'vitest';
import { imageOf, randomBlob } from '../../test/support/content.ts';
import type { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { Latch } from '../../test/support/latch.ts';
import { alice, anonymous, bob, client, failure, fake, users } from '../../test/support/upstream-client.ts';

const image = imageOf([randomBlob(1_000, 'authenticated')]);
const bearer = { scheme: 'bearer', users } as const;

describe('a registry with tokens', () => {
  it('gets a token from the second request on, without a challenge', async () => {
    const registry = await fake({ auth: bearer });
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    for (let round = 0; round < 3; round += 1)
      await upstream.headManifest('team/app', '1.0', { credential: alice });
    expect([registry.count('token'), registry.count('manifest')]).toEqual([1, 4]);
    const token = registry.requests.find(({ kind }) => kind === 'token');
    expect(new URL(token?.path ?? '', registry.url).searchParams.getAll('scope')).toEqual([
      'repository:team/app:pull',
    ]);
    expect(
      registry.requests
        .filter(({ kind }) => kind === 'manifest')
        .every(({ username }) => username === undefined),
    ).toBe(true);
  });

  it('gets one token for all who wait for it', async () => {
    const registry = await fake({ auth: bearer });
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    registry.misbehave({ kind: 'token', delayMs: 100 });
    await Promise.all(
      Array.from({ length: 20 }, () => upstream.headManifest('team/app', '1.0', { credential: alice })),
    );
    expect(registry.count('token')).toBe(1);
  });

  it('keeps the tokens of different credentials and repositories apart', async () => {
    const registry = await fake({ auth: { ...bearer, public: ['team/open'] } });
    for (const repository of ['team/app', 'team/other', 'team/open']) registry.add(repository, image, '1.0');
    const upstream = client(registry.url);
    await upstream.headManifest('team/app', '1.0', { credential: alice });
    await upstream.headManifest('team/other', '1.0', { credential: bob });
    await upstream.headManifest('team/open', '1.0', anonymous);
    expect((await failure(upstream.headManifest('team/app', '1.0', { credential: bob }))).kind).toBe(
      'denied',
    );
    expect((await failure(upstream.headManifest('team/app', '1.0', anonymous))).kind).toBe('denied');
    expect((await upstream.headManifest('team/app', '1.0', { credential: alice })).proof).toBe(true);
  });

  it('refuses a wrong password for all who waited, with one request', async () => {
    const registry = await fake({ auth: bearer });
    const upstream = client(registry.url);
    const wrong = { ...alice, password: 'wrong', id: 'id-of-wrong' };
    registry.misbehave({ kind: 'token', delayMs: 100 });
    const errors = await Promise.all(
      Array.from({ length: 5 }, () =>
        failure(upstream.headManifest('team/app', '1.0', { credential: wrong })),
      ),
    );
    expect(errors.map(({ kind }) => kind)).toEqual(Array(5).fill('refused'));
    expect(registry.count('token')).toBe(1);
    expect(errors[0]?.message).not.toContain('wrong');
  });

  it.each([403, 401] as const)('that answers %i to an anonymous request denies it', async tokenDenial => {
    const registry = await fake({ auth: { ...bearer, tokenDenial } });
    expect((await failure(client(registry.url).headManifest('team/app', '1.0', anonymous))).kind).toBe(
      'denied',
    );
  });

  it('that ends a token gets a new one', async () => {
    const registry = await fake({ auth: bearer });
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    await upstream.headManifest('team/app', '1.0', { credential: alice });
    registry.revokeTokens();
    expect((await upstream.headManifest('team/app', '1.0', { credential: alice })).digest).toBe(
      image.manifest.digest,
    );
    expect(registry.count('token')).toBe(2);
  });

  it('is asked once, not twice, without a right', async () => {
    const registry = await fake({ auth: bearer });
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    await failure(upstream.headManifest('team/app', '1.0', { credential: bob }));
    registry.requests.length = 0;
    expect((await failure(upstream.headManifest('team/app', '1.0', { credential: bob }))).kind).toBe(
      'denied',
    );
    expect([registry.count('token'), registry.count('manifest')]).toEqual([1, 1]);
  });

  it('never sees a credential at a realm that is not trusted', async () => {
    const [registry, thief] = [
      await fake({ auth: { ...bearer, realm: 'http://127.0.0.1:1/token' } }),
      await fake({ auth: bearer }),
    ];
    for (const realm of [
      `${thief.url}/token`,
      `http://localhost:${thief.port}/token`,
      `http://x@${registry.host}/token`,
    ]) {
      registry.misbehave({
        status: 401,
        headers: { 'WWW-Authenticate': `Bearer realm="${realm}",service="s"` },
      });
      const error = await failure(
        client(registry.url).headManifest('team/app', '1.0', { credential: alice }),
      );
      expect(error.kind).toBe('invalid');
    }
    expect(thief.requests).toEqual([]);
    const trusting = client(registry.url, { realms: [thief.host] });
    registry.misbehave({ status: 401, headers: { 'WWW-Authenticate': `Bearer realm="${thief.url}/token"` } });
    await failure(trusting.headManifest('team/app', '1.0', { credential: alice }));
    expect(thief.count('token')).toBeGreaterThan(0);
  });

  it.each([
    ['no JSON', { body: 'no' }],
    ['no token', { body: '{}' }],
    ['a token that splits the header', { body: '{"token":"a\\r\\nX-Evil: 1"}' }],
    ['too much', { spaces: 10_000_000 }],
  ])('whose token service sends %s is invalid', async (_, answer) => {
    const registry = await fake({ auth: bearer });
    registry.misbehave({ kind: 'token', status: 200, ...answer });
    expect(
      (await failure(client(registry.url).headManifest('team/app', '1.0', { credential: alice }))).kind,
    ).toBe('invalid');
  });

  it('whose token service limits or fails is reported as such', async () => {
    const registry = await fake({ auth: bearer });
    const upstream = client(registry.url);
    registry.misbehave({ kind: 'token', times: 1, status: 503 });
    expect((await failure(upstream.headManifest('team/app', '1.0', { credential: alice }))).kind).toBe(
      'unavailable',
    );
    registry.misbehave({ kind: 'token', times: 1, status: 429, headers: { 'Retry-After': '30' } });
    const error = await failure(upstream.headManifest('team/app', '1.0', { credential: alice }));
    expect([error.kind, Math.round((error.retryAfterMs ?? 0) / 1000)]).toEqual(['limited', 30]);
    const asked = registry.requests.length;
    expect((await failure(upstream.headManifest('team/app', '1.0', { credential: alice }))).kind).toBe(
      'limited',
    );
    expect(registry.requests.length).toBe(asked);
  });

  it('whose token service fails has the connection closed on which it goes on with its challenge', async () => {
    const left = new Latch();
    const registry = createServer((request, response) => {
      if (request.url?.startsWith('/token')) {
        response.writeHead(503).end();
        return;
      }
      const challenge = `Bearer realm="http://${request.headers.host}/token"`;
      response.writeHead(401, { 'WWW-Authenticate': challenge }).on('close', () => left.open());
      response.write(Buffer.alloc(16 * 1024 * 1024));
    });
    await once(registry.listen(0, '127.0.0.1'), 'listening');
    const address = registry.address();
    const port = typeof address === 'object' ? address?.port : undefined;
    const { digest } = image.config;
    const asked = client(`http://127.0.0.1:${port}`).fetchBlob('team/app', digest, anonymous);
    expect((await failure(asked)).kind).toBe('unavailable');
    await left.opened;
    registry.close();
  });

  it.each([401, 403])('whose token service limits logins by %i is reported as such', async status => {
    const registry = await fake({ auth: bearer });
    const body = JSON.stringify({
      errors: [{ code: 'TOOMANYREQUESTS', message: 'too many failed log-ins' }],
    });
    registry.misbehave({ kind: 'token', status, body });
    const error = await failure(client(registry.url).headManifest('team/app', '1.0', { credential: alice }));
    expect(error.kind).toBe('limited');
  });
});

describe('a registry with Basic', () => {
  it('gets credentials once it has asked for them', async () => {
    const registry = await fake({ auth: { scheme: 'basic', users } });
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    for (let round = 0; round < 2; round += 1)
      await upstream.headManifest('team/app', '1.0', { credential: alice });
    expect(registry.requests.map(({ username }) => username)).toEqual([undefined, 'alice', 'alice']);
  });

  it('refuses a wrong password, and denies a request without one', async () => {
    const registry = await fake({ auth: { scheme: 'basic', users } });
    const upstream = client(registry.url);
    const wrong = { ...alice, password: 'wrong', id: 'id-of-wrong' };
    expect((await failure(upstream.headManifest('team/app', '1.0', { credential: wrong }))).kind).toBe(
      'refused',
    );
    expect((await failure(upstream.headManifest('team/app', '1.0', anonymous))).kind).toBe('denied');
    expect(registry.requests.length).toBe(3);
  });
});

describe('a persistent connection', () => {
  it('that the server closes as it is used again causes no error', async () => {
    const registry = await fake();
    registry.add('team/app', image, '1.0');
    const upstream = client(registry.url);
    await upstream.headManifest('team/app', '1.0', anonymous);
    // The connection goes back to its pool a moment after the answer.
    await new Promise(resolve => setTimeout(resolve, 100));
    registry.misbehave({ times: 1, reset: true });
    expect((await upstream.headManifest('team/app', '1.0', anonymous)).digest).toBe(image.manifest.digest);
  });
});

const scopesOf = (registry: FakeUpstream) =>
  registry.requests
    .filter(({ kind }) => kind === 'token')
    .flatMap(({ path }) => new URL(path, registry.url).searchParams.getAll('scope'));

describe('a registry behind a path', () => {
  const everybody = { users: { alice: { ...users.alice, repositories: '*' as const } } };

  it('is asked below its path, with scopes in its own names, and with one challenge in all', async () => {
    const registry = await fake({ auth: { ...bearer, ...everybody } });
    for (const name of ['app', 'other']) registry.add(`hub/team/${name}`, image, '1.0');
    const upstream = client(`${registry.url}/v2/hub/`);
    for (const name of ['team/app', 'team/other'])
      await upstream.headManifest(name, '1.0', { credential: alice });
    expect(scopesOf(registry)).toEqual(['repository:hub/team/app:pull', 'repository:hub/team/other:pull']);
    expect(registry.requests.filter(({ status }) => status === 401)).toHaveLength(1);
  });

  it('with another name behind its proxy needs one challenge in all, too', async () => {
    const registry = await fake({ api: '/v2/hub', auth: { ...bearer, ...everybody } });
    for (const name of ['app', 'other']) registry.add(`team/${name}`, image, '1.0');
    const upstream = client(`${registry.url}/v2/hub`);
    for (const name of ['team/app', 'team/other'])
      await upstream.headManifest(name, '1.0', { credential: alice });
    expect(scopesOf(registry)).toEqual(['repository:team/app:pull', 'repository:team/other:pull']);
    expect(registry.requests.filter(({ status }) => status === 401)).toHaveLength(1);
  });

  it('may redirect within its host, to any path', async () => {
    const registry = await fake();
    registry.add('hub/library/app', image, '1.0');
    const redirectTo = '/v2/hub/library/app/manifests/1.0';
    registry.misbehave({ kind: 'manifest', repository: 'hub/app', redirectTo });
    const upstream = client(`${registry.url}/v2/hub`);
    expect((await upstream.headManifest('app', '1.0', anonymous)).digest).toBe(image.manifest.digest);
  });
});
