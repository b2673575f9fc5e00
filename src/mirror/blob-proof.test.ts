import { describe, expect, it } from 'vitest';
import { bytesOf, randomBlob } from '../../test/support/content.ts';
import type { Digest } from '../oci/digest.ts';
import type { FetchedBlob } from '../upstream/upstream.ts';
import { proveBlob } from './blob-proof.ts';

const blob = randomBlob(100_000, 'held');
const bytes = bytesOf(blob);
const held = {
  size: blob.size,
  length: blob.size,
  isVerified: true,
  open: async () => ({
    read: async (buffer: Uint8Array, position: number) =>
      bytes.copy(buffer, 0, position, Math.min(bytes.length, position + buffer.byteLength)),
    close: async () => {},
  }),
};

type Asked = Parameters<Parameters<typeof proveBlob>[2]>[0];

/** An upstream that has ranges, and `wrong` about its answers. */
function answering(wrong: Partial<FetchedBlob>, content = bytes) {
  const asked: Asked[] = [];
  const fetch = async (part: Asked): Promise<FetchedBlob> => {
    asked.push(part);
    const { offset = 0, length } = part;
    const isPart = length !== undefined;
    const body = content.subarray(wrong.offset ?? offset, isPart ? offset + length : undefined);
    return {
      endpoint: 0,
      proof: true,
      offset,
      isPart,
      size: content.length,
      etag: undefined,
      body: (async function* () {
        for (let at = 0; at < body.length; at += 10_000) yield body.subarray(at, at + 10_000);
      })(),
      destroy: () => {},
      ...wrong,
    };
  };
  return { asked, fetch };
}

const proof = (upstream: ReturnType<typeof answering>) => proveBlob(blob.digest, held, upstream.fetch);
const unproved = { kind: 'invalid', message: `upstream did not prove that it has ${blob.digest}` };

describe('a proof of a blob', () => {
  it('takes three ranges, at the same places each time, and at others for another blob', async () => {
    const placesOf = async (digest: Digest) => {
      const upstream = answering({});
      expect(await proveBlob(digest, held, upstream.fetch)).toEqual({ size: blob.size, proof: true });
      expect(upstream.asked.map(({ length }) => length)).toEqual([4096, 4096, 4096]);
      return upstream.asked.map(({ offset }) => offset);
    };
    const places = await placesOf(blob.digest);
    expect(await placesOf(blob.digest)).toEqual(places);
    const others = Array.from({ length: 5 }, (_, seed) => placesOf(randomBlob(1, `other ${seed}`).digest));
    expect(new Set([...places, ...(await Promise.all(others)).flat()]).size).toBeGreaterThan(10);
  });

  it('fails for wrong bytes only after everything was compared', async () => {
    const small = randomBlob(12_000, 'small');
    const own = bytesOf(small);
    const guess = Buffer.concat([Buffer.from([(own[0] ?? 0) ^ 1]), own.subarray(1)]);
    let taken = 0;
    const upstream = answering({}, guess);
    const fetch = async (part: Asked): Promise<FetchedBlob> => ({
      ...(await upstream.fetch(part)),
      body: (async function* () {
        for (let at = 0; at < guess.length; at += 1_000) {
          taken += 1_000;
          yield guess.subarray(at, at + 1_000);
        }
      })(),
    });
    const open = async () => ({
      read: async (buffer: Uint8Array, position: number) => own.copy(buffer, 0, position),
      close: async () => {},
    });
    const proving = proveBlob(small.digest, { ...held, size: small.size, length: small.size, open }, fetch);
    await expect(proving).rejects.toMatchObject({ kind: 'invalid' });
    expect(taken).toBe(2 * guess.length);
  });

  it('does not come from `url` if a mirror sent one of the responses', async () => {
    const upstream = answering({});
    const fetch = async (part: Asked) => ({
      ...(await upstream.fetch(part)),
      proof: upstream.asked.length < 3,
    });
    expect(await proveBlob(blob.digest, held, fetch)).toEqual({ size: blob.size, proof: false });
  });

  it('transfers only its ranges', async () => {
    const other = Buffer.from(bytes);
    for (let at = 0; at < other.length; at += 4_000) other[at] = (other[at] ?? 0) ^ 1;
    const upstream = answering({}, other);
    await expect(proof(upstream)).rejects.toMatchObject(unproved);
    // From the start too, should only its ranges be wrong.
    expect(upstream.asked.at(-1)).toEqual({ size: blob.size });
  });

  it.each([
    ['longer', Buffer.concat([bytes, Buffer.from('more')])],
    ['shorter', bytes.subarray(0, -1)],
  ])('takes no %s blob whose size is not announced', async (_, content) => {
    await expect(
      proof(answering({ isPart: false, offset: 0, size: undefined }, content)),
    ).rejects.toMatchObject(unproved);
  });

  it('accepts the blob if its size is not announced', async () => {
    const upstream = answering({ isPart: false, offset: 0, size: undefined });
    const fetch = (part: Asked) => upstream.fetch({ size: part.size });
    expect(await proveBlob(blob.digest, held, fetch)).toEqual({ size: blob.size, proof: true });
    expect(upstream.asked).toHaveLength(1);
  });

  it('refuses a response that ends before its range', async () => {
    const upstream = answering({});
    const fetch = (part: Asked) => upstream.fetch({ ...part, length: 1_000 });
    await expect(proveBlob(blob.digest, held, fetch)).rejects.toMatchObject(unproved);
  });
});
