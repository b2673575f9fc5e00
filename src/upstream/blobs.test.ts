import { describe, expect, it } from 'vitest';
import { bytesOf, randomBlob } from '../../test/support/content.ts';
import { anonymous, client, failure, fake, read } from '../../test/support/upstream-client.ts';
import { digestOf } from '../oci/digest.ts';

const blob = randomBlob(500_000, 'blob');

describe('a blob', () => {
  it('is checked by HEAD, and by its first byte if there is no HEAD', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    const upstream = client(registry.url);
    expect(await upstream.headBlob('team/app', blob.digest, anonymous)).toEqual({
      size: blob.size,
      proof: true,
    });
    registry.misbehave({ method: 'HEAD', status: 405 });
    expect(await upstream.headBlob('team/app', blob.digest, anonymous)).toEqual({
      size: blob.size,
      proof: true,
    });
  });

  it('is checked at storage whose URLs are signed for GET only', async () => {
    const registry = await fake();
    const storage = await fake({ storageOf: registry });
    registry.add('team/app', blob);
    registry.redirectBlobsTo(storage);
    storage.misbehave({ method: 'HEAD', status: 403 });
    const head = await client(registry.url).headBlob('team/app', blob.digest, anonymous);
    expect(head).toEqual({ size: blob.size, proof: true });
  });

  it('is received completely, with its size and a strong ETag', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    const fetched = await client(registry.url).fetchBlob('team/app', blob.digest, anonymous);
    expect([fetched.offset, fetched.size, fetched.endpoint]).toEqual([0, blob.size, 0]);
    expect(fetched.etag).toEqual({ value: `"${blob.digest}"`, origin: registry.url });
    expect(digestOf(await read(fetched.body))).toBe(blob.digest);
  });

  it('continues where it was interrupted, on condition that it is the same', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    const upstream = client(registry.url);
    registry.misbehave({ times: 1, cutAtByte: 100_000 });
    const first = await upstream.fetchBlob('team/app', blob.digest, anonymous);
    expect((await failure(read(first.body))).kind).toBe('unavailable');
    const rest = await upstream.fetchBlob('team/app', blob.digest, {
      ...anonymous,
      offset: 100_000,
      etag: first.etag,
    });
    expect(rest.offset).toBe(100_000);
    // Not toEqual: it would compare half a million numbers one by one.
    expect(
      bytesOf(blob)
        .subarray(100_000)
        .equals(await read(rest.body)),
    ).toBe(true);
    expect(registry.requests.at(-1)?.headers['if-range']).toBe(`"${blob.digest}"`);
  });

  it('starts again from a server without ranges', async () => {
    const registry = await fake({ ranges: false });
    registry.add('team/app', blob);
    const fetched = await client(registry.url).fetchBlob('team/app', blob.digest, {
      ...anonymous,
      offset: 100_000,
    });
    expect([fetched.offset, fetched.size]).toEqual([0, blob.size]);
    fetched.destroy();
  });

  it('has no ETag if the server’s is weak, and none is sent to another host', async () => {
    const registry = await fake({ etags: 'weak' });
    registry.add('team/app', blob);
    const upstream = client(registry.url);
    const fetched = await upstream.fetchBlob('team/app', blob.digest, anonymous);
    expect(fetched.etag).toBeUndefined();
    fetched.destroy();
    const etag = { value: '"from elsewhere"', origin: 'https://cdn.example' };
    const rest = await upstream.fetchBlob('team/app', blob.digest, { ...anonymous, offset: 10, etag });
    expect([rest.offset, registry.requests.at(-1)?.headers['if-range']]).toEqual([10, undefined]);
    rest.destroy();
  });

  it('shorter than announced throws at its end', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    registry.misbehave({ contentLength: blob.size + 1 });
    const fetched = await client(registry.url).fetchBlob('team/app', blob.digest, anonymous);
    expect((await failure(read(fetched.body))).kind).toBe('unavailable');
  });

  it('longer than announced is invalid if its size is known, and is cut at the announced length otherwise', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    registry.misbehave({ contentLength: 1_000 });
    const upstream = client(registry.url);
    const named = upstream.fetchBlob('team/app', blob.digest, { ...anonymous, size: blob.size });
    expect((await failure(named)).kind).toBe('invalid');
    const fetched = await upstream.fetchBlob('team/app', blob.digest, anonymous);
    const outcome = await read(fetched.body).then(
      ({ length }) => length,
      () => 'threw',
    );
    expect([1_000, 'threw']).toContain(outcome);
  });

  it.each([
    'bytes 5-499999/500000',
    'bytes 0-399999/500000',
    'bytes 99999-499998/500000',
    'bytes 100000-99999/500000',
    'bytes 100000-500000/500000',
    'bytes */500000',
    'nonsense',
  ])('with the range %s is invalid', async range => {
    const registry = await fake();
    registry.add('team/app', blob);
    registry.misbehave({ headers: { 'Content-Range': range } });
    const asked = client(registry.url).fetchBlob('team/app', blob.digest, { ...anonymous, offset: 100_000 });
    expect((await failure(asked)).kind).toBe('invalid');
  });

  it('whose range is shorter or longer than its body is invalid, whatever framing that has', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    const range = { ...anonymous, offset: 100_000, length: 1_000 };
    const fetch = () => client(registry.url).fetchBlob('team/app', blob.digest, range);
    registry.misbehave({ times: 1, contentLength: 999 });
    expect((await failure(fetch())).kind).toBe('invalid');
    // In chunks.
    registry.misbehave({
      headers: { 'Content-Length': null, 'Content-Range': 'bytes 100000-100999/500000' },
    });
    expect((await read((await fetch()).body)).length).toBe(1_000);
    for (const end of [100_998, 101_000]) {
      const headers = { 'Content-Length': null, 'Content-Range': `bytes 100000-${end}/500000` };
      registry.misbehave({ times: 1, headers });
      expect((await failure(read((await fetch()).body))).kind).toBe('invalid');
    }
  });

  it('sent as a part that was not requested is invalid unless its size is known', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    const upstream = client(registry.url);
    const answers = async (range: string, size?: number): Promise<string> => {
      const headers = { 'Content-Range': range, 'Content-Length': null };
      registry.misbehave({ status: 206, body: 'x'.repeat(100), headers, times: 1 });
      const fetching = upstream.fetchBlob('team/app', blob.digest, { ...anonymous, size });
      return fetching.then(
        fetched => {
          fetched.destroy();
          return `part of ${fetched.size}`;
        },
        ({ kind }) => kind,
      );
    };
    expect(await answers('bytes 0-99/*')).toBe('invalid');
    expect(await answers('bytes 0-99/*', 200)).toBe('invalid');
    expect(await answers('bytes */*')).toBe('invalid');
    expect(await answers('bytes 0-99/*', 100)).toBe('part of undefined');
    expect(await answers('bytes 0-99/200')).toBe('part of 200');
  });

  it('that nobody reads buffers no more than the connection does', async () => {
    const large = randomBlob(64_000_000, 'large');
    const registry = await fake();
    registry.add('team/app', large);
    const fetched = await client(registry.url).fetchBlob('team/app', large.digest, anonymous);
    await new Promise(resolve => setTimeout(resolve, 200));
    expect(registry.bytesSent).toBeLessThan(16_000_000);
    fetched.destroy();
    await expect.poll(() => registry.requests[0]?.status).toBe(200);
  });

  it('whose reader leaves frees its connection', async () => {
    const registry = await fake();
    registry.add('team/app', blob);
    registry.misbehave({ bytesPerS: 200_000 });
    const fetched = await client(registry.url).fetchBlob('team/app', blob.digest, anonymous);
    for await (const piece of fetched.body) {
      expect(piece.length).toBeGreaterThan(0);
      break;
    }
    await expect.poll(() => registry.requests[0]?.status).toBe(200);
    expect(registry.bytesSent).toBeLessThan(blob.size);
  });
});
