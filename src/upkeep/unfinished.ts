import type { FoundIngest } from '../blobs/spool.ts';
import { isLeased } from '../lib/lease.ts';
import type { Ingests, RunOptions, Stores } from './stores.ts';

/**
 * Removes an ingest that nobody writes and that belongs to no upload. False, without doing anything, if it has to stay.
 * May be suspended anywhere: the next holder's ingest has another name.
 */
export async function abandonIngest(
  { metadata, spool, isOfUpload }: Pick<Stores, 'metadata' | 'spool'> & Ingests,
  ingest: FoundIngest,
  { dryRun }: RunOptions,
): Promise<boolean> {
  const { key } = ingest;
  if ((await isOfUpload(key)) || (await isLeased(metadata, key))) {
    return false;
  }
  if (dryRun === true) {
    return true;
  }
  const lease = await metadata.acquireLease(key);
  if (lease === undefined) {
    return false;
  }
  try {
    await spool.abandon(ingest);
    return true;
  } finally {
    // Another ingest of this key may wait for its next holder.
    const isAll = lease.left === undefined || lease.left.epoch === ingest.epoch;
    await (isAll ? metadata.release(lease) : metadata.setAside(lease));
  }
}
