import { setImmediate } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { StorageFull } from '../../blobs/storage-full.ts';
import { type BlobReader, HOLD_BACK_BYTES } from '../../lib/blob-reader.ts';
import { readerOfBytes } from '../../lib/bytes-reader.ts';
import { PagedBody } from '../../lib/paged-body.ts';
import { digestOf } from '../../oci/digest.ts';
import type { FillReader } from './fill-reader.ts';
import { Fill } from './fill.ts';

const SIZE = HOLD_BACK_BYTES + 1000;
const admitted = Promise.resolve();
const source = { read: async (buffer: Uint8Array) => buffer.byteLength, close: async () => {} };

function filling(): Fill {
  const fill = new Fill(digestOf(Buffer.from('any')));
  fill.begin(source, 1000);
  fill.learnSize(SIZE);
  return fill;
}

function open(fill: Fill, size: number, admission: Promise<void>): FillReader {
  return fill.open(size, admission, fill.hold(), () => {
    throw new Error('the disk is not full');
  });
}

it('shares what it reads with readers that are admitted to the same Fill, once it is admitted itself', async () => {
  const fill = filling();
  const [one, another] = [open(fill, SIZE, admitted), open(fill, SIZE, admitted)];
  expect(one.shares).toBeUndefined();
  for (const reader of [one, another]) await reader.read(Buffer.alloc(10), 0);
  expect(one.shares).toBeDefined();
  expect(another.shares).toBe(one.shares);
});

it('ends a read that waits for bytes when it is closed', async () => {
  const fill = filling();
  const reader = open(fill, SIZE, admitted);
  const waiting = reader.read(Buffer.alloc(10), 1000);
  await reader.close();
  await expect(waiting).rejects.toThrow('closed');
  expect(fill.hasReaders).toBe(false);
});

it('ends a read that waits for admission when it is closed', async () => {
  const fill = filling();
  const reader = open(fill, SIZE, new Promise(() => {}));
  const waiting = reader.read(Buffer.alloc(10), 0);
  await reader.close();
  await expect(waiting).rejects.toThrow('closed');
  expect(fill.hasReaders).toBe(false);
});

it('begins to read nothing directly if it is closed just when the disk is full', async () => {
  const fill = filling();
  const direct = vi.fn<() => BlobReader>(() => readerOfBytes(new Uint8Array(SIZE)));
  const reader = fill.open(SIZE, admitted, fill.hold(), direct);
  await reader.read(Buffer.alloc(10), 0);
  const waiting = reader.read(Buffer.alloc(10), 1000);
  fill.fail(new StorageFull('full'));
  await reader.close();
  await expect(waiting).rejects.toThrow('closed');
  expect(direct).not.toHaveBeenCalled();
});

it('shares nothing when it is refused', async () => {
  const refused = open(filling(), SIZE, Promise.reject(new Error('not for you')));
  await expect(refused.read(Buffer.alloc(10), 0)).rejects.toThrow('not for you');
  expect(refused.shares).toBeUndefined();
});

it("shares nothing if upstream's size differs from its own", async () => {
  const misled = open(filling(), SIZE - 1, admitted);
  await expect(misled.read(Buffer.alloc(10), 0)).rejects.toThrow('differs from the manifest');
  expect(misled.shares).toBeUndefined();
});

it('reports wrong bytes when the writer has truncated them, even before the Fill fails', async () => {
  const fill = filling();
  fill.begin({ ...source, read: async () => 0 }, 1000);
  const reader = open(fill, SIZE, admitted);
  await expect(reader.read(Buffer.alloc(10), 0)).rejects.toMatchObject({ code: 'UPSTREAM_INVALID' });
});

/** A piece of a body, as a Fill gets it. */
function received(bytes: Uint8Array): Uint8Array {
  const body = new PagedBody({ length: undefined, wanted: () => {}, closed: () => {} });
  body.add(bytes);
  const piece: Uint8Array = body.read();
  body.destroy();
  return piece;
}

it('lends what has just come, without a copy, as far as it may be read', async () => {
  const fill = filling();
  fill.begin(source, 400);
  const reader = open(fill, SIZE, admitted);
  const waiting = reader.lend(400);
  const piece = received(Buffer.alloc(2000, 'x'));
  fill.growBy(piece);
  for (const [lent, at] of [
    [await waiting, 0],
    [await reader.lend(700), 300],
  ] as const) {
    expect(lent?.bytes).toEqual(piece.subarray(at, 600));
    expect(lent?.bytes.buffer).toBe(piece.buffer);
    lent?.giveBack();
  }
  await expect(reader.lend(399)).resolves.toBeUndefined();
});

it.each([
  ['more has come', (fill: Fill) => fill.growBy(Buffer.alloc(10))],
  ['the Fill has failed', (fill: Fill) => fill.fail(new Error('broken'))],
  ['the Fill has ended', (fill: Fill) => fill.end()],
  ['other bytes may have replaced them', (fill: Fill) => fill.begin(source, 0)],
])('lends nothing any more when %s', (_when, happen) => {
  const fill = filling();
  fill.begin(source, 0);
  fill.growBy(received(Buffer.alloc(100)));
  fill.lend(0)?.giveBack();
  happen(fill);
  expect(fill.lend(0)).toBeUndefined();
});

it('lends what is being written, and reads it only when it is written', async () => {
  const fill = filling();
  fill.begin(source, 400);
  const readers = [open(fill, SIZE, admitted), open(fill, SIZE, admitted)] as const;
  const piece = received(Buffer.alloc(2000, 'x'));
  const [lending, reading] = [readers[0].lend(400), readers[1].read(Buffer.alloc(10), 400)];
  let hasRead = false;
  void reading.then(() => (hasRead = true));
  await setImmediate();
  expect([fill.isAwaited, fill.waits]).toEqual([true, 2]);
  fill.growSoonBy(piece);
  const lent = await lending;
  expect(lent?.bytes).toEqual(piece.subarray(0, 600));
  lent?.giveBack();
  const behind = readers[0].lend(1000);
  await setImmediate();
  expect([hasRead, fill.length, fill.readable]).toEqual([false, 400, 400]);
  fill.grow(2400);
  expect([await reading, fill.readable]).toEqual([10, 1000]);
  fill.fail(new Error('broken'));
  await expect(behind).rejects.toThrow('broken');
});

it('reads what cannot be lent when it is written', async () => {
  const fill = filling();
  fill.begin(source, 400);
  const reader = open(fill, SIZE, admitted);
  const lending = reader.lend(400);
  fill.growSoonBy(Buffer.alloc(100));
  expect(fill.lendable).toBe(400);
  fill.grow(500);
  await expect(lending).resolves.toBeUndefined();
});

it('continues directly behind what it was lent if that could not be written', async () => {
  const fill = filling();
  fill.begin(source, 400);
  const asked: number[] = [];
  const direct = () => ({
    ...readerOfBytes(new Uint8Array(SIZE)),
    read: async (_buffer: Uint8Array, position: number) => asked.push(position),
  });
  const reader = fill.open(SIZE, admitted, fill.hold(), direct);
  fill.growSoonBy(received(Buffer.alloc(100)));
  const lent = await reader.lend(400);
  const end = 400 + (lent?.bytes.byteLength ?? 0);
  lent?.giveBack();
  fill.fail(new StorageFull('full'));
  await reader.read(Buffer.alloc(10), end);
  expect(asked).toEqual([500]);
});

it('keeps nothing back of what came before that', () => {
  const fill = filling();
  fill.begin(source, 0);
  // More of them than may be lent.
  for (let at = 0; at < 200; at += 10) {
    fill.growBy(received(Buffer.alloc(10)));
    const lent = fill.lend(at);
    expect(lent?.bytes).toHaveLength(10);
    lent?.giveBack();
  }
  fill.end();
});
