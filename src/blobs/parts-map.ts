import { createHash } from 'node:crypto';
import { type Extent, Extents, type KnownExtents } from '../lib/extents.ts';
import type { ComingRange } from './spool.ts';

/** Which bytes of a blob a file has. */
export interface PartsMap {
  /** The size of the whole blob. */
  readonly size: number;
  /** Of two maps the one with the greater number counts. */
  readonly generation: number;
  readonly extents: KnownExtents;
}

/** Which bytes a process is about to have, for others. */
export interface PartsNews {
  /** Of its Lease. News of an earlier holder do not count. */
  readonly epoch: number;
  /** The size of the whole blob. */
  readonly size: number;
  /** Changes with each news. */
  readonly generation: number;
  readonly coming: readonly ComingRange[];
}

/**
 * A map in the file is at most this long. It is followed by a second place for one, so that while one is written the
 * other is whole; then comes the place for news, and then the blob's first byte.
 */
export const MAP_BYTES = 1024 * 1024;
export const NEWS_POSITION = 2 * MAP_BYTES;
const NEWS_BYTES = 64 * 1024;
/** Where the blob's first byte is in the file. */
export const BYTES_START = NEWS_POSITION + NEWS_BYTES;

const MAP_MAGIC = Buffer.from('entrepot parts 2');
const NEWS_MAGIC = Buffer.from('entrepot news 1 ');
const MAGIC_BYTES = 16;
const NUMBER_BYTES = 8;
const HALF = 2 ** 32;
/** Each begins with some numbers, of which the last is how many groups of numbers follow. */
const HEAD_NUMBERS = { map: 3, news: 4 } as const;
const GROUP_NUMBERS = { map: 2, news: 3 } as const;
/** By their number in news. */
const STATES = ['claimed', 'requested', 'received'] as const;
const CHECK = 'sha256';
const CHECK_BYTES = 32;

/** As many as a map has room for. */
export const MAX_EXTENTS = roomIn(MAP_BYTES, 'map');
/** As many as news have room for. */
export const MAX_COMING = roomIn(NEWS_BYTES, 'news');

/** Where a map of this generation is in the file: not where the previous one is. */
export function mapPosition(generation: number): number {
  return (generation % 2) * MAP_BYTES;
}

export function encodePartsMap({ size, generation, extents }: PartsMap): Uint8Array {
  const numbers = [size, generation, extents.count];
  for (const { start, end } of extents) numbers.push(start, end);
  return sealed(MAP_MAGIC, numbers);
}

export function encodePartsNews({ epoch, size, generation, coming }: PartsNews): Uint8Array {
  const numbers = coming.flatMap(({ start, end, state }) => [start, end, STATES.indexOf(state)]);
  return sealed(NEWS_MAGIC, [epoch, size, generation, coming.length, ...numbers]);
}

/** How much is enough to tell how long a map, or news, are. */
export const MAP_HEAD_BYTES = 4096;

/** The length of the map that begins like this, and its generation; `undefined` if none does. */
export function partsMapHead(head: Uint8Array): { length: number; generation: number } | undefined {
  const length = lengthOf(head, 'map');
  return length === undefined ? undefined : { length, generation: numbersOf(head)(1) };
}

/** The length of the news that begin like this; `undefined` if none do. */
export function partsNewsLength(head: Uint8Array): number | undefined {
  return lengthOf(head, 'news');
}

/** The map in `bytes`, which may be longer; `undefined` if there is none, or not a whole one. */
export function decodePartsMap(bytes: Uint8Array): PartsMap | undefined {
  if (!isSealed(bytes, 'map')) return undefined;
  const numberAt = numbersOf(bytes);
  const [size, generation, count] = [numberAt(0), numberAt(1), numberAt(2)];
  const extents = Array.from(
    { length: count },
    (_, at): Extent => ({ start: numberAt(3 + 2 * at), end: numberAt(4 + 2 * at) }),
  );
  return extents.some(isOutside(size)) ? undefined : { size, generation, extents: new Extents(extents) };
}

/** The news in `bytes`, which may be longer; `undefined` if there are none, or not whole ones. */
export function decodePartsNews(bytes: Uint8Array): PartsNews | undefined {
  if (!isSealed(bytes, 'news')) return undefined;
  const numberAt = numbersOf(bytes);
  const [epoch, size, generation, count] = [numberAt(0), numberAt(1), numberAt(2), numberAt(3)];
  const coming = Array.from(
    { length: count },
    (_, at): ComingRange => ({
      start: numberAt(4 + 3 * at),
      end: numberAt(5 + 3 * at),
      state: STATES[numberAt(6 + 3 * at)] ?? 'claimed',
    }),
  );
  return coming.some(isOutside(size)) ? undefined : { epoch, size, generation, coming };
}

function isOutside(size: number): (extent: Extent) => boolean {
  return ({ start, end }) => start >= end || end > size;
}

/** Numbers with a checksum: on reading, what is torn, or mixed with older bytes, does not count. */
function sealed(magic: Buffer, numbers: readonly number[]): Uint8Array {
  const head = Buffer.alloc(MAGIC_BYTES + numbers.length * NUMBER_BYTES);
  magic.copy(head);
  const view = new DataView(head.buffer, head.byteOffset + MAGIC_BYTES);
  let at = 0;
  for (const number of numbers) {
    // As two halves: there may be tens of thousands, and 64-bit integers are slow.
    view.setUint32(at, number % HALF, true);
    view.setUint32(at + NUMBER_BYTES / 2, Math.floor(number / HALF), true);
    at += NUMBER_BYTES;
  }
  return Buffer.concat([head, createHash(CHECK).update(head).digest()]);
}

function isSealed(bytes: Uint8Array, kind: 'map' | 'news'): boolean {
  const length = lengthOf(bytes, kind);
  if (length === undefined || length > bytes.byteLength) return false;
  const check = createHash(CHECK)
    .update(bytes.subarray(0, length - CHECK_BYTES))
    .digest();
  return check.equals(bytes.subarray(length - CHECK_BYTES, length));
}

function lengthOf(bytes: Uint8Array, kind: 'map' | 'news'): number | undefined {
  const [magic, max] = kind === 'map' ? [MAP_MAGIC, MAX_EXTENTS] : [NEWS_MAGIC, MAX_COMING];
  if (bytes.byteLength < headBytes(kind) || !magic.equals(bytes.subarray(0, MAGIC_BYTES))) return undefined;
  const count = numbersOf(bytes)(HEAD_NUMBERS[kind] - 1);
  return count > max ? undefined : headBytes(kind) + count * groupBytes(kind) + CHECK_BYTES;
}

function roomIn(bytes: number, kind: 'map' | 'news'): number {
  return Math.floor((bytes - headBytes(kind) - CHECK_BYTES) / groupBytes(kind));
}

function headBytes(kind: 'map' | 'news'): number {
  return MAGIC_BYTES + HEAD_NUMBERS[kind] * NUMBER_BYTES;
}

function groupBytes(kind: 'map' | 'news'): number {
  return GROUP_NUMBERS[kind] * NUMBER_BYTES;
}

function numbersOf(bytes: Uint8Array): (at: number) => number {
  const view = new DataView(bytes.buffer, bytes.byteOffset + MAGIC_BYTES, bytes.byteLength - MAGIC_BYTES);
  return at =>
    view.getUint32(at * NUMBER_BYTES, true) +
    view.getUint32(at * NUMBER_BYTES + NUMBER_BYTES / 2, true) * HALF;
}
