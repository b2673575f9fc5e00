import type { Ingests, RunOptions, Stores } from './stores.ts';

/** Removes an ingest that nobody works on and that is no upload's. False, and nothing done, when it has to stay. */
export async function abandonIngest(
  { metadata, blobs, isOfUpload }: Pick<Stores, 'metadata' | 'blobs'> & Ingests,
  key: string,
  { dryRun }: RunOptions,
): Promise<boolean> {
  if ((await isOfUpload(key)) || (await metadata.isClaimed(key))) {
    return false;
  }
  if (dryRun === true) {
    return true;
  }
  if (!(await metadata.claim(key))) {
    return false;
  }
  try {
    await blobs.abandon(key);
    return true;
  } finally {
    await metadata.release(key);
  }
}
