import type { Digest } from '../oci/digest.ts';
import type { BlobRemoval, BlobStore } from './blob-store.ts';

/** The part of the index that knows which blobs nothing needs. */
export interface StrayIndex {
  ifStray(digest: Digest, act: () => void): Promise<boolean>;
}

/** Removes those of `digests` that have no row and that nothing needs; returns them. */
export async function removeStrays(
  blobs: Pick<BlobStore, 'removal'>,
  index: StrayIndex,
  digests: readonly Digest[],
): Promise<readonly Digest[]> {
  const frees: (() => Promise<void>)[] = [];
  const takeAway = (removal: BlobRemoval) => () => {
    const free = removal.takeAway();
    if (free !== undefined) frees.push(free);
  };
  const prepare = async (digest: Digest) => ({ digest, removal: await blobs.removal(digest) });
  const prepared = await Promise.all(digests.map(prepare));
  // Called in the same tick, and therefore written in one transaction.
  const asked = prepared.map(({ digest, removal }) => index.ifStray(digest, takeAway(removal)));
  const wereStray = await Promise.all(asked);
  await Promise.all(frees.map(free => free()));
  return digests.filter((_, at) => wereStray[at]);
}
