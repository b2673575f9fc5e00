import { describe, expect, it } from 'vitest';
import { randomBlob } from '../../test/support/content.ts';
import { alice, anonymous, client, failure, fake, read, users } from '../../test/support/upstream-client.ts';
import { digestOf } from '../oci/digest.ts';

const blob = randomBlob(200_000, 'redirected');
const basic = { scheme: 'basic', users } as const;

describe('a redirect', () => {
  it('to the CDN is followed with the range and without the credential', async () => {
    const registry = await fake({ auth: basic });
    const cdn = await fake({ storageOf: registry });
    registry.add('team/app', blob);
    registry.redirectBlobsTo(cdn);
    const upstream = client(registry.url);
    const fetched = await upstream.fetchBlob('team/app', blob.digest, { credential: alice, offset: 150_000 });
    expect([fetched.offset, fetched.size, fetched.proof]).toEqual([150_000, blob.size, true]);
    expect((await read(fetched.body)).length).toBe(50_000);
    expect(registry.saw(alice.password)).toBe(true);
    expect(cdn.requests.map(({ headers }) => [headers.authorization, headers.range])).toEqual([
      [undefined, 'bytes=150000-'],
    ]);
  });

  it('on the same host keeps the credential', async () => {
    const registry = await fake({ auth: basic });
    registry.add('team/app', blob);
    registry.misbehave({ times: 1, skip: 1, redirectTo: `/v2/team/app/blobs/${blob.digest}?again` });
    const fetched = await client(registry.url).fetchBlob('team/app', blob.digest, { credential: alice });
    expect(digestOf(await read(fetched.body))).toBe(blob.digest);
  });

  it('to another port of the same name is to another host, and so is the way back', async () => {
    const registry = await fake({ auth: basic });
    const other = await fake();
    registry.add('team/app', blob);
    registry.misbehave({ times: 1, skip: 1, redirectTo: `${other.url}/there` });
    other.misbehave({ redirectTo: `${registry.url}/v2/team/app/blobs/${blob.digest}?back` });
    const error = await failure(
      client(registry.url).fetchBlob('team/app', blob.digest, { credential: alice }),
    );
    expect(error.kind).toBe('unavailable');
    expect(other.requests.map(({ headers }) => headers.authorization)).toEqual([undefined]);
    expect(registry.requests.at(-1)?.headers.authorization).toBeUndefined();
  });

  it('to storage that refuses says nothing about rights', async () => {
    const registry = await fake();
    const cdn = await fake({ storageOf: registry });
    registry.add('team/app', blob);
    registry.redirectBlobsTo(cdn);
    for (const status of [401, 403, 404]) {
      cdn.misbehave({ status, headers: { 'WWW-Authenticate': `Basic realm="give it to me"` } });
      const error = await failure(
        client(registry.url).fetchBlob('team/app', blob.digest, { credential: alice }),
      );
      expect([error.kind, error.status]).toEqual(['unavailable', status]);
    }
    expect(cdn.saw(alice.password)).toBe(false);
  });

  it('to storage with a rate limit does not block requests to the registry', async () => {
    const registry = await fake();
    const cdn = await fake({ storageOf: registry });
    registry.add('team/app', blob);
    registry.redirectBlobsTo(cdn);
    cdn.misbehave({ times: 1, status: 429, headers: { 'Retry-After': '60' } });
    const upstream = client(registry.url);
    const limited = await failure(upstream.fetchBlob('team/app', blob.digest, anonymous));
    expect([limited.kind, limited.status]).toEqual(['unavailable', 429]);
    (await upstream.fetchBlob('team/app', blob.digest, anonymous)).destroy();
    expect(upstream.budget()).toEqual([]);
  });

  it.each(['ftp://example.test/x', 'http://user:pw@example.test/x', 'http://', 'file:///etc/passwd'])(
    'to %s is not followed',
    async redirectTo => {
      const registry = await fake();
      registry.misbehave({ redirectTo });
      expect((await failure(client(registry.url).fetchBlob('team/app', blob.digest, anonymous))).kind).toBe(
        'invalid',
      );
    },
  );

  it('is followed five times at most', async () => {
    const registry = await fake();
    registry.misbehave({ redirectTo: '/v2/team/app/blobs/again' });
    expect((await failure(client(registry.url).fetchBlob('team/app', blob.digest, anonymous))).kind).toBe(
      'invalid',
    );
    expect(registry.requests.length).toBe(6);
  });
});
