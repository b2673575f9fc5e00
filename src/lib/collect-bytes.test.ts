import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { collectBytes } from './collect-bytes.ts';

const tooLarge = () => new RangeError('too large');
const chunks = ['ab', 'cd', 'e'].map(text => Buffer.from(text));

test('a body of at most the given size is collected', async () => {
  expect((await collectBytes(Readable.from(chunks), 5, tooLarge)).toString()).toBe('abcde');
  expect((await collectBytes(Readable.from([]), 0, tooLarge)).byteLength).toBe(0);
});

test('a larger body is refused as soon as it is too large, and ended', async () => {
  let read = 0;
  const body = Readable.from(
    (function* () {
      for (;;) {
        read += 1;
        yield Buffer.from('ab');
      }
    })(),
    { highWaterMark: 1 },
  );
  await expect(collectBytes(body, 5, tooLarge)).rejects.toThrow('too large');
  expect(body.destroyed).toBe(true);
  expect(read).toBeLessThan(10);
});
