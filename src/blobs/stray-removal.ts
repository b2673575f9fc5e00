import type { Digest } from '../oci/digest.ts';
import type { BlobStore } from './blob-store.ts';

/** The part of the index that knows which blobs nothing needs. */
export interface StrayIndex {
  ifStray(digests: readonly Digest[], act: (digest: Digest) => void): Promise<readonly Digest[]>;
}

/** Removes those of `digests` that have no row and that nothing needs; returns them. */
export async function removeStrays(
  blobs: Pick<BlobStore, 'removal'>,
  index: StrayIndex,
  digests: readonly Digest[],
): Promise<readonly Digest[]> {
  if (digests.length === 0) return [];
  const frees: (() => Promise<void>)[] = [];
  const prepare = async (digest: Digest) => [digest, await blobs.removal(digest)] as const;
  const removals = new Map(await Promise.all(digests.map(prepare)));
  const strays = await index.ifStray(digests, digest => {
    const free = removals.get(digest)?.takeAway();
    if (free !== undefined) frees.push(free);
  });
  await Promise.all(frees.map(free => free()));
  return strays;
}
