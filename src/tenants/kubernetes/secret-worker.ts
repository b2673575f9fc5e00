/** The thread that parses large Secrets, so that these do not delay requests. */
import { parentPort } from 'node:worker_threads';
import { readSecret } from './kube-objects.ts';
import type { SecretQuestion } from './secret-reader.ts';

parentPort?.on('message', ({ name, bytes }: SecretQuestion) => {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
  parentPort?.postMessage(readSecret({ name, bytes: Buffer.from(bytes) }));
});
