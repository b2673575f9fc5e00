import type { Lease } from '../lib/lease.ts';
import type { MetadataStore } from './metadata-store.ts';

/** The start of the keys of Leases of imports. The setting with the same key tells when the import began. */
export const IMPORT_LEASE = 'importing-';

/** A use within this time after another one may not be recorded. */
const USE_RESOLUTION_MS = 1_000;

/**
 * Acquires the Lease of an import, of which any number may run. While it is held, upkeep leaves content without a Link
 * that was stored or used since, and what was imported since: the import is about to link it, or to pin it.
 */
export async function acquireImportLease(
  metadata: Pick<MetadataStore, 'acquireLease' | 'release' | 'putSetting'>,
): Promise<Lease> {
  // Numbered, so that a crash leaves a key that the next import uses again.
  for (let number = 1; ; number += 1) {
    const key = `${IMPORT_LEASE}${number}`;
    const lease = await metadata.acquireLease(key);
    if (lease === undefined) continue;
    try {
      // Until then, the earlier time of the last import with this key counts.
      await metadata.putSetting(key, String(Date.now() - USE_RESOLUTION_MS));
    } catch (error) {
      await metadata.release(lease);
      throw error;
    }
    return lease;
  }
}
