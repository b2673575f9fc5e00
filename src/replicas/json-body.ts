import type { IncomingMessage } from 'node:http';
import { collectBytes } from '../lib/collect-bytes.ts';

/** A hundred digests, an error with its detail: far more than any of these has. */
const MAX_BYTES = 64 * 1024;

/**
 * What the body of another replica's request or response says, which is not checked: whoever has the key of the cluster is
 * another replica. Rejects if it is too long, or no JSON.
 */
export async function readJsonBody<T>(message: IncomingMessage): Promise<T> {
  const bytes = await collectBytes(
    message,
    MAX_BYTES,
    () => new Error(`a replica has sent more than ${MAX_BYTES} bytes`),
  );
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return JSON.parse(bytes.toString()) as T;
}
