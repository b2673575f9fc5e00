import { removalClaim } from '../metadata/claim-keys.ts';
import type { Content } from '../metadata/metadata-store.ts';
import type { SizedContent } from '../metadata/survey.ts';
import { isDigest } from '../oci/digest.ts';
import { inSteps } from './steps.ts';
import type { Stores } from './stores.ts';

export interface RemovalOptions {
  /** Takes the rows away that may go, with the removal Claims of the blobs among them. Says which went. */
  readonly removeRows: (contents: readonly Content[]) => Promise<readonly Content[]>;
  /** What of the next few is still wanted; all of them if there is no such choice. */
  readonly choose?: (contents: readonly SizedContent[]) => readonly SizedContent[];
  /** Hears of what is gone, rows and bytes. */
  readonly onRemoved: (removed: readonly SizedContent[]) => void;
  readonly signal: AbortSignal | undefined;
}

/**
 * Removes one page of what a survey found: rows, then their bytes. Whoever brings the same blob meanwhile sees the
 * Claim, and waits. A step is one commit, since the Claims of the last one go back in it, and its files go in the pause
 * that follows.
 */
export async function removeContents(
  { rows, blobs }: Stores,
  contents: readonly SizedContent[],
  { removeRows, choose = all => all, onRemoved, signal }: RemovalOptions,
): Promise<void> {
  let claims: readonly string[] = [];
  const transact = async (step: readonly SizedContent[]) => {
    const wanted = choose(step);
    // Asked in one turn, and so written in one transaction.
    const [gone] = await Promise.all([removeRows(wanted), rows.release(...claims)]);
    // What comes back from the thread is a copy.
    const names = new Set(gone.map(nameOf));
    const removed = wanted.filter(content => names.has(nameOf(content)));
    claims = blobsAmong(removed).map(removalClaim);
    return removed;
  };
  const removeBytes = async (removed: readonly SizedContent[]) => {
    // A row whose digest was damaged names no file.
    await Promise.all(
      blobsAmong(removed)
        .filter(isDigest)
        .map(digest => blobs.remove(digest)),
    );
    onRemoved(removed);
  };
  try {
    await inSteps(contents, signal, transact, removeBytes);
  } finally {
    // Not later: finding the next page may take a while.
    await rows.release(...claims);
  }
}

function blobsAmong(contents: readonly Content[]) {
  return contents.filter(({ kind }) => kind === 'blob').map(({ digest }) => digest);
}

function nameOf({ kind, digest }: Content): string {
  return `${kind} ${digest}`;
}
