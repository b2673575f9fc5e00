import type { Config } from '../config/config.ts';
import type { Download } from '../mirror/fill/fill-run.ts';
import type { QueueDocument } from './documents/queue.ts';

const SHOWN_REQUESTERS = 100;

/** How many downloads run and wait, and for whom. A download for several counts for each. */
export function queueDocument(
  downloads: readonly Download[],
  { serializeImagePulls, maxParallelImagePulls, maxConnections }: Config['pulls'],
): QueueDocument {
  const waiting = downloads.filter(({ state }) => state === 'queued');
  const running = downloads.filter(({ state, holder }) => state === 'downloading' && holder === undefined);
  const requesters = new Map<string, { running: number; waiting: number }>();
  const countOf = (requester: string) => {
    const known = requesters.get(requester) ?? { running: 0, waiting: 0 };
    requesters.set(requester, known);
    return known;
  };
  for (const requester of running.flatMap(download => download.requesters)) countOf(requester).running += 1;
  for (const requester of waiting.flatMap(download => download.requesters)) countOf(requester).waiting += 1;
  const most = [...requesters].map(([requester, counts]) => ({ requester, ...counts }));
  most.sort((one, other) => other.waiting + other.running - one.waiting - one.running);
  return {
    running: running.length,
    waiting: waiting.length,
    maxConnections,
    maxImagePulls: serializeImagePulls ? 1 : (maxParallelImagePulls ?? null),
    requesters: most.slice(0, SHOWN_REQUESTERS),
  };
}
