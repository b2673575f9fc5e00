import { expect, test } from 'vitest';
import { hasBytes, readerOfBytes, readWhole } from './bytes-reader.ts';

test('a reader is read completely, unless it is too large', async () => {
  const bytes = Buffer.from('all of it');
  expect(Buffer.from((await readWhole(readerOfBytes(bytes), 9)) ?? [])).toEqual(bytes);
  expect(await readWhole(readerOfBytes(bytes), 8)).toBeUndefined();
});

test('a reader that ends before its size is an error, not an endless wait', async () => {
  let closed = 0;
  const short = {
    size: 10,
    read: async () => 0,
    close: async () => {
      closed += 1;
    },
  };
  await expect(readWhole(short, 10)).rejects.toThrow('ended at byte 0 of 10');
  expect(closed).toBe(1);
});

test('a reader has bytes if all of them are equal, however few it returns at a time', async () => {
  const held = Buffer.from('all of it');
  const slow = {
    read: async (buffer: Uint8Array, position: number) => held.copy(buffer, 0, position, position + 1),
  };
  expect(await hasBytes(slow, Buffer.from('of it'), 4)).toBe(true);
  expect(await hasBytes(slow, Buffer.from('of at'), 4)).toBe(false);
  expect(await hasBytes(slow, Buffer.from('of it all'), 4)).toBe(false);
  expect(await hasBytes(slow, new Uint8Array(0), 99)).toBe(true);
});
