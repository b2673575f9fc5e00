import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { AskedThread } from './asked-thread.ts';

/** Ends with the first question. */
const DYING = `require('node:worker_threads').parentPort.on('message', () => { throw new Error('out of memory'); });`;
/** Answers each with its parameters. */
const LIVING = `
  const { parentPort } = require('node:worker_threads');
  parentPort.on('message', ({ id, parameters }) => parentPort.postMessage({ id, answer: parameters }));`;

test('a question that is asked as soon as the thread has died is answered by another one', async () => {
  const codes = [DYING, LIVING];
  const thread = new AskedThread({
    name: 'the thread',
    start: () => new Worker(codes.shift() ?? '', { eval: true }),
    read: ({ answer }: { id: number; answer: unknown }) => answer,
  });
  await expect(thread.ask('a', [])).rejects.toThrow('out of memory');
  expect(await thread.ask('b', [1])).toEqual([1]);
  expect(codes).toEqual([]);
  await thread.terminate();
});
