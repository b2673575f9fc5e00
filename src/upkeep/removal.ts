import type { Content } from '../metadata/metadata-store.ts';
import type { SizedContent } from '../metadata/survey.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { inSteps } from './steps.ts';
import type { Stores } from './stores.ts';

export interface RemovalPlan {
  /** Removes the rows that may be removed. Returns the removed contents. */
  readonly removeRows: (contents: readonly Content[]) => Promise<readonly Content[]>;
  /** Selects which of the next few are still to be removed; all if absent. */
  readonly choose?: (contents: readonly SizedContent[]) => readonly SizedContent[];
  /** Called with what was removed; the bytes follow. */
  readonly onRemoved: (removed: readonly SizedContent[]) => void;
  readonly signal: AbortSignal | undefined;
}

/**
 * Removes one page of what a survey found: first rows, then bytes. Bytes are removed in a transaction that checks that
 * they have no row, so a row that was written meanwhile, because the blob was downloaded again, keeps them. Nobody has
 * to wait for this, and it may be suspended anywhere. Each step is one commit, together with the bytes of the step
 * before.
 */
export async function removeContents(
  { rows }: Stores,
  contents: readonly SizedContent[],
  { removeRows, choose = all => all, onRemoved, signal }: RemovalPlan,
): Promise<void> {
  let rowless: readonly Digest[] = [];
  const transact = async (step: readonly SizedContent[]) => {
    const wanted = choose(step);
    // Called in the same tick, and therefore written in one transaction.
    const [gone] = await Promise.all([removeRows(wanted), rows.removeStrays(rowless)]);
    // The thread returns copies.
    const names = new Set(gone.map(nameOf));
    const removed = wanted.filter(content => names.has(nameOf(content)));
    rowless = blobsAmong(removed);
    return removed;
  };
  try {
    await inSteps(contents, signal, transact, onRemoved);
  } finally {
    await rows.removeStrays(rowless);
  }
}

/** A row with a damaged digest has no file. */
function blobsAmong(contents: readonly Content[]): readonly Digest[] {
  return contents.flatMap(({ kind, digest }) => (kind === 'blob' && isDigest(digest) ? [digest] : []));
}

function nameOf({ kind, digest }: Content): string {
  return `${kind} ${digest}`;
}
