import { expect, test } from 'vitest';
import { aheadBytes, ByteWindow } from './byte-window.ts';

const KIB = 1024;
const { signal } = new AbortController();

test('keeps no more than it may, however much is pushed at once', async () => {
  const pushed = Buffer.from(Array.from({ length: 256 * KIB }, (_, at) => at % 251));
  const window = new ByteWindow(100, () => 32 * KIB);
  const pushing = window.push(pushed, signal);
  const received: Buffer[] = [];
  const buffer = Buffer.alloc(20_000);
  for (let position = 100; position < 100 + pushed.byteLength; ) {
    await window.changes.until(() => {
      window.dropBefore(position);
      return window.end > position || undefined;
    });
    expect(window.end - window.start).toBeLessThanOrEqual(48 * KIB);
    const count = window.copy(buffer, position);
    received.push(Buffer.from(buffer.subarray(0, count)));
    position += count;
  }
  window.dropBefore(100 + pushed.byteLength);
  await pushing;
  expect(Buffer.concat(received).equals(pushed)).toBe(true);
});

test('copies from several pieces, and from the middle of one', async () => {
  const window = new ByteWindow(0, () => 64 * KIB);
  await window.push(Buffer.alloc(20 * KIB, 'a'), signal);
  await window.push(Buffer.from('bcd'), signal);
  const buffer = Buffer.alloc(5);
  expect(window.copy(buffer, 20 * KIB - 2)).toBe(5);
  expect(buffer.toString()).toBe('aabcd');
  expect(window.copy(buffer, 20 * KIB + 1)).toBe(2);
  expect(buffer.toString('latin1', 0, 2)).toBe('cd');
});

test('each of many readers may have less than each of a few', () => {
  expect([1, 64, 128, 100_000].map(aheadBytes)).toEqual([256 * KIB, 256 * KIB, 128 * KIB, 16 * KIB]);
});
