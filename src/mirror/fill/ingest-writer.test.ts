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
  it('has written each piece when it asks for the next one', async () => {
    const lengths: number[] = [];
    const writer = new IngestWriter(ingest, length => lengths.push(length));
    const pieces = Array.from({ length: 20 }, (_, index) => new Uint8Array(16 * KIB).fill(index));
    const expected = digestOf(Buffer.concat(pieces));
    for (const piece of pieces) {
      await writer.add(piece);
      piece.fill(0xff);
    }
    expect(lengths).toEqual(pieces.map((_, index) => (index + 1) * 16 * KIB));
    expect(await ingest.hash(expected)).toBe(expected);
  });

  it('rejects with the error of a failed write from then on', async () => {
    ingest.write = async () => {
      throw new Error('no space');
    };
    const writer = new IngestWriter(ingest, () => {});
    await expect(writer.add(new Uint8Array(10))).rejects.toThrow('no space');
    ingest.write = async () => {};
    await expect(writer.add(new Uint8Array(10))).rejects.toThrow('no space');
  });
});
