import { beforeEach, expect, test } from 'vitest';
import { IndexVersion, VALID_FOR_MS } from './index-version.ts';

let nowMs: number;
let seenSinceMs: number;
/** Answers or fails the questions that are under way, the oldest first. */
let waiting: ((answer: number | Error) => void)[];
let version: IndexVersion;

beforeEach(() => {
  nowMs = 1_000;
  seenSinceMs = 0;
  waiting = [];
  version = new IndexVersion({
    ask: () =>
      new Promise((resolve, reject) => {
        waiting.push(given => (given instanceof Error ? reject(given) : resolve(given)));
      }),
    seenSinceMs: () => seenSinceMs,
    nowMs: () => nowMs,
  });
});

/** Answers the oldest question, and lets everybody who waits for it go on. */
async function answer(given: number | Error): Promise<void> {
  waiting.shift()?.(given);
  await new Promise(resolve => setImmediate(resolve));
}

async function looked(given: number): Promise<void> {
  const looking = version.look();
  await answer(given);
  await looking;
}

/** Whether a promise is still pending. */
async function isPending(promise: Promise<void> | undefined): Promise<boolean> {
  return (
    (await Promise.race([promise, new Promise(resolve => setImmediate(resolve, 'pending'))])) === 'pending'
  );
}

test('pulls that come while an answer is valid ask nothing', async () => {
  await looked(7);
  nowMs += VALID_FOR_MS;
  expect(version.look()).toBeUndefined();
  expect(version.version).toBe(7);
});

test('a pull that comes when the answer is not valid any more waits for the next one', async () => {
  await looked(7);
  nowMs += VALID_FOR_MS + 0.1;
  const looking = version.look();
  expect(await isPending(looking)).toBe(true);
  await answer(8);
  expect(await looking).toBeUndefined();
  expect(version.version).toBe(8);
});

test('an answer counts from when it was asked for, and not from when it came', async () => {
  const looking = version.look();
  nowMs += VALID_FOR_MS + 0.1;
  await answer(7);
  await looking;
  expect(version.look()).toBeDefined();
});

test('the next answer is asked for before pulls have to wait for it, and by none that nobody needs', async () => {
  await looked(7);
  nowMs += VALID_FOR_MS * 0.75;
  expect(version.look()).toBeUndefined();
  expect(version.look()).toBeUndefined();
  expect(waiting).toHaveLength(1);
  await answer(8);
  nowMs += VALID_FOR_MS / 2;
  expect(version.look()).toBeUndefined();
  expect([version.version, waiting.length]).toEqual([8, 0]);
});

test('a failure to ask ahead is not noticed until somebody needs the answer, who gets the next failure', async () => {
  await looked(7);
  nowMs += VALID_FOR_MS * 0.75;
  expect(version.look()).toBeUndefined();
  await answer(new Error('away'));
  expect(version.look()).toBeUndefined();
  await answer(new Error('away'));
  nowMs += VALID_FOR_MS;
  const failure = version.look()?.catch((error: unknown) => String(error));
  await answer(new Error('away'));
  expect(await failure).toBe('Error: away');
});

test('pulls that wait share a question, unless it was asked too long before they came', async () => {
  const first = version.look();
  nowMs += VALID_FOR_MS;
  const second = version.look();
  nowMs += VALID_FOR_MS;
  const [third, fourth] = [version.look(), version.look()];
  expect(waiting).toHaveLength(1);
  await answer(7);
  await Promise.all([first, second]);
  expect(await isPending(third)).toBe(true);
  expect(waiting).toHaveLength(1);
  await answer(8);
  await Promise.all([third, fourth]);
  expect([version.version, waiting.length]).toEqual([8, 0]);
});

test('while others may not know of this process, each pull waits for an answer from after it came', async () => {
  await looked(7);
  nowMs += 1;
  seenSinceMs = Number.POSITIVE_INFINITY;
  expect(version.look()).toBeDefined();
  await answer(7);
  nowMs += 1;
  seenSinceMs = nowMs;
  expect(version.look()).toBeDefined();
  await answer(7);
  nowMs += 1;
  expect(version.look()).toBeUndefined();
});

test('what this process itself has written is part of the next answer that counts', async () => {
  await looked(7);
  nowMs += 1;
  version.written();
  const looking = version.look();
  nowMs += 1;
  version.written();
  const later = version.look();
  await answer(8);
  await looking;
  expect(await isPending(later)).toBe(true);
  await answer(9);
  await later;
  expect([version.version, version.look()]).toEqual([9, undefined]);
});

test('what another question was answered with counts, too', () => {
  expect(version.hear(7, nowMs - 1)).toBe(true);
  nowMs += 1;
  expect(version.look()).toBeUndefined();
  expect(version.version).toBe(7);
});

test('an older version is one from before, or that of an index that went back', () => {
  version.hear(7, nowMs);
  nowMs += 2;
  version.hear(9, nowMs - 1);
  expect(version.hear(8, nowMs - 1)).toBe(false);
  expect(version.version).toBe(9);
  expect(version.hear(8, nowMs + 1)).toBe(true);
  expect(version.version).toBe(8);
});

test('pulls of one turn of the event loop share a look at its end, and fail together', async () => {
  const first = version.lookInBatch();
  await Promise.resolve();
  const second = version.lookInBatch();
  expect(waiting).toEqual([]);
  await new Promise(resolve => setImmediate(resolve));
  expect(waiting).toHaveLength(1);
  const failures = Promise.allSettled([first, second]);
  await answer(new Error('away'));
  expect((await failures).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
});

test('a pull that comes after a look has a look of its own', async () => {
  await looked(7);
  await version.lookInBatch();
  nowMs += VALID_FOR_MS + 0.1;
  const looking = version.lookInBatch();
  expect(await isPending(looking)).toBe(true);
  await answer(8);
  await looking;
  expect(version.version).toBe(8);
});
