import type { Config } from '../config/config.ts';
import type { QueueState } from '../mirror/fill/pull-queue.ts';
import type { QueueDocument } from './documents/queue.ts';

const SHOWN_REQUESTERS = 100;

/** How many connections to upstreams are in use, how many downloads and ranges wait for one, and for whom. */
export function queueDocument(
  { running, waiting, requesters }: QueueState,
  { serializeImagePulls, maxParallelImagePulls, maxConnections }: Config['pulls'],
): QueueDocument {
  const most = requesters.toSorted((one, other) => other.waiting + other.running - one.waiting - one.running);
  return {
    running,
    waiting,
    maxConnections,
    maxImagePulls: serializeImagePulls ? 1 : (maxParallelImagePulls ?? null),
    requesters: most.slice(0, SHOWN_REQUESTERS),
  };
}
