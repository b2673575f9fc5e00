import { expect, test } from 'vitest';
import { readerOfBytes, readWhole } from './bytes-reader.ts';

test('a reader is read whole, unless that is too much', async () => {
  const bytes = Buffer.from('all of it');
  expect(Buffer.from((await readWhole(readerOfBytes(bytes), 9)) ?? [])).toEqual(bytes);
  expect(await readWhole(readerOfBytes(bytes), 8)).toBeUndefined();
});

test('a reader that ends before its size is an error, not a wait without end', async () => {
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
