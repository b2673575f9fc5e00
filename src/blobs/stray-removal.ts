import type { Digest } from '../oci/digest.ts';
import type { BlobStore } from './blob-store.ts';

/** The part of the index that knows which blobs nothing needs. */
export interface StrayIndex {
  ifStray(digest: Digest, act: () => void): Promise<boolean>;
}

/** Removes those of `digests` that have no row and that nothing needs; returns them. */
export async function removeStrays(
  blobs: Pick<BlobStore, 'takeAway'>,
  index: StrayIndex,
  digests: readonly Digest[],
): Promise<readonly Digest[]> {
  const frees: (() => Promise<void>)[] = [];
  const takeAway = (digest: Digest) => () => {
    const free = blobs.takeAway(digest);
    if (free !== undefined) frees.push(free);
  };
  // Called in the same tick, and therefore written in one transaction.
  const wereStray = await Promise.all(digests.map(digest => index.ifStray(digest, takeAway(digest))));
  await Promise.all(frees.map(free => free()));
  return digests.filter((_, at) => wereStray[at]);
}
