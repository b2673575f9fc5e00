/** The thread that reads large Secrets: what others write into theirs takes no time from whoever is served. */
import { parentPort } from 'node:worker_threads';
import { readSecret } from './kube-objects.ts';
import type { SecretQuestion } from './secret-reader.ts';

parentPort?.on('message', ({ name, bytes }: SecretQuestion) => {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(readSecret({ name, bytes: Buffer.from(bytes) }));
});
