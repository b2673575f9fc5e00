import type { Digest } from '../oci/digest.ts';

/**
 * The Claim of who removes a blob: taken before its row goes and released when its bytes are gone. Who makes a blob
 * writes the row, then waits until nobody holds this, then looks whether the bytes are still there. As removal takes
 * no row that a Link names, one of the two sees the other.
 */
export function removalClaim(digest: Digest): string {
  return `remove-${digest}`;
}
