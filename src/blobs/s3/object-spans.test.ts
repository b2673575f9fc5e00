import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { setImmediate as nextTick } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FakeS3, type S3Fault } from '../../../test/support/fake-s3.ts';
import { Latch } from '../../../test/support/latch.ts';
import { Bucket, BUCKET_LIMITS } from './bucket.ts';
import { FurtherRequests, ObjectSpans } from './object-spans.ts';
import { ObjectStream } from './object-stream.ts';
import { payloadOfBytes } from './payload.ts';

const LIMITS = { ...BUCKET_LIMITS, answerMs: 500, idleBodyMs: 500, patienceMs: 500, backoffMs: 1 };
const KIB = 1024;
const SPAN_BYTES = 100 * KIB;

describe('an object in spans', () => {
  let fake: FakeS3;
  let bucket: Bucket;
  const { signal } = new AbortController();

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
    const fastBytesPerS = isFast ? 0 : Number.POSITIVE_INFINITY;
    await bucket.put('key', payloadOfBytes(bytes));
    const object = { bucket, key: 'key', size: bytes.length };
    return new ObjectSpans(object, { further, signal, spanBytes: SPAN_BYTES, fastBytesPerS });
  }

  async function begunOf(...arguments_: Parameters<typeof spansOf>): Promise<ObjectSpans> {
    const spans = await spansOf(...arguments_);
    expect(await spans.begin()).toBe(true);
    return spans;
  }

  /** The answer to the first request stops in the middle of its span, until the returned function is called. */
  function stoppingFirst(other: (range: string) => S3Fault | undefined = () => undefined): () => void {
    const latch = new Latch();
    fake.fault = ({ range = '' }) =>
      range.startsWith('bytes=0-') ? { heldAt: 60 * KIB, until: latch.opened } : other(range);
    return () => latch.open();
  }

  test('are asked for side by side before the first one ends, and come in order whichever arrives first', async () => {
    const bytes = randomBytes(750 * KIB);
    const spans = await spansOf(bytes, new FurtherRequests());
    const goOn = stoppingFirst();
    expect(await spans.begin()).toBe(true);
    expect(gets()).toEqual(['bytes=0-767999']);
    const reading = readAll(spans);
    await expect.poll(gets).toHaveLength(4);
    const sideBySide = ['102400-204799', '204800-307199', '307200-409599'];
    expect(gets().slice(1).toSorted()).toEqual(sideBySide.map(range => `bytes=${range}`));
    goOn();
    expect(bytes.equals(await reading)).toBe(true);
    // The last one is longer, rather than followed by a short one.
    const afterThem = ['409600-511999', '512000-614399', '614400-767999'];
    expect(gets().slice(4)).toEqual(afterThem.map(range => `bytes=${range}`));
  });

  test('leave the connection of a request that ends earlier than it was asked', async () => {
    // More than waits in memory for a reader.
    const bytes = randomBytes(9_000 * KIB);
    const goOn = stoppingFirst();
    fake.objects.set('entrepot/key', { bytes, modifiedAtMs: 0 });
    const object = { bucket, key: 'key', size: bytes.length };
    const stream = new ObjectStream(object, { start: 0, end: bytes.length }, signal);
    await stream.begin();
    const pieces = [await stream.next()];
    stream.endAt(SPAN_BYTES);
    goOn();
    while (pieces.at(-1) !== undefined) pieces.push(await stream.next());
    expect(bytes.subarray(0, SPAN_BYTES).equals(Buffer.concat(pieces.flatMap(piece => piece ?? [])))).toBe(
      true,
    );
    await expect.poll(() => fake.openSockets).toBe(0);
  });

  test.each(['begin', 'next'] as const)(
    'leave the connection of a request that is answered after they were left (%s)',
    async how => {
      const answer = new Latch();
      const body = Readable.from([randomBytes(10)]);
      const get = async () => {
        await answer.opened;
        return { status: 206, headers: {}, body };
      };
      const stream = new ObjectStream(
        { bucket: { get }, key: 'key', size: 10 },
        { start: 0, end: 10 },
        signal,
      );
      const asking = stream[how]();
      stream.leave();
      answer.open();
      await expect(asking).rejects.toThrow('nobody reads the object any more');
      expect(body.destroyed).toBe(true);
    },
  );

  test('are all in the first request over a connection that is fast', async () => {
    const bytes = randomBytes(650 * KIB);
    const spans = await spansOf(bytes, new FurtherRequests(), { isFast: true });
    await spans.begin();
    expect(bytes.equals(await readAll(spans))).toBe(true);
    expect(gets()).toEqual(['bytes=0-665599']);
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
    const goOn = stoppingFirst();
    const whole = await begunOf(bytes, further);
    for (let at = 0; at < SPAN_BYTES / 2; ) at += (await whole.next())?.byteLength ?? 0;
    expect(areAllFree()).toBe(false);
    goOn();
    await readAll(whole);
    expect(areAllFree()).toBe(true);

    fake.requests.length = 0;
    const goOnAndFail = stoppingFirst(range =>
      range.startsWith('bytes=204800-') ? { status: 403, code: 'AccessDenied' } : undefined,
    );
    const failing = await begunOf(bytes, further);
    const reading = readAll(failing);
    await expect.poll(gets).toHaveLength(4);
    goOnAndFail();
    await expect(reading).rejects.toMatchObject({ status: 403 });
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
