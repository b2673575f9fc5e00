import { createHash } from 'node:crypto';
import { type Extent, Extents, type KnownExtents } from '../lib/extents.ts';

/** Which bytes of a blob a file has. */
export interface PartsMap {
  /** The size of the whole blob. */
  readonly size: number;
  /** Of two maps the one with the greater number counts. */
  readonly generation: number;
  readonly extents: KnownExtents;
}

/**
 * A map in the file is at most this long. It is followed by a second place for one, so that while one is written the
 * other is whole; the blob's first byte comes after both.
 */
export const MAP_BYTES = 1024 * 1024;
/** Where the blob's first byte is in the file. */
export const BYTES_START = 2 * MAP_BYTES;

const MAGIC = Buffer.from('entrepot parts 1');
const NUMBER_BYTES = 8;
const HEAD_BYTES = MAGIC.byteLength + 3 * NUMBER_BYTES;
const EXTENT_BYTES = 2 * NUMBER_BYTES;
const CHECK = 'sha256';
const CHECK_BYTES = 32;

/** As many as a map has room for. */
export const MAX_EXTENTS = Math.floor((MAP_BYTES - HEAD_BYTES - CHECK_BYTES) / EXTENT_BYTES);

/** Where a map of this generation is in the file: not where the previous one is. */
export function mapPosition(generation: number): number {
  return (generation % 2) * MAP_BYTES;
}

export function encodePartsMap({ size, generation, extents }: PartsMap): Uint8Array {
  const numbers = [
    size,
    generation,
    extents.count,
    ...[...extents].flatMap(({ start, end }) => [start, end]),
  ];
  const head = Buffer.alloc(MAGIC.byteLength + numbers.length * NUMBER_BYTES);
  MAGIC.copy(head);
  for (const [at, number] of numbers.entries()) {
    head.writeBigUInt64LE(BigInt(number), MAGIC.byteLength + at * NUMBER_BYTES);
  }
  return Buffer.concat([head, createHash(CHECK).update(head).digest()]);
}

/** How much is enough to tell how long a map is. */
export const MAP_HEAD_BYTES = 4096;

/** The length of the map that begins like this; `undefined` if none does. */
export function partsMapLength(head: Uint8Array): number | undefined {
  const buffer = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  if (buffer.byteLength < HEAD_BYTES || !buffer.subarray(0, MAGIC.byteLength).equals(MAGIC)) return undefined;
  const count = Number(buffer.readBigUInt64LE(HEAD_BYTES - NUMBER_BYTES));
  return count > MAX_EXTENTS ? undefined : HEAD_BYTES + count * EXTENT_BYTES + CHECK_BYTES;
}

/** The map in `bytes`, which may be longer; `undefined` if there is none, or not a whole one. */
export function decodePartsMap(bytes: Uint8Array): PartsMap | undefined {
  const length = partsMapLength(bytes);
  if (length === undefined || length > bytes.byteLength) return undefined;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, length);
  const checkedBytes = length - CHECK_BYTES;
  const numberAt = (at: number): number =>
    Number(buffer.readBigUInt64LE(MAGIC.byteLength + at * NUMBER_BYTES));
  const [size, generation, count] = [numberAt(0), numberAt(1), numberAt(2)];
  const check = createHash(CHECK).update(buffer.subarray(0, checkedBytes)).digest();
  if (!check.equals(buffer.subarray(checkedBytes))) return undefined;
  const extents = Array.from(
    { length: count },
    (_, at): Extent => ({ start: numberAt(3 + 2 * at), end: numberAt(4 + 2 * at) }),
  );
  if (extents.some(({ start, end }) => start >= end || end > size)) return undefined;
  return { size, generation, extents: new Extents(extents) };
}
