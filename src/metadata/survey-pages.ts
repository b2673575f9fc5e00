import { digestAlgorithm, digestOf, isDigest } from '../oci/digest.ts';
import type { Found } from './survey.ts';

// What surveys of an index in a database have in common.

/** How many rows one query looks at: some tens of milliseconds, so that a survey can pause and be aborted. */
export const ROWS_PER_PAGE = 2_000;
/** A layer that is used everywhere can belong to any number of repositories. */
export const MAX_REPOSITORIES_NAMED = 3;
/** Manifests are read with their bytes. */
export const MANIFESTS_PER_PAGE = 100;

/** Whether the bytes of a manifest match its digest. */
export function isSound(digest: string, bytes: Uint8Array): boolean {
  return isDigest(digest) && digestOf(bytes, digestAlgorithm(digest)) === digest;
}

/** A page of the rows that `choose` selects; after a full page there may be another. */
export function page<Row, T>(
  rows: readonly Row[],
  choose: (row: Row) => T | undefined,
  cursor: (row: Row) => string,
  rowsPerPage = ROWS_PER_PAGE,
): Found<T> {
  const last = rows.length < rowsPerPage ? undefined : rows.at(-1);
  return { entries: rows.flatMap(row => choose(row) ?? []), next: last && cursor(last) };
}

/** Joined by spaces, which names, tags and digests never contain. */
export function joinCursor(...parts: readonly (string | number)[]): string {
  return parts.join(' ');
}

export function splitCursor(cursor: string): [string, string, string] {
  const [first = '', second = '', third = ''] = cursor.split(' ');
  return [first, second, third];
}
