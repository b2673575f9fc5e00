import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryIngests, MemorySpool } from '../../blobs/memory-spool.fixture.ts';
import type { Ingest } from '../../blobs/spool.ts';
import { steadyLease } from '../../lib/lease.suite.ts';
import { digestOf } from '../../oci/digest.ts';
import { IngestWriter } from './ingest-writer.ts';

const KIB = 1024;
let ingest: Ingest;

beforeEach(async () => {
  ingest = await new MemorySpool(new MemoryIngests()).ingest(steadyLease('test'));
});

afterEach(() => ingest.close());

describe('the ingest writer', () => {
  it('writes all chunks in order, the first at once and later ones together', async () => {
    const lengths: number[] = [];
    const writer = new IngestWriter(ingest, length => lengths.push(length));
    const chunks = Array.from({ length: 200 }, (_, index) => new Uint8Array(16 * KIB).fill(index));
    for (const chunk of chunks) await writer.add(chunk);
    expect(writer.length).toBe(200 * 16 * KIB);
    await writer.drain();
    expect(lengths.at(-1)).toBe(writer.length);
    expect(lengths[0]).toBeLessThanOrEqual(256 * KIB);
    expect(lengths.length).toBeLessThan(60);
    const expected = digestOf(Buffer.concat(chunks));
    expect(await ingest.hash(expected)).toBe(expected);
  });

  it('does not delay a slow trickle for readers', async () => {
    await ingest.write([new Uint8Array(300 * KIB)]);
    const written = new Promise<number>(resolve => {
      void new IngestWriter(ingest, resolve).add(new Uint8Array(10));
    });
    expect(await written).toBe(300 * KIB + 10);
  });

  it('rejects with the error of a failed write from then on', async () => {
    ingest.write = async () => {
      throw new Error('no space');
    };
    const writer = new IngestWriter(ingest, () => {});
    await writer.add(new Uint8Array(10)).catch(() => {});
    await expect(writer.drain()).rejects.toThrow('no space');
    await expect(writer.add(new Uint8Array(10))).rejects.toThrow('no space');
  });
});
