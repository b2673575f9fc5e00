import type { Content } from '../metadata/metadata-store.ts';
import type { SizedContent } from '../metadata/survey.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { inSteps } from './steps.ts';
import type { Stores } from './stores.ts';

export interface RemovalOptions {
  /** Takes the rows away that may go. Says which went. */
  readonly removeRows: (contents: readonly Content[]) => Promise<readonly Content[]>;
  /** What of the next few is still wanted; all of them if there is no such choice. */
  readonly choose?: (contents: readonly SizedContent[]) => readonly SizedContent[];
  /** Hears of what is gone; the bytes follow. */
  readonly onRemoved: (removed: readonly SizedContent[]) => void;
  readonly signal: AbortSignal | undefined;
}

/**
 * Removes one page of what a survey found: rows, then their bytes, which go in a transaction that sees that they have no
 * row: one that was written meanwhile, by whoever brought the same blob again, keeps them. So nobody has to wait for
 * this, and it may be paused anywhere. A step is one commit, with the bytes of the step before.
 */
export async function removeContents(
  { rows }: Stores,
  contents: readonly SizedContent[],
  { removeRows, choose = all => all, onRemoved, signal }: RemovalOptions,
): Promise<void> {
  let rowless: readonly Digest[] = [];
  const transact = async (step: readonly SizedContent[]) => {
    const wanted = choose(step);
    // Asked in one turn, and so written in one transaction.
    const [gone] = await Promise.all([removeRows(wanted), rows.removeStrays(rowless)]);
    // What comes back from the thread is a copy.
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

/** A row whose digest was damaged names no file. */
function blobsAmong(contents: readonly Content[]): readonly Digest[] {
  return contents.flatMap(({ kind, digest }) => (kind === 'blob' && isDigest(digest) ? [digest] : []));
}

function nameOf({ kind, digest }: Content): string {
  return `${kind} ${digest}`;
}
