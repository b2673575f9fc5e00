import { createHash } from 'node:crypto';
import type { Digest } from '../../oci/digest.ts';

/** Whose content a write decides about or changes. */
export interface LockedDigests {
  /** Nobody else writes anything of these. */
  readonly alone?: Iterable<Digest>;
  /** Nobody removes anything of these; others may rely on them, too. */
  readonly shared?: Iterable<Digest>;
}

/**
 * Locks are few, since the server has room for some thousands of all transactions: digests with the same lock only wait
 * for each other without need.
 */
const LOCKS = 1024;

/** What the second number of a lock means is said by the first. */
type Purpose = 'digests' | 'ended rights' | 'migrations';

/** The first number of advisory locks of the schema. They are the database's, and other programs may use some. */
export function lockSpace(schema: string, purpose: Purpose): number {
  return createHash('sha256').update(`entrepot ${purpose} of ${schema}`).digest().readInt32BE(0);
}

/**
 * The statement that takes the locks, until the transaction ends; '' if there are none. Everybody takes them in the same
 * order, and before any row, so that nobody waits in a circle.
 */
export function takeLocks(space: number, { alone = [], shared = [] }: LockedDigests): string {
  const isAlone = new Map<number, boolean>();
  for (const digest of shared) isAlone.set(lockOf(digest), false);
  for (const digest of alone) isAlone.set(lockOf(digest), true);
  if (isAlone.size === 0) return '';
  const calls = [...isAlone]
    .toSorted(([a], [b]) => a - b)
    .map(([lock, taken]) => `pg_advisory_xact_lock${taken ? '' : '_shared'}(${space}, ${lock})`);
  return `SELECT ${calls.join(', ')};`;
}

/** Digests are evenly distributed by their nature, and those that a client invents are hashed like all others. */
function lockOf(digest: Digest): number {
  return createHash('sha256').update(digest).digest().readUInt16BE(0) % LOCKS;
}
