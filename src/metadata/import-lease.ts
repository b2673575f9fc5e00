import type { Lease, Leases } from '../lib/lease.ts';

/** The start of the keys of Leases of imports. */
export const IMPORT_LEASE = 'importing-';

/**
 * Acquires the Lease of an import, of which any number may run. While one is held, content without a Link is left to
 * the grace period: the import may be about to link it.
 */
export async function acquireImportLease(leases: Pick<Leases, 'acquireLease'>): Promise<Lease> {
  // Numbered, so that a crash leaves a key that the next import uses again.
  for (let number = 1; ; number += 1) {
    const lease = await leases.acquireLease(`${IMPORT_LEASE}${number}`);
    if (lease !== undefined) return lease;
  }
}
