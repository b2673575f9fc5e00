import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { readBody, takeIn } from './request-body.ts';

const MIB = 1024 * 1024;
const limits = { idleMs: 10_000, maxBytes: Number.MAX_SAFE_INTEGER };

/** A disk that keeps what it is given, and may be slow or fail. */
function disk(write: (bytes: number) => Promise<void> = async () => undefined) {
  const chunks: Uint8Array[] = [];
  return {
    bytes: () => Buffer.concat(chunks),
    write: async (batch: readonly Uint8Array[]) => {
      await write(batch.reduce((sum, chunk) => sum + chunk.length, 0));
      chunks.push(...batch);
    },
  };
}

const leaseOf = (bytes: number) => ({ bytes, grow: async () => undefined });

function body(...chunks: readonly Buffer[]): Readable {
  return Readable.from(chunks, { objectMode: false });
}

/** How much of a long body is written at once. */
async function largestBatch(): Promise<number> {
  const batches: number[] = [];
  const to = disk(async bytes => void batches.push(bytes));
  await takeIn(body(...Array.from({ length: 64 }, () => Buffer.alloc(65_536))), to, limits);
  return Math.max(...batches);
}

describe('receiving a body', () => {
  it('writes all of it in order', async () => {
    const bytes = Buffer.from(Array.from({ length: 5000 }, (_, at) => at % 251));
    const to = disk();
    await takeIn(body(bytes.subarray(0, 7), bytes.subarray(7, 4000), bytes.subarray(4000)), to, limits);
    expect(to.bytes().equals(bytes)).toBe(true);
  });

  it('reads from a client only as fast as the disk writes', async () => {
    let produced = 0;
    let written = 0;
    let mostAhead = 0;
    const source = Readable.from(
      (function* () {
        for (; produced < 24 * MIB; produced += 65_536) yield Buffer.alloc(65_536);
      })(),
      { objectMode: false },
    );
    const to = disk(async bytes => {
      mostAhead = Math.max(mostAhead, produced - written);
      await sleep(5);
      written += bytes;
    });
    await takeIn(source, to, limits);
    expect(written).toBe(24 * MIB);
    expect(mostAhead).toBeLessThan(4 * MIB);
  });

  it('writes large batches, and smaller ones beside many other bodies', async () => {
    expect(await largestBatch()).toBe(MIB);
    const others = Array.from({ length: 40 }, () => new Readable({ read() {} }));
    const taken = others.map(other => takeIn(other, disk(), limits));
    expect(await largestBatch()).toBe(MIB / 4);
    for (const other of others) other.push(null);
    await Promise.all(taken);
    expect(await largestBatch()).toBe(MIB);
  });

  it('keeps nothing in memory for a client that has paused', async () => {
    const source = new Readable({ read() {} });
    const to = disk();
    const taken = takeIn(source, to, limits);
    source.push(Buffer.from('so far'));
    await expect.poll(() => to.bytes().toString()).toBe('so far');
    source.push(Buffer.from(', and the rest'));
    source.push(null);
    await taken;
    expect(to.bytes().toString()).toBe('so far, and the rest');
  });

  it('writes what a client sent before it disconnected, then reports that', async () => {
    const source = new Readable({ read() {} });
    const to = disk();
    const taken = takeIn(source, to, limits);
    source.push(Buffer.from('so far'));
    await expect.poll(() => to.bytes().toString()).toBe('so far');
    source.destroy(new Error('aborted'));
    await expect(taken).rejects.toMatchObject({ code: 'BLOB_UPLOAD_INVALID' });
    expect(to.bytes().toString()).toBe('so far');
  });

  it('reports a client that has disconnected before', async () => {
    const source = new Readable({ read() {} });
    source.destroy(new Error('aborted'));
    await expect(takeIn(source, disk(), limits)).rejects.toMatchObject({ code: 'BLOB_UPLOAD_INVALID' });
  });

  it('disconnects a client that sends nothing, but never one that waits for the disk', async () => {
    const silent = new Readable({ read() {} });
    await expect(takeIn(silent, disk(), { ...limits, idleMs: 250 })).rejects.toThrow('ended early');
    expect(silent.destroyed).toBe(true);
    const waiting = body(Buffer.alloc(MIB), Buffer.alloc(MIB), Buffer.alloc(MIB));
    await takeIn(
      waiting,
      disk(() => sleep(500)),
      { ...limits, idleMs: 250 },
    );
    expect(waiting.readableEnded).toBe(true);
  });

  it('stops at the limit, and keeps the connection for the response', async () => {
    const source = body(Buffer.alloc(60), Buffer.alloc(60));
    await expect(takeIn(source, disk(), { ...limits, maxBytes: 100 })).rejects.toMatchObject({
      code: 'SIZE_INVALID',
    });
    expect(source.destroyed).toBe(false);
  });

  it('fails if the disk fails, even while waiting for the client', async () => {
    const source = new Readable({ read() {} });
    const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    const taken = takeIn(
      source,
      disk(() => Promise.reject(full)),
      limits,
    );
    source.push(Buffer.alloc(MIB));
    await sleep(20);
    source.push(null);
    await expect(taken).rejects.toBe(full);
  });

  it('fails soon after the disk has, however slow the client is', async () => {
    const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    const source = new Readable({ read() {} });
    const trickle = setInterval(() => source.push(Buffer.alloc(1000)), 10);
    try {
      // The body has no end.
      await expect(
        takeIn(
          source,
          disk(() => Promise.reject(full)),
          limits,
        ),
      ).rejects.toBe(full);
    } finally {
      clearInterval(trickle);
    }
  });

  it('returns a small body, and refuses a larger one', async () => {
    const small = { ...limits, maxBytes: 3 };
    const whole = await readBody(body(Buffer.from('ab'), Buffer.from('c')), small, leaseOf(3));
    expect(Buffer.from(whole).toString()).toBe('abc');
    await expect(readBody(body(Buffer.from('abcd')), small, leaseOf(3))).rejects.toMatchObject({
      code: 'SIZE_INVALID',
    });
  });

  it('asks for more memory before it exceeds its lease', async () => {
    const grown: number[] = [];
    const lease = { bytes: 2, grow: async (bytes: number) => void grown.push(bytes) };
    const small = { ...limits, maxBytes: 9 };
    await readBody(body(Buffer.from('ab')), small, lease);
    expect(grown).toEqual([]);
    await readBody(body(Buffer.from('ab'), Buffer.from('c')), small, lease);
    expect(grown).toEqual([9]);
  });

  it('disconnects a client that is too slow', async () => {
    const source = new Readable({ read() {} });
    const dripping = setInterval(() => source.push('x'), 5);
    const slow = { idleMs: 50, maxBytes: MIB, minBytesPerS: 10_000 };
    await expect(readBody(source, slow, leaseOf(MIB))).rejects.toMatchObject({
      code: 'BLOB_UPLOAD_INVALID',
    });
    clearInterval(dripping);
    expect(source.destroyed).toBe(true);
  });
});
