import { randomBytes } from 'node:crypto';
import { setImmediate as nextTick } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FakeS3 } from '../../../test/support/fake-s3.ts';
import { Latch } from '../../../test/support/latch.ts';
import { Bucket, BUCKET_LIMITS } from './bucket.ts';
import { FurtherRequests, ObjectSpans } from './object-spans.ts';
import { payloadOfBytes } from './payload.ts';

const LIMITS = { ...BUCKET_LIMITS, answerMs: 500, idleBodyMs: 500, patienceMs: 500, backoffMs: 1 };
const KIB = 1024;
const SPAN_BYTES = 100 * KIB;

describe('an object in spans', () => {
  let fake: FakeS3;
  let bucket: Bucket;

  beforeEach(async () => {
    fake = await FakeS3.start();
    bucket = new Bucket(fake.settings(), LIMITS);
  });

  afterEach(async () => {
    await bucket.close();
    while (fake.openSockets > 0) await nextTick();
    await fake.close();
  });

  const gets = () => fake.requests.flatMap(({ range }) => range ?? []);

  /** Of a connection that is taken for slow, unless it is said to be fast. */
  async function spansOf(bytes: Buffer, further: FurtherRequests, { isFast = false } = {}) {
    await bucket.put('key', payloadOfBytes(bytes));
    const { signal } = new AbortController();
    const object = { bucket, key: 'key', size: bytes.length };
    const fastBytesPerS = isFast ? 0 : Number.POSITIVE_INFINITY;
    return new ObjectSpans(object, { further, signal, spanBytes: SPAN_BYTES, fastBytesPerS });
  }

  async function begunOf(...arguments_: Parameters<typeof spansOf>): Promise<ObjectSpans> {
    const spans = await spansOf(...arguments_);
    expect(await spans.begin()).toBe(true);
    return spans;
  }

  test('are asked for side by side after the first one, and come in order whichever arrives first', async () => {
    const bytes = randomBytes(750 * KIB);
    const spans = await spansOf(bytes, new FurtherRequests());
    const latch = new Latch();
    fake.fault = ({ range }) =>
      range?.startsWith('bytes=102400-') ? { heldAt: 10, until: latch.opened } : undefined;
    expect(await spans.begin()).toBe(true);
    expect(gets()).toEqual(['bytes=0-102399']);
    const reading = readAll(spans);
    const [, ...sideBySide] = [
      '0-102399',
      '102400-204799',
      '204800-307199',
      '307200-409599',
      '409600-511999',
    ];
    await expect.poll(gets).toHaveLength(5);
    expect(gets().slice(1).toSorted()).toEqual(sideBySide.map(range => `bytes=${range}`));
    latch.open();
    expect(bytes.equals(await reading)).toBe(true);
    // The last one is longer, rather than followed by a short one.
    expect(gets().slice(5)).toEqual(['bytes=512000-614399', 'bytes=614400-767999']);
  });

  test('are the first one and the rest over a connection that is fast', async () => {
    const bytes = randomBytes(650 * KIB);
    const spans = await spansOf(bytes, new FurtherRequests(), { isFast: true });
    await spans.begin();
    expect(bytes.equals(await readAll(spans))).toBe(true);
    expect(gets()).toEqual(['bytes=0-102399', 'bytes=102400-665599']);
  });

  test('are a single one if the object is small, or no further request is free', async () => {
    const small = randomBytes(199 * KIB);
    await readAll(await begunOf(small, new FurtherRequests()));
    await readAll(await begunOf(randomBytes(650 * KIB), new FurtherRequests(0)));
    expect(gets()).toEqual(['bytes=0-203775', 'bytes=0-665599']);
  });

  test('give their requests back at the end, when they fail, and when they are left', async () => {
    const bytes = randomBytes(650 * KIB);
    const further = new FurtherRequests(3);
    const areAllFree = () => {
      const taken = [1, 2, 3].map(() => further.take());
      further.give(taken.filter(Boolean).length);
      return taken.every(Boolean);
    };
    const whole = await begunOf(bytes, further);
    for (let at = 0; at <= SPAN_BYTES; ) at += (await whole.next())?.byteLength ?? 0;
    expect(areAllFree()).toBe(false);
    await readAll(whole);
    expect(areAllFree()).toBe(true);

    fake.fault = ({ range }) =>
      range?.startsWith('bytes=204800-') ? { status: 403, code: 'AccessDenied' } : undefined;
    const failing = await begunOf(bytes, further);
    await expect(readAll(failing)).rejects.toMatchObject({ status: 403 });
    failing.leave();
    expect(areAllFree()).toBe(true);

    const missing = await spansOf(bytes, further);
    fake.objects.clear();
    expect(await missing.begin()).toBe(false);
    missing.leave();
    expect(areAllFree()).toBe(true);
  });
});

async function readAll(spans: ObjectSpans): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for (let piece = await spans.next(); piece !== undefined; piece = await spans.next()) {
    pieces.push(Buffer.from(piece));
    spans.release(piece);
  }
  return Buffer.concat(pieces);
}
