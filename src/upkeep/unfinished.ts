import type { FoundIngest } from '../blobs/spool.ts';
import type { Ingests, RunOptions, Stores } from './stores.ts';

/**
 * Removes an ingest that nobody works on and that is no upload's. False, and nothing done, when it has to stay. Paused
 * anywhere it harms nobody: what the next holder makes has another name.
 */
export async function abandonIngest(
  { metadata, spool, isOfUpload }: Pick<Stores, 'metadata' | 'spool'> & Ingests,
  ingest: FoundIngest,
  { dryRun }: RunOptions,
): Promise<boolean> {
  const { key } = ingest;
  if ((await isOfUpload(key)) || (await metadata.isClaimed(key))) {
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
    // Another one of this key may wait for its next holder.
    const isAll = lease.left === undefined || lease.left.epoch === ingest.epoch;
    await (isAll ? metadata.release(lease) : metadata.setAside(lease));
  }
}
