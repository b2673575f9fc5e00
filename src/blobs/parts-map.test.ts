import { expect, it } from 'vitest';
import { Extents } from '../lib/extents.ts';
import { decodePartsMap, encodePartsMap, MAP_BYTES, mapPosition, MAX_EXTENTS } from './parts-map.ts';

const extents = new Extents([
  { start: 0, end: 10 },
  { start: 5_000_000_000, end: 6_000_000_000 },
]);
const map = { size: 7_000_000_000, generation: 3, extents };

it('is read as it was written, whatever follows it', () => {
  const read = decodePartsMap(Buffer.concat([encodePartsMap(map), Buffer.from('older bytes')]));
  expect(read).toMatchObject({ size: map.size, generation: 3 });
  expect([...(read?.extents ?? [])]).toEqual([...extents]);
});

it('is none if any byte of it is missing or another', () => {
  const bytes = encodePartsMap(map);
  for (let at = 0; at < bytes.byteLength; at += 1) {
    expect(decodePartsMap(bytes.subarray(0, at))).toBeUndefined();
    const torn = Uint8Array.from(bytes);
    torn[at] = (torn[at] ?? 0) ^ 1;
    expect(decodePartsMap(torn)).toBeUndefined();
  }
  expect(decodePartsMap(new Uint8Array(MAP_BYTES))).toBeUndefined();
});

it('is none if it claims bytes behind the end of the blob', () => {
  expect(decodePartsMap(encodePartsMap({ ...map, size: 100 }))).toBeUndefined();
});

it('has room for as many extents as are allowed, beside the previous map', () => {
  const many = new Extents(
    Array.from({ length: MAX_EXTENTS }, (_, at) => ({ start: 2 * at, end: 2 * at + 1 })),
  );
  const bytes = encodePartsMap({ size: 2 * MAX_EXTENTS, generation: 4, extents: many });
  expect(bytes.byteLength).toBeLessThanOrEqual(MAP_BYTES);
  expect(decodePartsMap(bytes)?.extents.count).toBe(MAX_EXTENTS);
  expect([mapPosition(3), mapPosition(4)]).toEqual([MAP_BYTES, 0]);
});
