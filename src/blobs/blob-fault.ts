import type { Digest } from '../oci/digest.ts';
import type { BlobStore, RehashOptions } from './blob-store.ts';
import { unreadableReason } from './unreadable.ts';

/** The fault of a blob that is not stored, or has something else in its place. */
export const FILE_MISSING = 'its file is missing';

/**
 * Reads a blob again. Returns what is wrong with it; `undefined` if nothing is. Rejects with a failure that is not the
 * blob's own damage.
 */
export async function blobFault(
  blobs: Pick<BlobStore, 'rehash'>,
  digest: Digest,
  options: RehashOptions,
): Promise<string | undefined> {
  try {
    const actual = await blobs.rehash(digest, options);
    if (actual === undefined) return FILE_MISSING;
    return actual === digest ? undefined : `its content has the digest ${actual}`;
  } catch (error) {
    const reason = unreadableReason(error);
    if (reason === undefined) throw error;
    return reason;
  }
}
